import math

import pytest
import sibling_oracles
import torch
from branching import REWARDS, SHRINKAGES, even_tree, trees
from hypothesis import given
from hypothesis import strategies as st
from strategies import groups_of_completions, padded
from torch.utils._python_dispatch import TorchDispatchMode

from trl_lambda.functional import (
    Branches,
    branch_advantages,
    branch_sets,
    group_mean,
    prefix_sets,
    root_baselines,
    sibling_baselines,
    split_groups_by_prompt,
)

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
INFINITE = math.inf


def draw_rewards(data, B: int):
    return data.draw(st.lists(REWARDS, min_size=B, max_size=B))


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def baselines(ids, rewards, groups=None, **options):
    """By equal tokens, of one group unless said otherwise."""
    tokens, lengths = padded(ids)
    groups = [0] * len(ids) if groups is None else groups
    return sibling_baselines(rewards, prefix_sets(tokens, lengths, torch.tensor(groups)), **options)


@given(groups_of_completions(), SHRINKAGES, st.integers(0, 2), st.booleans(), st.data())
def test_baselines_equal_the_definition(group, shrinkage, extra, given_initial, data):
    """Rows of length 0 are among them, rewards that abstain too."""
    ids, groups = group
    rewards = draw_rewards(data, len(ids))
    initial = draw_rewards(data, len(ids)) if given_initial else None
    tokens, lengths = padded(ids, extra=extra)
    got = sibling_baselines(
        double(rewards),
        prefix_sets(tokens, lengths, torch.tensor(groups)),
        shrinkage=shrinkage,
        initial_B=None if initial is None else double(initial),
    )
    want = sibling_oracles.sibling_baselines(
        sibling_oracles.by_tokens(ids),
        lengths.tolist(),
        groups,
        rewards,
        tokens.shape[1],
        shrinkage,
        initial,
    )
    torch.testing.assert_close(got, want, **TIGHT)


@given(trees(), SHRINKAGES, st.data())
def test_baselines_of_branch_ids_equal_the_definition(tree, shrinkage, data):
    rewards = draw_rewards(data, len(tree.ids))
    got = sibling_baselines(double(rewards), tree.sets(), shrinkage=shrinkage)
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    want = sibling_oracles.sibling_baselines(
        writer, tree.lengths, tree.groups, rewards, tree.width, shrinkage
    )
    torch.testing.assert_close(got, want, **TIGHT)


# By hand


def test_worked_group():
    """Rows part at tokens 0, 1 and 2; the third ends where the second goes on."""
    ids = [[1, 1], [1, 2, 5], [1, 2], [3, 1]]
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.5])
    mean = 0.5
    first = (0.5 + mean) / 2
    last = (1.0 + 0.0 + 0.5 + mean) / 4
    want = [
        [first, (0.0 + 0.5 + first) / 3],
        [first, (1.0 + first) / 2, (0.5 + (1.0 + first) / 2) / 2],
        [first, (1.0 + first) / 2],
        [last, last],
    ]
    got = baselines(ids, rewards)
    for row, own in zip(got, want, strict=True):
        assert row.tolist() == pytest.approx(own + [own[-1]] * (3 - len(own)))


def test_the_end_is_an_outcome():
    """Row 0 ends, the others go on with one token: they are its sibling and it is theirs."""
    ids = [[1], [1, 7], [1, 7]]
    got = baselines(ids, torch.tensor([3.0, 0.0, 1.0]), shrinkage=0.0)
    assert got[1].tolist() == got[2].tolist() == pytest.approx([4 / 3, 3.0])
    assert got[0].tolist() == pytest.approx([4 / 3, 4 / 3])  # no token of its own is there


def test_abstaining_rows_are_nobodys_siblings():
    ids = [[1], [2], [3]]
    got = baselines(ids, torch.tensor([1.0, 0.0, math.nan]), shrinkage=0.0)
    assert got.tolist() == [[0.0], [1.0], [0.5]]
    nobody = baselines(ids, torch.full((3,), math.nan), shrinkage=0.0)
    assert nobody.tolist() == [[0.0]] * 3
    only_siblings_abstain = baselines([[1], [2]], torch.tensor([1.0, math.nan]), shrinkage=0.0)
    assert only_siblings_abstain.tolist() == [[1.0]] * 2


def test_rows_that_left_the_counts_are_in_the_groups_mean_alone():
    ids, rewards = [[1], [2], []], torch.tensor([1.0, 0.0, 5.0])
    assert baselines(ids, rewards, shrinkage=INFINITE).tolist() == [[2.0]] * 3
    assert baselines(ids, rewards, shrinkage=0.0).tolist() == [[0.0], [1.0], [2.0]]
    assert baselines(ids, rewards)[0].tolist() == [(0.0 + 2.0) / 2]


def test_a_group_of_one_has_itself_for_a_baseline():
    for shrinkage in (0.0, 1.0, INFINITE):
        assert baselines([[1, 2]], torch.tensor([0.7]), shrinkage=shrinkage).tolist() == [
            pytest.approx([0.7, 0.7])
        ]


def test_completions_without_tokens():
    none = baselines([[], []], torch.tensor([1.0, 0.0]))
    assert none.shape == (2, 0)
    assert branch_advantages(torch.ones(1), even_tree(1, 1, 0, 0).sets()).shape == (1, 0)


def test_prompts_that_differ_keep_the_nominal_groups_mean():
    """Rows 0 and 1 share a prompt: they part at token 0; row 2 has nobody to part from."""
    ids, rewards = [[1], [2], [1]], torch.tensor([1.0, 0.0, 0.2])
    nominal = torch.zeros(3, dtype=torch.long)
    groups = split_groups_by_prompt(nominal, torch.tensor([[5], [5], [6]]))
    mean = group_mean(rewards, nominal)
    got = baselines(ids, rewards, groups.tolist(), initial_B=mean)
    want = [[(0.0 + 0.4) / 2], [(1.0 + 0.4) / 2], [0.4]]
    torch.testing.assert_close(got, torch.tensor(want))
    # Without it a prompt of one's own is a group of one, which learns nothing.
    assert baselines(ids, rewards, groups.tolist())[2].item() == pytest.approx(0.2)


# Identities, equal tokens


@given(groups_of_completions(), st.data())
def test_infinite_shrinkage_is_the_groups_mean(group, data):
    ids, groups = group
    rewards = double(draw_rewards(data, len(ids)))
    got = baselines(ids, rewards, groups, shrinkage=INFINITE)
    mean = group_mean(rewards, torch.tensor(groups)).nan_to_num(0.0)
    torch.testing.assert_close(got, mean[:, None].expand_as(got), **TIGHT)


@pytest.mark.parametrize("shrinkage", [0.0, 1.0, 3.0])
def test_a_group_that_parts_at_once(shrinkage):
    """κ = 0: RLOO. κ = 1: r_i minus a mean of the others and of all."""
    rewards = double([0.1, 0.7, 0.2, 0.9, 0.4])
    ids = [[i, *range(i)] for i in range(5)]
    others = (rewards.sum() - rewards + shrinkage * rewards.mean()) / (4 + shrinkage)
    got = baselines(ids, rewards, shrinkage=shrinkage)
    torch.testing.assert_close(got, others[:, None].expand_as(got), **TIGHT)


def test_a_leave_one_out_start_is_a_leave_one_out_baseline_without_overlap():
    rewards = double([0.1, 0.7, 0.2])
    others = (rewards.sum() - rewards) / 2
    for shrinkage in (0.0, 1.0, INFINITE):
        got = baselines([[1], [2], [3]], rewards, shrinkage=shrinkage, initial_B=others)
        torch.testing.assert_close(got[:, 0], others, **TIGHT)


@given(groups_of_completions(), st.sampled_from([0.1, 1.0, 100.1]), st.data())
def test_rows_that_agree_with_their_siblings_get_no_credit(group, reward, data):
    """κ = 0, from a parting on: rows whose set and siblings there have one reward. Exactly."""
    ids, groups = group
    rewards = data.draw(
        st.lists(st.sampled_from([reward, reward, 0.3]), min_size=len(ids), max_size=len(ids))
    )
    got = torch.tensor(rewards)[:, None] - baselines(
        ids, torch.tensor(rewards), groups, shrinkage=0.0
    )
    token = sibling_oracles.by_tokens(ids)
    for i, row in enumerate(ids):
        sharing = [sibling_oracles.members(token, groups, i, t) for t in range(len(row) + 1)]
        for t in range(len(row)):
            before = [j for j in sharing[t] if ids[j]]
            if len(sharing[t + 1]) < len(before) and len({rewards[j] for j in before}) == 1:
                assert got[i, t] == 0


def test_rewards_that_are_all_one_number_leave_exactly_nothing():
    """Or the 1e-4 under the deviation would blow the rounding up."""
    ids = [[1], [1, 2], [1, 2, 3], [2], [2, 2], [3]]
    for reward in (0.1, 100.1, 1e-3):
        for shrinkage in (0.0, 1.0, 2.5, INFINITE):
            rewards = torch.full((6,), reward)
            assert torch.equal(
                baselines(ids, rewards, shrinkage=shrinkage), rewards[:, None].repeat(1, 3)
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_rewards_do_not_overflow(dtype):
    """A mean lies among its values; their sum may lie beyond what the dtype can hold."""
    largest = torch.finfo(dtype).max
    rewards = torch.tensor([largest, largest, largest, 0.0], dtype=dtype)
    got = baselines([[1, 1], [1, 2], [1, 3], [2, 1]], rewards, shrinkage=1.0)
    assert got.isfinite().all()
    mean = 0.75 * largest
    torch.testing.assert_close(got[0, 0].item() / largest, 0.5 * mean / largest)
    torch.testing.assert_close(got[3, 0].item() / largest, (3 + 0.75) / 4)


@given(groups_of_completions(), SHRINKAGES, st.data())
def test_order_of_rows_padding_and_names_of_tokens_never_matter(group, shrinkage, data):
    ids, groups = group
    rewards = double(draw_rewards(data, len(ids)))
    order = data.draw(st.permutations(range(len(ids))))
    names = data.draw(st.permutations([10**12, -5, 7]))
    tokens, lengths = padded(ids)
    others, _ = padded(ids, filler=2, extra=3)
    group_ids = torch.tensor(groups)
    plain = sibling_baselines(rewards, prefix_sets(tokens, lengths, group_ids), shrinkage=shrinkage)
    renamed = prefix_sets(
        torch.tensor(names)[others][order], lengths[order], group_ids[order] * -1000
    )
    got = sibling_baselines(rewards[order], renamed, shrinkage=shrinkage)
    torch.testing.assert_close(got[:, : tokens.shape[1]], plain[order], **TIGHT)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-6), (torch.float16, 1e-6)]
)
@given(group=groups_of_completions(), shrinkage=SHRINKAGES, seed=st.integers(0, 99))
def test_narrow_rewards(dtype, rtol, group, shrinkage, seed):
    """What the rewards lost is lost; the baseline itself is float32 and loses no more."""
    ids, groups = group
    rewards = torch.randn(len(ids), generator=torch.Generator().manual_seed(seed)).to(dtype)
    got = baselines(ids, rewards, groups, shrinkage=shrinkage)
    assert got.dtype == torch.float32
    want = baselines(ids, rewards.double(), groups, shrinkage=shrinkage)
    torch.testing.assert_close(got.double(), want, rtol=rtol, atol=1e-7)


# What is refused

SETS = prefix_sets(torch.ones(2, 3).long(), torch.tensor([3, 1]), torch.tensor([0, 0]))


@pytest.mark.parametrize("kernel", [sibling_baselines, branch_advantages])
@pytest.mark.parametrize("shrinkage", [-0.1, math.nan, -math.inf])
def test_bad_shrinkage_is_named(kernel, shrinkage):
    name = f"{kernel.__name__}: shrinkage .* must lie in .* got {shrinkage}"
    with pytest.raises(ValueError, match=name):
        kernel(torch.ones(2), SETS, shrinkage=shrinkage)


@pytest.mark.parametrize("kernel", [sibling_baselines, branch_advantages, root_baselines])
@pytest.mark.parametrize("rewards", [torch.ones(3), torch.ones(2).long(), torch.ones(2, 1)])
def test_bad_rewards_are_named(kernel, rewards):
    with pytest.raises(
        ValueError, match=rf"{kernel.__name__}: rewards must be floating .*\(2,\), got"
    ):
        kernel(rewards, SETS)


def test_bad_averages_and_starts_are_named():
    with pytest.raises(ValueError, match=r"values must be one of .* got 'rows'"):
        branch_advantages(torch.ones(2), SETS, values="rows")
    with pytest.raises(ValueError, match=r"values must be one of .* got 'rows'"):
        root_baselines(torch.ones(2), SETS, values="rows")
    with pytest.raises(ValueError, match=r"initial_B must have shape \(2,\), got \(1,\)"):
        sibling_baselines(torch.ones(2), SETS, initial_B=torch.ones(1))


# Cost


class CountedOperations(TorchDispatchMode):
    """How many tensor operations were run while this was on."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += 1
        return func(*args, **(kwargs or {}))


def operations(kernel, T: int, levels: int) -> int:
    """Of a group in which row n leaves the others after n tokens, all of T tokens."""
    rows = torch.arange(levels + 1)
    ids = (torch.arange(T) >= rows[:, None]) * (rows[:, None] + 1)
    lengths, groups = torch.full_like(rows, T), torch.zeros_like(rows)
    if kernel is branch_advantages:
        branches = Branches((rows - 1).clamp(min=0), (rows - 1).clamp(min=0))
        sets = branch_sets(torch.zeros_like(ids), lengths, groups, branches)
    else:
        sets = prefix_sets(ids, lengths, groups)
    with CountedOperations() as counted:
        kernel(torch.rand(levels + 1), sets)
    return counted.number


@pytest.mark.parametrize("kernel", [sibling_baselines, branch_advantages])
def test_no_loop_runs_over_tokens_nor_over_partings(kernel):
    few = operations(kernel, 100, levels=32)
    assert operations(kernel, 10_000, levels=32) == few
    # Four times the partings are two more doublings.
    assert few < operations(kernel, 1000, levels=128) < few + 50
