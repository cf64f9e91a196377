import itertools

import oracles
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DECAYS, padded

from trl_lambda.credit import (
    TD_ERRORS,
    TRACE_MODES,
    TRACE_STYLES,
    Signal,
    assign_credit,
    token_gains,
)
from trl_lambda.functional import group_mean, prefix_sets, reward_denominator, sibling_gains
from trl_lambda.functional.td_errors import normalize_steps

RULES = [
    {"td_error": td, "trace_style": style, "trace_mode": mode, "normalize_trace": normalize}
    for td, style, mode, normalize in itertools.product(
        [name for name in TD_ERRORS if name != "probe"],  # tests/probe
        TRACE_STYLES,
        TRACE_MODES,
        (True, False),
    )
    if not (style == "none" and (mode != "advantage" or not normalize))
    and not (td == "tree" and mode != "advantage")
]


KAPPA = tiny.rule().sibling_shrinkage


@st.composite
def scored_groups(draw):
    """(ids, groups, rewards, mask, steps): two groups of completions with holes in the mask."""
    B = draw(st.sampled_from([2, 4, 6]))
    completion = st.lists(st.integers(0, 2), min_size=1, max_size=7)
    ids = draw(st.lists(completion, min_size=B, max_size=B))
    groups = [i * 2 // B for i in range(B)]
    reward = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.just(float("nan")))
    rewards = draw(st.lists(reward, min_size=B, max_size=B))
    _, lengths = padded(ids)
    seed = draw(st.integers(0, 9))
    holes = torch.rand(B, int(lengths.max()), generator=torch.Generator().manual_seed(seed)) < 0.8
    mask = holes & (torch.arange(holes.shape[1]) < lengths[:, None])
    steps = [
        draw(
            st.one_of(
                st.none(),
                st.lists(
                    st.tuples(st.integers(0, len(row) - 1), st.sampled_from([0.0, 1.0, 2.0])),
                    max_size=3,
                ),
            )
        )
        for row in ids
    ]
    return ids, groups, rewards, mask.long(), steps


def signal(ids, groups, rewards, mask, steps, scale):
    tokens, lengths = padded(ids)
    group_ids = torch.tensor(groups)
    reward = torch.tensor(rewards, dtype=torch.float64)
    denominator = reward_denominator(reward, group_ids, scale=scale)
    sets = prefix_sets(tokens, lengths, group_ids)
    return Signal(
        mask_BT=mask,
        advantage_B=((reward - group_mean(reward, group_ids)) / denominator).nan_to_num(0.0),
        sizes_BT=sets.sizes(),
        values_BT1=sets.mean(reward),
        denominator_B=denominator.masked_fill(reward.isnan(), torch.inf),
        sibling_gain_BT=sibling_gains(reward, sets, shrinkage=KAPPA),
        steps=normalize_steps(steps, group_ids, scale=scale, dtype=torch.float64),
    )


@pytest.mark.parametrize("weighting", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
@settings(max_examples=15)
@given(
    case=scored_groups(),
    decay=DECAYS,
    scale=st.sampled_from(["group", "batch", "none"]),
    floor=st.sampled_from([None, -0.1]),
)
def test_equals_the_definition(rule, weighting, case, decay, scale, floor):
    floor = None if rule["td_error"] == "process" else floor
    rule = tiny.rule(**rule, decay=decay, advantage_floor=floor, process_set_weighting=weighting)
    ids, groups, rewards, mask, steps = case
    got = assign_credit(rule, signal(*case, scale))
    advantage, weight = oracles.credit(rule, ids, groups, rewards, mask, steps, scale)
    # Weights are float32 in the kernel where the mask is integer: 1/size and v carry its rounding.
    torch.testing.assert_close(got.advantage_BT.double(), advantage, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.weight_BT.double(), weight, rtol=1e-6, atol=1e-7)


def test_each_distinct_prefix_has_weight_one_and_the_mean_advantage():
    """λ-GRPO's identity: copies count once at prefixes that nobody else shares."""
    ids, groups = [[1, 2, 3], [1, 2, 3], [1, 2, 4], [9]], [0] * 4
    mask = torch.tensor([[1, 1, 1]] * 3 + [[1, 0, 0]])
    case = (ids, groups, [1.0, 0.0, 0.0, 1.0], mask, [None] * 4)
    rule = tiny.rule(trace_style="none")
    got = assign_credit(rule, signal(*case, "none"))
    assert got.weight_BT.sum().item() == pytest.approx(5)  # 1, 12, 123, 124, 9
    plain = assign_credit(
        tiny.rule(trace_style="none", process_set_weighting=False), signal(*case, "none")
    )
    for i, t in ((0, 0), (0, 2), (2, 2), (3, 0)):
        members = oracles.sharing(ids, groups, i, t + 1)
        total = sum(got.advantage_BT[j, t].item() for j in members)
        mean = sum(plain.advantage_BT[j, t].item() for j in members) / len(members)
        assert total == pytest.approx(mean)


def test_rows_without_policy_tokens_and_zero_variance_give_zeros():
    mask = torch.tensor([[0, 0], [1, 1]])
    case = ([[1, 2], [1, 3]], [0, 0], [1.0, 1.0], mask, [[(1, 1.0)], [(0, 1.0)]])
    for rule in RULES:
        got = assign_credit(tiny.rule(**rule), signal(*case, "group"))
        assert got.advantage_BT.tolist() == [[0, 0], [0, 0]], rule


@pytest.mark.parametrize("style", ["recent", "both"])
@pytest.mark.parametrize("mode", ["advantage", "ratio", "weight"])
def test_gains_average_to_one_when_normalised(style, mode):
    mask = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0]])
    gains = token_gains(tiny.rule(trace_style=style, trace_mode=mode, decay=0.9), mask)
    torch.testing.assert_close(gains.sum(1), mask.sum(1).float())


def test_permuting_a_group_permutes_the_credit():
    ids, groups = [[1, 2], [1, 3], [2], [1, 2]], [0] * 4
    rewards, steps = [1.0, 0.0, 0.5, 0.0], [[(0, 1.0)], None, [(0, 0.0)], [(1, 2.0)]]
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]])
    order = [2, 0, 3, 1]
    shuffled = ([ids[i] for i in order], groups, [rewards[i] for i in order], mask[order])
    shuffled += ([steps[i] for i in order],)
    for rule in RULES:
        rule = tiny.rule(**rule)
        one = assign_credit(rule, signal(ids, groups, rewards, mask, steps, "group"))
        other = assign_credit(rule, signal(*shuffled, "group"))
        torch.testing.assert_close(other.advantage_BT, one.advantage_BT[order])
