import math

import pytest
import torch
from strategies import padded
from worked_groups import WORKED_GROUPS

from trl_lambda.functional import process_set_sizes
from trl_lambda.metrics import (
    gain_statistics,
    process_set_statistics,
    traced_ratio_statistics,
    zero_variance_share,
)


def means(statistics):
    return {name: (total / count).item() for name, (total, count) in statistics.items()}


@pytest.mark.parametrize("group", WORKED_GROUPS, ids=lambda group: group[0])
def test_process_set_metrics_of_worked_groups(group):
    _, ids, sizes, depths, proportions, trivial, _ = group
    tokens, lengths = padded(ids)
    group_ids = torch.zeros(len(ids), dtype=torch.long)
    got = means(process_set_statistics(process_set_sizes(tokens, lengths, group_ids), len(ids)))
    flat = [n for row in sizes for n in row]
    known = [p for p in proportions if not math.isnan(p)]
    assert got == {
        "process_sets/size": pytest.approx(sum(flat) / len(flat)),
        "process_sets/path_depth": pytest.approx(sum(depths) / len(depths)),
        "process_sets/intermediate_proportion": pytest.approx(sum(known) / len(known)),
        "process_sets/trivial_groups": float(trivial),
    }


def test_tenths_count_policy_tokens():
    # 20 policy tokens behind a hole of two: a tenth is two tokens.
    mask = torch.tensor([[1] * 5 + [0, 0] + [1] * 15])
    gains = (mask.cumsum(1) - 1).float()
    assert means(gain_statistics(gains, mask)) == {
        "trace/gain_first_tenth": 0.5,
        "trace/gain_middle_tenth": 9.5,
        "trace/gain_last_tenth": 18.5,
    }


@pytest.mark.parametrize(("n", "tenth"), [(9, 1), (10, 1), (11, 2), (14, 2), (15, 2), (21, 3)])
def test_a_tenth_is_rounded_up(n, tenth):
    gains = torch.arange(n).float()[None]
    got = means(gain_statistics(gains, torch.ones(1, n)))
    assert got["trace/gain_first_tenth"] == (tenth - 1) / 2
    assert got["trace/gain_last_tenth"] == n - 1 - (tenth - 1) / 2


def test_tenths_of_short_and_empty_completions():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    gains = torch.tensor([[1.0, 2.0, 3.0], [5.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    assert means(gain_statistics(gains, mask)) == {
        "trace/gain_first_tenth": 3.0,
        "trace/gain_middle_tenth": 3.5,
        "trace/gain_last_tenth": 4.0,
    }


def test_traced_ratio_metrics():
    z = torch.tensor([[0.0, -0.5, 0.1, 30.0, 99.0]])
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    got = means(traced_ratio_statistics(z, mask, limit=20.0, lower=0.8, upper=1.2))
    want = {"trace/z_abs_mean": 30.6 / 4, "trace/z_clamped": 0.25, "trace/ratio_clipped": 0.5}
    assert got == pytest.approx(want)


@pytest.mark.parametrize(
    ("rewards", "share"),
    [
        ([1.0, 1.0, 0.0, 1.0], 0.5),
        ([1.0, math.nan, math.nan, math.nan], 1.0),
        ([1.0, 0.0, 0.5, 0.0], 0.0),
        ([1.0, 1.0 + 1e-6, 1e-9, 0.0], 0.0),  # small differences are differences
        ([0.3, 0.3, 1e-4, 1e-4], 1.0),
    ],
)
def test_zero_variance_groups(rewards, share):
    assert zero_variance_share(torch.tensor(rewards), 2) == share
