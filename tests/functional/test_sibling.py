import math

import pytest
import sibling_oracles
import torch
from branching import REWARDS, SHRINKAGES, even_tree, trees
from hypothesis import given
from hypothesis import strategies as st
from strategies import groups_of_completions, padded

from trl_lambda.functional import (
    branch_advantages,
    group_mean,
    prefix_sets,
    sibling_baselines,
    split_groups_by_prompt,
)

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
AVERAGINGS = st.sampled_from(["leaves", "children"])
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


@given(trees(), SHRINKAGES, AVERAGINGS, st.data())
def test_branch_advantages_equal_the_definition(tree, shrinkage, averaging, data):
    rewards = draw_rewards(data, len(tree.ids))
    got = branch_advantages(double(rewards), tree.sets(), shrinkage=shrinkage, values=averaging)
    assert got.isfinite().all()
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    want = sibling_oracles.branch_advantages(
        writer, tree.lengths, tree.groups, rewards, tree.width, shrinkage, averaging
    )
    there = torch.arange(tree.width) < torch.tensor(tree.lengths)[:, None]
    torch.testing.assert_close(got.masked_fill(~there, 0.0), want, **TIGHT)


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


# Identities, branch ids

BLOCKS = st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(1, 3))


@given(BLOCKS, SHRINKAGES, AVERAGINGS, st.integers(0, 99))
def test_block_form(block, shrinkage, averaging, seed):
    """METHOD: V_i − b_i before the fork, r_im − (Σ r_in + κ b_i)/(M − 1 + κ) after it."""
    K, M, fork = block
    tree = even_tree(K, M, fork, length=4)
    rewards = torch.randn(K, M, generator=torch.Generator().manual_seed(seed)).double()
    before, after = sibling_oracles.block_form(rewards.tolist(), shrinkage)
    got = branch_advantages(
        rewards.flatten(), tree.sets(), shrinkage=shrinkage, values=averaging
    ).view(K, M, 4)
    for i in range(K):
        for m in range(M):
            # "leaves" counts κ in rows as "children" does here: every child is one row.
            assert got[i, m, :fork].tolist() == pytest.approx([before[i]] * fork, abs=1e-12)
            assert got[i, m, fork:].tolist() == pytest.approx([after[i][m]] * (4 - fork), abs=1e-12)


@pytest.mark.parametrize("averaging", ["leaves", "children"])
@pytest.mark.parametrize("shrinkage", [0.0, 1.0, INFINITE])
def test_without_forks_it_is_rloo(shrinkage, averaging):
    rewards = double([0.1, 0.7, 0.2, 0.9])
    tree = even_tree(K=4, M=1, fork=0, length=3)
    got = branch_advantages(rewards, tree.sets(), shrinkage=shrinkage, values=averaging)
    rloo = rewards - (rewards.sum() - rewards) / 3
    torch.testing.assert_close(got, rloo[:, None].expand(4, 3), **TIGHT)


@given(trees(), AVERAGINGS, st.data())
def test_infinite_shrinkage_keeps_the_roots_baseline(tree, averaging, data):
    rewards = double(data.draw(st.lists(st.floats(-2, 2), min_size=8, max_size=8)))
    rewards = rewards[: len(tree.ids)]
    sets = tree.sets()
    got = branch_advantages(rewards, sets, shrinkage=INFINITE, values=averaging)
    values = sets.mean(rewards, averaging)[:, 1:]
    baseline = values - got
    for i, n in enumerate(tree.lengths):
        assert baseline[i, :n].tolist() == pytest.approx(baseline[i, :1].tolist() * n, abs=1e-12)


@given(trees(truncate=False), SHRINKAGES, AVERAGINGS, st.data())
def test_rows_that_share_a_token_share_its_credit(tree, shrinkage, averaging, data):
    rewards = double(draw_rewards(data, len(tree.ids)))
    got = branch_advantages(rewards, tree.sets(), shrinkage=shrinkage, values=averaging)
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    for i, n in enumerate(tree.lengths):
        for t in range(n):
            assert got[i, t].item() == pytest.approx(got[writer(i, t), t].item(), abs=1e-12)


@given(trees(truncate=False), st.data())
def test_without_shrinkage_the_credit_of_siblings_sums_to_nothing(tree, data):
    """After each fork, and over the roots before all forks."""
    rewards = data.draw(st.lists(st.floats(-2, 2), min_size=len(tree.ids), max_size=len(tree.ids)))
    got = branch_advantages(double(rewards), tree.sets(), shrinkage=0.0)
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    for t in range(tree.width):
        for i in range(len(tree.ids)):
            rows = [
                j for j in sibling_oracles.members(writer, tree.groups, i, t) if tree.lengths[j] > t
            ]
            sharing = sibling_oracles.members(writer, tree.groups, i, t)
            children = sibling_oracles.parts(writer, sharing, t)
            ended = len(rows) < len(sharing)  # an end is a sibling without a token
            if t < tree.lengths[i] and len(children) > 1 and not ended:
                total = sum(got[child[0], t].item() for child in children)
                assert total == pytest.approx(0.0, abs=1e-11)


def test_a_root_forked_twice():
    """Row 1 from row 0 at token 1, row 2 at token 2; row 3 is the other root."""
    tree = even_tree(K=2, M=3, fork=1, length=3).permuted([0, 1, 2, 3])
    tree.ids[2], tree.forks[2] = [*tree.ids[0][:2], 99], 2
    r0, r1, r2, other = 1.0, 0.0, 0.5, 0.25
    rewards = double([r0, r1, r2, other])
    late = (r0 + r2) / 2
    early = (late + r1) / 2
    b_early = (r1 + other) / 2
    want = [
        [early - other, late - b_early, r0 - (r2 + b_early) / 2],
        [early - other, r1 - (late + other) / 2, r1 - (late + other) / 2],
        [early - other, late - b_early, r2 - (r0 + b_early) / 2],
        [other - early] * 3,
    ]
    torch.testing.assert_close(branch_advantages(rewards, tree.sets()), double(want), **TIGHT)
    leaves = branch_advantages(rewards, tree.sets(), values="leaves")
    V = (r0 + r1 + r2) / 3
    assert leaves[0, 0].item() == pytest.approx(V - other)
    assert leaves[1, 1].item() == pytest.approx(r1 - (r0 + r2 + other) / 3)


def test_a_single_root_has_nothing_to_compare_before_its_fork():
    tree = even_tree(K=1, M=2, fork=1, length=2)
    got = branch_advantages(torch.tensor([1.0, 0.0]), tree.sets(), shrinkage=0.0)
    assert got.tolist() == [[0.0, 1.0], [0.0, -1.0]]


def test_abstaining_and_truncated_branches():
    """The shared token keeps the credit that the others give it; their own tokens get none."""
    tree = even_tree(K=2, M=2, fork=1, length=2)
    rewards = torch.tensor([1.0, math.nan, 0.0, 0.5])
    got = branch_advantages(rewards, tree.sets())
    assert got.tolist() == [[0.75, 0.75], [0.75, 0.0], [-0.75, -0.75], [-0.75, 0.0]]
    tree.lengths[1] = 0
    truncated = branch_advantages(rewards.nan_to_num(9.0), tree.sets())
    assert torch.equal(truncated[[0, 2, 3]], got[[0, 2, 3]])


@given(trees(), SHRINKAGES, AVERAGINGS, st.data())
def test_order_of_rows_and_padding_never_matter_to_branches(tree, shrinkage, averaging, data):
    rewards = double(draw_rewards(data, len(tree.ids)))
    order = data.draw(st.permutations(range(len(tree.ids))))
    options = {"shrinkage": shrinkage, "values": averaging}
    plain = branch_advantages(rewards, tree.sets(), **options)
    other = tree.permuted(order)
    other.ids = [[7 - 3 * token for token in row] for row in other.ids]
    got = branch_advantages(rewards[order], other.sets(tree.width + 2, filler=4), **options)
    torch.testing.assert_close(got[:, : tree.width], plain[order], **TIGHT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(tree=trees(), shrinkage=SHRINKAGES, averaging=AVERAGINGS, seed=st.integers(0, 99))
def test_narrow_rewards_of_branches(dtype, tree, shrinkage, averaging, seed):
    rewards = torch.randn(len(tree.ids), generator=torch.Generator().manual_seed(seed)).to(dtype)
    options = {"shrinkage": shrinkage, "values": averaging}
    got = branch_advantages(rewards, tree.sets(), **options)
    assert got.dtype == torch.float32
    want = branch_advantages(rewards.double(), tree.sets(), **options)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


def test_deep_chains_keep_their_values():
    """A thousand levels: the share of the last leaf in the root's value is 2^−1000."""
    ids = [[7] * n for n in range(1, 1201)]
    tokens, lengths = padded(ids)
    sets = prefix_sets(tokens, lengths, torch.zeros(len(ids), dtype=torch.long))
    rewards = torch.zeros(len(ids))
    rewards[-2:] = 1.0
    values = sets.mean(rewards, "children")
    assert values[-1, -2:].tolist() == [1.0, 1.0]
    assert values[-1, -3].item() == 0.5


# What is refused

SETS = prefix_sets(torch.ones(2, 3).long(), torch.tensor([3, 1]), torch.tensor([0, 0]))


@pytest.mark.parametrize("kernel", [sibling_baselines, branch_advantages])
@pytest.mark.parametrize("shrinkage", [-0.1, math.nan, -math.inf])
def test_bad_shrinkage_is_named(kernel, shrinkage):
    name = f"{kernel.__name__}: shrinkage .* must lie in .* got {shrinkage}"
    with pytest.raises(ValueError, match=name):
        kernel(torch.ones(2), SETS, shrinkage=shrinkage)


@pytest.mark.parametrize("kernel", [sibling_baselines, branch_advantages])
@pytest.mark.parametrize("rewards", [torch.ones(3), torch.ones(2).long(), torch.ones(2, 1)])
def test_bad_rewards_are_named(kernel, rewards):
    with pytest.raises(
        ValueError, match=rf"{kernel.__name__}: rewards must be floating .*\(2,\), got"
    ):
        kernel(rewards, SETS)


def test_bad_averages_and_starts_are_named():
    with pytest.raises(ValueError, match=r"values must be one of .* got 'rows'"):
        branch_advantages(torch.ones(2), SETS, values="rows")
    with pytest.raises(ValueError, match=r"initial_B must have shape \(2,\), got \(1,\)"):
        sibling_baselines(torch.ones(2), SETS, initial_B=torch.ones(1))
