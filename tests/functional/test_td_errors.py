import math

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import groups_of_completions, masks, padded

from trl_lambda.functional import (
    group_mean,
    lambda_return,
    prefix_sets,
    prefix_values,
    reward_denominator,
    step_td_errors,
    terminal_td_errors,
    tree_td_errors,
)
from trl_lambda.functional.td_errors import normalize_steps, place_steps

SCALES = st.sampled_from(["group", "batch", "none"])
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


@st.composite
def step_lists(draw):
    """(steps, mask, groups)."""
    mask = draw(masks(max_width=8).filter(lambda mask: mask.shape[1] > 0))
    step = st.tuples(st.integers(0, mask.shape[1] - 1), st.floats(-3, 3))
    own = st.one_of(st.none(), st.lists(step, max_size=4))
    steps = draw(st.lists(own, min_size=len(mask), max_size=len(mask)))
    groups = draw(st.lists(st.integers(0, 1), min_size=len(mask), max_size=len(mask)))
    return steps, mask, groups


@given(step_lists(), SCALES)
def test_step_errors_equal_the_definition(case, scale):
    steps, mask, groups = case
    got = step_td_errors(steps, mask.double(), torch.tensor(groups), scale=scale)
    # Rewards that all but agree make the deviation, and with it the quotient, ill-conditioned.
    want = oracles.step_td_errors(steps, mask, groups, scale)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@given(step_lists(), SCALES, st.integers(0, 5))
def test_normalised_globally_and_placed_locally_is_the_same(case, scale, cut):
    """What two processes do that hold parts of the groups."""
    steps, mask, groups = case
    whole = step_td_errors(steps, mask.double(), torch.tensor(groups), scale=scale)
    cut = min(cut, len(mask))
    flat = normalize_steps(steps, torch.tensor(groups), scale=scale, dtype=torch.float64)
    halves = [
        place_steps(flat.rows(slice(first, last)), mask[first:last])
        for first, last in ((0, cut), (cut, len(mask)))
    ]
    assert torch.equal(torch.cat(halves), whole)


def test_process_supervision_is_the_sum_over_later_steps():
    """DeepSeekMath, section 4.1.3: Â_t sums the normalised rewards of steps ending from t on."""
    steps = [[(1, 1.0), (4, 0.0)], [(2, 2.0)]]
    mask, groups = torch.ones(2, 5, dtype=torch.float64), torch.tensor([0, 0])
    delta = step_td_errors(steps, mask, groups)
    std = 1.0  # of 1, 0, 2 with Bessel's correction; the mean is 1
    first, last, other = (r / (std + 1e-4) for r in (0.0, -1.0, 1.0))
    want = [[first + last] * 2 + [last] * 3, [other] * 3 + [0.0] * 2]
    got = lambda_return(delta, mask, decay=1.0)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), **TIGHT)


def test_a_step_on_a_masked_token_ends_at_the_policy_token_before():
    mask = torch.tensor([[0, 1, 1, 0, 1], [0, 1, 1, 0, 1]])
    steps = [[(3, 1.0), (0, 5.0)], [(4, 0.0)]]
    delta = step_td_errors(steps, mask, torch.tensor([0, 0]), scale="none")
    torch.testing.assert_close(delta, torch.tensor([[0, 0, -1, 0, 0], [0, 0, 0, 0, -2.0]]))


def test_a_single_step_tells_nothing():
    mask = torch.ones(2, 3)
    for scale in ("group", "none"):
        assert not step_td_errors([[(1, 5.0)], None], mask, torch.tensor([0, 0]), scale=scale).any()


@given(groups_of_completions(max_rows=6), st.integers(0, 99))
def test_tempo(group, seed):
    """λ = 0: the prefix's mean after the token minus the one before, over the advantage's std."""
    ids, groups = group
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(len(ids), dtype=torch.float64, generator=generator)
    tokens, lengths = padded(ids)
    group_ids = torch.tensor(groups)
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    values = prefix_values(rewards, tokens, lengths, group_ids)
    got = tree_td_errors(values, mask, reward_denominator(rewards, group_ids))
    for i in range(len(ids)):
        own = [r for r, g in zip(rewards.tolist(), groups, strict=True) if g == groups[i]]
        std = torch.tensor(own, dtype=torch.float64).std().item() if len(own) > 1 else math.inf
        for t in range(len(ids[i])):
            after, before = (
                [rewards[j].item() for j in oracles.sharing(ids, groups, i, t + n)] for n in (1, 0)
            )
            step = sum(after) / len(after) - sum(before) / len(before)
            assert got[i, t].item() == pytest.approx(step / (std + 1e-4), rel=1e-9, abs=1e-11)
            if len(before) == 1:
                assert got[i, t] == 0


def test_tree_credits_no_environment_token():
    tokens = torch.tensor([[1, 7, 3], [1, 8, 4]])
    rewards = torch.tensor([1.0, 0.0])
    values = prefix_values(rewards, tokens, torch.tensor([3, 3]), torch.tensor([0, 0]))
    mask = torch.tensor([[1, 0, 1], [1, 0, 1]])
    assert not tree_td_errors(values, mask, torch.ones(2)).any()


@given(masks(), st.integers(0, 9))
def test_terminal_sits_on_the_last_policy_token(mask, seed):
    advantages = torch.randn(len(mask), generator=torch.Generator().manual_seed(seed))
    got = terminal_td_errors(advantages, mask)
    for row, own, advantage in zip(got, mask, advantages, strict=True):
        where = own.nonzero().flatten()
        want = torch.zeros(mask.shape[1])
        if len(where):
            want[where[-1]] = advantage
        assert torch.equal(row, want)


@given(
    st.lists(st.one_of(st.floats(-3, 3), st.just(math.nan)), min_size=1, max_size=9),
    SCALES,
    st.data(),
)
def test_denominator_equals_the_definition(values, scale, data):
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(values), max_size=len(values)))
    tensor, group_ids = torch.tensor(values, dtype=torch.float64), torch.tensor(groups)
    got = reward_denominator(tensor, group_ids, scale=scale)
    for i, own in enumerate(groups):
        pool = [
            v
            for v, g in zip(values, groups, strict=True)
            if not math.isnan(v) and (scale == "batch" or g == own)
        ]
        if scale == "none":
            assert got[i] == 1
        elif len(pool) < 2:
            assert got[i] == math.inf
        else:
            want = torch.tensor(pool, dtype=torch.float64).std().item() + 1e-4
            assert got[i].item() == pytest.approx(want, rel=1e-12)


MASK, GROUPS = torch.ones(2, 3), torch.tensor([0, 0])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([[(3, 1.0)], None], r"completion 0 has 3 tokens, .* in \[0, 3\), got 3"),
        ([None, [(-1, 1.0)]], r"completion 1 has 3 tokens, .* got -1"),
        ([None, [(1, math.inf)]], r"step of completion 1 that ends at token 1 .* reward inf"),
        ([None, [(1, math.nan)]], r"reward nan; step rewards must be finite"),
        ([None], r"same number of rows, got 1, 2 and 2"),
    ],
)
def test_bad_steps_are_named(steps, message):
    with pytest.raises(ValueError, match=message):
        step_td_errors(steps, MASK, GROUPS)


def test_bad_shapes_and_scales_are_named():
    with pytest.raises(ValueError, match=r"\(B, T\+1\) = \(2, 4\)"):
        tree_td_errors(torch.ones(2, 3), MASK, torch.ones(2))
    with pytest.raises(ValueError, match=r"scale must be one of .*got 'row'"):
        reward_denominator(torch.ones(2), GROUPS, scale="row")


@pytest.mark.parametrize("rewards", [[3e38, 3e38, 0.0, 3e38], [3e38, -3e38, 3e38, -3e38]], ids=str)
def test_values_near_the_end_of_float32_are_finite(rewards):
    """A mean lies among its values, also where their sum is past the largest float32."""
    ids, groups = torch.tensor([[1, 2], [1, 2], [1, 3], [4, 3]]), torch.zeros(4, dtype=torch.long)
    reward = torch.tensor(rewards)
    values = prefix_sets(ids, torch.full((4,), 2), groups).mean(reward)
    want = prefix_sets(ids, torch.full((4,), 2), groups).mean(reward.double())
    torch.testing.assert_close(values.double(), want, rtol=1e-6, atol=1e31)
    torch.testing.assert_close(
        group_mean(reward, groups).double(),
        group_mean(reward.double(), groups),
        rtol=1e-6,
        atol=1e31,
    )
    for scale in ("group", "batch"):
        denominator = reward_denominator(reward, groups, scale=scale)
        delta = tree_td_errors(values, torch.ones(4, 2), denominator)
        assert torch.isfinite(delta).all()


def test_sums_that_fit_keep_every_digit():
    reward = torch.tensor([0.1, 0.7, 0.3])
    groups = torch.zeros(3, dtype=torch.long)
    assert group_mean(reward, groups)[0] == reward.sum() / 3
