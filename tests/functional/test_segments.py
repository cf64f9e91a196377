"""Segments: against naive loops, and the identities of the λ-return over them, in float64."""

import pytest
import segment_oracles
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DECAYS, STYLES, masks

from trl_lambda.functional import lambda_return
from trl_lambda.functional.segments import (
    SegmentValues,
    segment_counts,
    segment_lambda_return,
    segment_numbers,
    segment_starts,
    segment_td_errors,
)

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@st.composite
def cut_completions(draw):
    """(ends, mask, values, rewards, std): any of a mask's tokens may end a segment."""
    mask = draw(masks(max_width=20).filter(lambda drawn: drawn.shape[1]))
    seed = draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(mask.shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    B, T = mask.shape
    values = torch.randn(B, T + 1, dtype=torch.float64, generator=generator)
    rewards = torch.randn(B, dtype=torch.float64, generator=generator)
    std = torch.rand(B, dtype=torch.float64, generator=generator) + 0.1
    return ends, mask, values, rewards, std


def everywhere(values, rewards) -> SegmentValues:
    return SegmentValues(values, rewards, torch.ones(len(rewards), dtype=torch.bool))


def credit(case, decay, **options):
    ends, mask, values, rewards, std = case
    number = segment_numbers(ends, mask)
    delta = segment_td_errors(everywhere(values, rewards), number, std)
    return segment_lambda_return(delta, number, decay=decay, **options), number, delta


@given(cut_completions())
def test_numbers_and_starts_are_those_of_the_loop(case):
    ends, mask, *_ = case
    number, starts = segment_numbers(ends, mask), segment_starts(segment_numbers(ends, mask))
    counts = segment_counts(number)
    for i in range(mask.shape[0]):
        segments = segment_oracles.cut(ends[i].tolist(), mask[i].tolist())
        want = torch.full(mask.shape[1:], -1)
        for k, segment in enumerate(segments):
            want[segment] = k
            assert starts[i, k] == segment[0]
        assert torch.equal(number[i], want)
        assert counts[i] == len(segments)


@given(cut_completions(), DECAYS, STYLES, st.booleans())
def test_credit_is_that_of_the_loop(case, decay, style, normalize):
    found, *_ = credit(case, decay, style=style, normalize=normalize)
    ends, mask, values, rewards, std = case
    for i in range(mask.shape[0]):
        want = segment_oracles.probe_credit(
            ends[i].tolist(),
            mask[i].tolist(),
            values[i].tolist(),
            rewards[i].item(),
            std[i].item(),
            decay,
            style,
            normalize,
        )
        torch.testing.assert_close(found[i], torch.tensor(want, dtype=torch.float64), **EXACT)


def assert_on_policy_tokens(found, want, number):
    torch.testing.assert_close(found, want.masked_fill(number < 0, 0.0), **EXACT)


@given(cut_completions())
def test_td_errors_telescope_to_the_reward_less_the_first_value(case):
    _, number, delta = credit(case, 0.5)
    _, _, values, rewards, std = case
    has_tokens = (number >= 0).any(1)
    want = ((rewards - values[:, 0]) / std).masked_fill(~has_tokens, 0.0)
    torch.testing.assert_close(delta.sum(1), want, **EXACT)


@given(cut_completions())
def test_without_decay_it_is_the_reward_less_the_value(case):
    found, number, _ = credit(case, 1.0)
    _, _, values, rewards, std = case
    before = values.gather(1, number.clamp(min=0))
    assert_on_policy_tokens(found, (rewards[:, None] - before) / std[:, None], number)


@given(cut_completions())
def test_decay_zero_is_progress_alone(case):
    found, number, delta = credit(case, 0.0)
    sums = torch.zeros_like(found)
    for i in range(number.shape[0]):
        for k in range(int(number[i].max()) + 1):
            sums[i, number[i] == k] = delta[i, number[i] == k].sum()
    torch.testing.assert_close(found, sums, **EXACT)


@given(cut_completions())
def test_the_others_mean_as_the_value_and_no_decay_are_rloo(case):
    ends, mask, values, rewards, std = case
    baseline = torch.tensor(
        segment_oracles.leave_one_out(rewards.tolist(), [0] * len(rewards)), dtype=torch.float64
    )
    constant = baseline[:, None].expand(values.shape)
    found, number, _ = credit((ends, mask, constant, rewards, std), 1.0)
    want = ((rewards - baseline) / std)[:, None].expand(found.shape)
    assert_on_policy_tokens(found, want, number)


@given(cut_completions(), DECAYS)
def test_one_segment_is_a_plain_baseline(case, decay):
    _, mask, values, rewards, std = case
    found, number, _ = credit((torch.zeros_like(mask), mask, values, rewards, std), decay)
    want = ((rewards - values[:, 0]) / std)[:, None].expand(found.shape)
    assert_on_policy_tokens(found, want, number)


@given(cut_completions())
def test_without_decay_steps_and_tokens_are_one(case):
    found, number, delta = credit(case, 1.0)
    first = torch.nn.functional.pad(number.cummax(1)[0][:, :-1], (1, 0), value=-1) < number
    by_token = lambda_return(delta, number >= 0, decay=1.0)
    torch.testing.assert_close(found[first], by_token[first], **EXACT)


@given(cut_completions())
def test_each_segment_a_token_is_the_trace_over_tokens(case):
    _, mask, values, rewards, std = case
    found, number, delta = credit((torch.ones_like(mask), mask, values, rewards, std), 0.7)
    torch.testing.assert_close(found, lambda_return(delta, number >= 0, decay=0.7), **EXACT)


@given(cut_completions(), STYLES, st.booleans())
def test_a_decay_for_each_row_is_that_row_alone(case, style, normalize):
    rewards = case[3]
    decays = torch.linspace(0, 1, len(rewards), dtype=torch.float64)
    found, *_ = credit(case, decays, style=style, normalize=normalize)
    for i, decay in enumerate(decays.tolist()):
        row = (part[i : i + 1] for part in case)
        alone, *_ = credit(tuple(row), decay, style=style, normalize=normalize)
        torch.testing.assert_close(found[i : i + 1], alone, **EXACT)


def test_rows_that_are_not_used_and_infinite_denominators_give_zeros():
    number = segment_numbers(torch.tensor([[0, 1, 0]] * 3), torch.ones(3, 3))
    values = SegmentValues(
        torch.full((3, 2), torch.nan, dtype=torch.float64),
        torch.ones(3, dtype=torch.float64),
        torch.tensor([False, True, True]),
    )
    values.value_BS[2] = 0.25
    std = torch.tensor([1.0, torch.inf, 0.5], dtype=torch.float64)
    assert segment_td_errors(values, number, std).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1.5]]


def test_worked_by_hand():
    """Three segments of 2, 1 and 1 tokens with a tool's token in the middle of the first."""
    mask = torch.tensor([[1, 0, 1, 1, 1, 0]])
    ends = torch.tensor([[0, 0, 1, 1, 0, 0]])
    number = segment_numbers(ends, mask)
    assert number.tolist() == [[0, -1, 0, 1, 2, -1]]
    assert segment_starts(number)[0, :3].tolist() == [0, 3, 4]
    values = everywhere(torch.tensor([[0.5, 0.25, 0.75]]).double(), torch.ones(1).double())
    delta = segment_td_errors(values, number, torch.ones(1).double())
    assert delta.tolist() == [[0, 0, -0.25, 0.5, 0.25, 0]]
    found = segment_lambda_return(delta, number, decay=0.5)
    assert found.tolist() == [[0.0625, 0, 0.0625, 0.625, 0.25, 0]]


@pytest.mark.parametrize("ends", [[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]])
def test_an_end_on_a_masked_token_is_at_the_policy_token_before_it(ends):
    """Twice the same end is one, and none stands before the first policy token."""
    mask = torch.tensor([[0, 1, 0, 1]])
    number = segment_numbers(torch.tensor([ends]), mask)
    first_only = ends[1] == ends[2] == 0
    assert number.tolist() == [[-1, 0, -1, 0 if first_only else 1]]
