import math

import pytest
import sibling_oracles
import torch
from branching import REWARDS, SHRINKAGES, even_tree, trees
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_lambda.functional import branch_advantages, root_baselines

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
AVERAGINGS = st.sampled_from(["leaves", "children"])
INFINITE = math.inf


def draw_rewards(data, B: int):
    return data.draw(st.lists(REWARDS, min_size=B, max_size=B))


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=300)
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


@given(trees(), AVERAGINGS, st.data())
def test_root_baselines_are_the_mean_of_the_other_roots(tree, averaging, data):
    rewards = double(draw_rewards(data, len(tree.ids)))
    sets = tree.sets()
    got = root_baselines(rewards, sets, values=averaging)
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    for i in range(len(tree.ids)):

        def worth(rows):
            rows = [j for j in rows if tree.lengths[j] > 0]
            return sibling_oracles.value(writer, rewards.tolist(), rows, 1, tree.width, averaging)

        everyone = sibling_oracles.members(writer, tree.groups, i, 0)
        roots = sibling_oracles.parts(writer, everyone, 0)
        others = [root for root in roots if i not in root]
        if averaging == "leaves":
            counted = [j for root in others for j in root if tree.lengths[j] > 0]
            want = sibling_oracles.mean([rewards[j].item() for j in counted])
        else:
            counted = [root for root in others if any(tree.lengths[j] > 0 for j in root)]
            want = sibling_oracles.mean([worth(root) for root in counted])
        if not math.isnan(want):
            assert got[i].item() == pytest.approx(want, abs=1e-12)
    assert got.isfinite().all()


def test_root_baselines_without_forks_leave_one_out():
    rewards = double([0.1, 0.7, 0.2])
    tree = even_tree(K=3, M=1, fork=0, length=2)
    torch.testing.assert_close(
        root_baselines(rewards, tree.sets()), (rewards.sum() - rewards) / 2, **TIGHT
    )
    alone = even_tree(K=1, M=2, fork=1, length=2)
    assert root_baselines(double([1.0, 0.0]), alone.sets()).tolist() == [0.5, 0.5]


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
