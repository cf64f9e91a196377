"""Hypothesis strategies shared by the property tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

DECAYS = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]), st.floats(0.0, 1.0))
STYLES = st.sampled_from(["recent", "both"])


@st.composite
def masks(draw, max_rows: int = 5, max_width: int = 40):
    """0/1 masks with holes, full rows and empty rows."""
    B, T = draw(st.integers(1, max_rows)), draw(st.integers(0, max_width))
    row = st.lists(st.sampled_from([0, 1, 1]), min_size=T, max_size=T)
    rows = draw(st.lists(row, min_size=B, max_size=B))
    return torch.tensor(rows, dtype=torch.long).reshape(B, T)


@st.composite
def groups_of_completions(draw, max_rows: int = 8, max_length: int = 8):
    """(ids, groups): ragged completions over few tokens, so that prefixes are shared."""
    B = draw(st.integers(1, max_rows))
    completion = st.lists(st.integers(0, 2), max_size=max_length)
    ids = draw(st.lists(completion, min_size=B, max_size=B))
    groups = draw(st.lists(st.integers(-1, 1), min_size=B, max_size=B))
    return ids, groups


def padded(ids, filler: int = 0, extra: int = 0):
    """(token_ids, lengths) of ragged completions."""
    width = max(map(len, ids), default=0) + extra
    rows = [list(row) + [filler] * (width - len(row)) for row in ids]
    lengths = torch.tensor([len(row) for row in ids])
    return torch.tensor(rows, dtype=torch.long).reshape(len(ids), width), lengths
