"""Traces and process sets against other ways to have the same numbers, over T.

Each row is checked: what the alternative finds is what ours finds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trl_lambda.functional import (
    eligibility_trace,
    lambda_return,
    prefix_sets,
    process_set_sizes,
    sibling_gains,
    tree_td_errors,
)

from .measuring import megabytes, milliseconds

LENGTHS = (1024, 4096, 16384, 65536)
LARGEST_MATRIX = (
    2e9  # bytes; the dense W of T = 65536 has 17e9, and takes three times that to build
)
DECAY = 0.99


def dense_trace_matrix(T: int, decay: float, style: str) -> Tensor:
    t = torch.arange(T, dtype=torch.float32)
    lag = t[:, None] - t
    weight = decay ** lag.clamp(min=0)
    if style == "both":
        weight = torch.maximum(weight, decay**t)
    return weight.where(lag >= 0, 0.0)


def traces(repeats: int, lengths: tuple[int, ...] = LENGTHS) -> list[dict]:
    """16 rows of float32 against the T×T product: with W built for it, and with W at hand."""
    rows = []
    for T in lengths:
        x, mask = torch.randn(16, T), torch.ones(16, T)
        for style in ("recent", "both"):
            rows += _traces_of(x, mask, style, repeats)
    return rows


def _traces_of(x: Tensor, mask: Tensor, style: str, repeats: int) -> list[dict]:
    T = x.shape[1]
    kernels = {"eligibility trace": eligibility_trace, "λ-return": lambda_return}
    ours = {
        name: {
            "what": f"{name}, {style}",
            "T": T,
            "ours_ms": milliseconds(lambda f=f: f(x, mask, decay=DECAY, style=style), repeats),
            "ours_mb": megabytes(lambda f=f: f(x, mask, decay=DECAY, style=style)),
        }
        for name, f in kernels.items()
    }
    if 4 * T * T > LARGEST_MATRIX:
        return [row | {"baseline": "dense W does not fit"} for row in ours.values()]
    W = dense_trace_matrix(T, DECAY, style)
    product = {"eligibility trace": lambda: x @ W.T, "λ-return": lambda: x @ W}
    few = max(2, min(3, repeats))
    build = milliseconds(lambda: dense_trace_matrix(T, DECAY, style), few)
    rows = []
    for name, kernel in kernels.items():
        found = kernel(x, mask, decay=DECAY, style=style)
        torch.testing.assert_close(found, product[name](), rtol=1e-3, atol=1e-2)
        multiply = milliseconds(product[name], few)
        memory = {"baseline_mb": 4e-6 * T * T}
        rows += [
            ours[name]
            | {"baseline": "build W, multiply", "baseline_ms": build + multiply}
            | memory,
            ours[name] | {"baseline": "multiply, W at hand", "baseline_ms": multiply} | memory,
        ]
    return rows


def prefix_tree_sizes(groups: list[list[list[int]]]) -> list[list[int]]:
    """Process-set sizes by a prefix tree in Python: nodes are numbers, one dict holds the edges."""
    sizes = []
    for completions in groups:
        edges: dict[tuple[int, int], int] = {}
        counts: list[int] = []
        paths = []
        for tokens in completions:
            node, path = -1, []
            for token in tokens:
                edge = (node, token)
                node = edges.get(edge, -1)
                if node < 0:
                    node = edges[edge] = len(counts)
                    counts.append(0)
                counts[node] += 1
                path.append(node)
            paths.append(path)
        sizes += [[counts[node] for node in path] for path in paths]
    return sizes


def pairwise_sizes(ids_BT: Tensor, lengths_B: Tensor, size: int) -> Tensor:
    """Process-set sizes by comparing each completion with each of its group: O(B·G·T)."""
    P, T = len(ids_BT) // size, ids_BT.shape[1]
    ids_PGT = ids_BT.view(P, size, T)
    there_PGT = (torch.arange(T) < lengths_B[:, None]).view(P, size, T)
    same_PGGT = (ids_PGT[:, :, None] == ids_PGT[:, None]) & there_PGT[:, :, None]
    same_PGGT &= there_PGT[:, None]
    return same_PGGT.byte().cummin(-1).values.sum(2).view(-1, T)


def ragged_completions(groups: int, size: int, longest: int) -> list[list[list[int]]]:
    """Completions of uneven length that leave each other after up to 64 shared tokens."""
    generator = torch.Generator().manual_seed(0)

    def draw(high: int, count: int) -> list[int]:
        return torch.randint(0, high, (count,), generator=generator).tolist()

    result = []
    for _ in range(groups):
        stem = draw(50_000, 64)
        lengths = [longest - n for n in draw(longest // 2, size)]
        shared = draw(64, size)
        result.append(
            [stem[:own] + draw(50_000, n - own) for n, own in zip(lengths, shared, strict=True)]
        )
    return result


def process_sets(repeats: int, lengths: tuple[int, ...] = LENGTHS) -> list[dict]:
    """8 groups of 8 against a prefix tree in Python and the comparison of all pairs."""
    rows = []
    for T in lengths:
        rows += _process_sets_of("branching", ragged_completions(8, 8, T), T, repeats)
    T = min(16384, lengths[-1])
    return rows + _process_sets_of("all identical", [[[7] * T] * 8] * 8, T, repeats)


def _process_sets_of(what: str, groups: list, T: int, repeats: int) -> list[dict]:
    flat = [tokens for group in groups for tokens in group]
    lengths = torch.tensor([len(tokens) for tokens in flat])
    ids = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, flat)), batch_first=True)
    arguments = (ids, lengths, torch.arange(len(flat)) // 8)
    found = process_set_sizes(*arguments)
    assert [row[row > 0].tolist() for row in found] == prefix_tree_sizes(groups)
    assert torch.equal(found, pairwise_sizes(ids, lengths, 8).to(found.dtype))
    ours = {
        "what": what,
        "T": T,
        "ours_ms": milliseconds(lambda: process_set_sizes(*arguments), repeats),
        "ours_mb": megabytes(lambda: process_set_sizes(*arguments)),
    }
    few = max(2, min(5, repeats))
    return [
        ours
        | {
            "baseline": "prefix tree in Python",
            "baseline_ms": milliseconds(lambda: prefix_tree_sizes(groups), few),
        },
        ours
        | {
            "baseline": "all pairs of a group",
            "baseline_ms": milliseconds(lambda: pairwise_sizes(ids, lengths, 8), few),
            "baseline_mb": megabytes(lambda: pairwise_sizes(ids, lengths, 8)),
        },
        _sibling_beside_tree(what, arguments, T, repeats),
    ]


def _sibling_beside_tree(
    what: str, arguments: tuple[Tensor, Tensor, Tensor], T: int, repeats: int
) -> dict:
    """δ of `sibling` beside that of `tree`, from process sets that are there already."""
    sets = prefix_sets(*arguments)
    ids, lengths, _ = arguments
    rewards = torch.rand(len(ids), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    ones = torch.ones(len(ids))

    def sibling() -> Tensor:
        return sibling_gains(rewards, sets) / ones[:, None] * mask

    def tree() -> Tensor:
        return tree_td_errors(sets.mean(rewards), mask, ones)

    return {
        "what": f"{what}: sibling",
        "T": T,
        "ours_ms": milliseconds(sibling, repeats),
        "ours_mb": megabytes(sibling),
        "baseline": "tree",
        "baseline_ms": milliseconds(tree, repeats),
        "baseline_mb": megabytes(tree),
    }
