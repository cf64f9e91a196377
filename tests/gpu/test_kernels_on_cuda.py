"""The kernels on CUDA, deterministic algorithms on, against the float64 loops on the CPU."""

import oracles
import pytest
import segment_oracles
import sibling_oracles
import torch
from branching import REWARDS, SHRINKAGES, trees
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DECAYS, STYLES, groups_of_completions, masks, padded
from test_segments import cut_completions

from trl_lambda.functional import (
    branch_advantages,
    branch_weights,
    eligibility_trace,
    lambda_return,
    prefix_sets,
    sibling_baselines,
    trace_weights,
    tree_td_errors,
)
from trl_lambda.functional.segments import (
    SegmentValues,
    segment_lambda_return,
    segment_numbers,
    segment_td_errors,
)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("deterministic")]

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
# Sums of forty terms of about one; `both` takes one sum from another.
LIMITS = {torch.float64: TIGHT, torch.float32: {"rtol": 1e-4, "atol": 1e-4}}
DTYPES = pytest.mark.parametrize("dtype", LIMITS)


def assert_found(found, want, device, **limits):
    """`found` is on the device, and holds what the CPU's loop says."""
    assert found.device.type == device.type
    torch.testing.assert_close(found.detach().cpu().double(), want.double(), **(limits or TIGHT))


def normal(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def rewards_of(data, B: int, device):
    drawn = data.draw(st.lists(REWARDS, min_size=B, max_size=B))
    return drawn, torch.tensor(drawn, dtype=torch.float64, device=device)


@DTYPES
@given(masks(), DECAYS, STYLES, st.booleans(), st.integers(0, 99))
def test_traces_and_their_gradient(device, dtype, mask, decay, style, normalize, seed):
    x = normal(mask.shape, seed).to(device, dtype).requires_grad_()
    y = normal(mask.shape, seed + 1).to(device, dtype)
    options = {"decay": decay, "style": style, "normalize": normalize}
    on_device = mask.to(device)
    forward = eligibility_trace(x, on_device, **options)
    backward = lambda_return(y, on_device, **options)
    asked = (mask, decay, style, normalize)
    assert_found(forward, oracles.trace(x.detach().cpu(), *asked), device, **LIMITS[dtype])
    assert_found(backward, oracles.transposed(y.cpu(), *asked), device, **LIMITS[dtype])
    (forward * y).sum().backward()
    assert_found(x.grad, oracles.transposed(y.cpu(), *asked), device, **LIMITS[dtype])


@given(masks(), DECAYS, STYLES)
def test_trace_weights(device, mask, decay, style):
    found = trace_weights(mask.double().to(device), decay=decay, style=style)
    assert_found(found, oracles.row_sums(mask, decay, style), device)


@pytest.mark.parametrize("style", ["recent", "both"])
def test_a_long_completion_is_bit_for_bit_the_same_twice(device, style):
    x, mask = normal((4, 8192), 0).to(device), torch.ones(4, 8192, device=device)
    decays = torch.tensor([0.0, 0.9, 0.999, 1.0], device=device, dtype=torch.float64)
    for decay in (0.99, decays):
        found = [lambda_return(x, mask, decay=decay, style=style) for _ in range(2)]
        assert torch.equal(*found)
        on_cpu = decay.cpu() if isinstance(decay, torch.Tensor) else decay
        want = lambda_return(x.cpu(), mask.cpu(), decay=on_cpu, style=style)
        assert_found(found[0], want, device, rtol=1e-10, atol=1e-9)


@given(groups_of_completions(), st.integers(0, 2), st.data())
def test_process_sets_and_the_tree(device, group, extra, data):
    ids, groups = group
    drawn, rewards = rewards_of(data, len(ids), device)
    tokens, lengths = padded(ids, extra=extra)
    sets = prefix_sets(tokens.to(device), lengths.to(device), torch.tensor(groups, device=device))
    sizes = sets.sizes()
    assert sizes.device.type == device.type
    found = [row[:n].tolist() for row, n in zip(sizes, lengths, strict=True)]
    assert found == oracles.set_sizes(ids, groups)
    values = oracles.prefix_values(ids, groups, drawn, tokens.shape[1])
    assert_found(sets.mean(rewards), values, device)
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    ones = torch.ones(len(ids), dtype=torch.float64, device=device)
    delta = tree_td_errors(sets.mean(rewards), mask.to(device), ones)
    assert_found(delta, (values[:, 1:] - values[:, :-1]) * mask, device)


@given(groups_of_completions(), SHRINKAGES, st.data())
def test_sibling_baselines(device, group, shrinkage, data):
    ids, groups = group
    drawn, rewards = rewards_of(data, len(ids), device)
    tokens, lengths = padded(ids)
    sets = prefix_sets(tokens.to(device), lengths.to(device), torch.tensor(groups, device=device))
    want = sibling_oracles.sibling_baselines(
        sibling_oracles.by_tokens(ids), lengths.tolist(), groups, drawn, tokens.shape[1], shrinkage
    )
    assert_found(sibling_baselines(rewards, sets, shrinkage=shrinkage), want, device)


@given(trees(), SHRINKAGES, st.sampled_from(["leaves", "children"]), st.data())
def test_branched_groups(device, tree, shrinkage, averaging, data):
    drawn, rewards = rewards_of(data, len(tree.ids), device)
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    sets = tree.sets(device=device)
    found = branch_advantages(rewards, sets, shrinkage=shrinkage, values=averaging)
    there = torch.arange(tree.width) < torch.tensor(tree.lengths)[:, None]
    want = sibling_oracles.branch_advantages(
        writer, tree.lengths, tree.groups, drawn, tree.width, shrinkage, averaging
    )
    assert_found(found.masked_fill(~there.to(device), 0.0), want, device)
    groups = torch.tensor(tree.groups, device=device)
    weights = branch_weights(tree.branches(device), groups, tree.width)
    want = sibling_oracles.branch_weights(writer, tree.groups, tree.width)
    assert_found(weights, want, device, rtol=1e-6, atol=0)


@settings(max_examples=40)
@given(cut_completions(), DECAYS, STYLES, st.booleans())
def test_the_return_over_segments(device, case, decay, style, normalize):
    ends, mask, values, rewards, std = case
    number = segment_numbers(ends.to(device), mask.to(device))
    used = torch.ones(len(rewards), dtype=torch.bool, device=device)
    critic = SegmentValues(values.to(device), rewards.to(device), used)
    delta = segment_td_errors(critic, number, std.to(device))
    found = segment_lambda_return(delta, number, decay=decay, style=style, normalize=normalize)
    want = [
        segment_oracles.probe_credit(*row, decay, style, normalize)
        for row in zip(*(part.tolist() for part in (ends, mask, values, rewards, std)), strict=True)
    ]
    assert_found(found, torch.tensor(want, dtype=torch.float64).reshape(mask.shape), device)
