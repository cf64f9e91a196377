"""The mean gradient over every branched group that a tiny policy can draw, exactly.

It stands beside ∇E[r], which is what independent samples give on average. Credit is not divided by
a deviation here: that division tilts the gradient of independent samples, too.
"""

import functools
import math

import pytest
import torch
from tabular_policy import AllGroups, TabularPolicy, cosine, independent, one_of

from trl_lambda.functional import (
    Branches,
    branch_advantages,
    branch_sets,
    branch_weights,
    root_baselines,
    sibling_baselines,
)

SHRINKAGES = [0.0, 1.0, math.inf]
SEEDS = [0, 1, 2]

DESIGNS = {
    "fixed fraction, 1/3": lambda policy: independent(policy.roots(2, one_of([1])), 2),
    "fixed fraction, 2/3": lambda policy: independent(policy.roots(2, one_of([2])), 2),
    "random position": lambda policy: independent(policy.roots(2, one_of([1, 2])), 2),
    "spread over all tokens": lambda policy: policy.spread(roots=2, forks=2),
    "two levels": lambda policy: independent(policy.chains(), 2),
}
EVEN = ["fixed fraction, 1/3", "fixed fraction, 2/3", "random position"]


@functools.cache
def all_groups(design: str, seed: int) -> AllGroups:
    policy = TabularPolicy(seed=seed)
    return AllGroups(policy, DESIGNS[design](policy))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_branch_ids_give_the_true_gradient(design, shrinkage):
    """Not only its direction: whatever κ is, by children and by leaves."""
    groups = all_groups(design, 0)
    true = groups.policy.true_gradient()
    for averaging in ("children", "leaves"):
        credit = branch_advantages(
            groups.rewards, groups.branched, shrinkage=shrinkage, values=averaging
        )
        torch.testing.assert_close(groups.mean_gradient(credit), true, rtol=1e-10, atol=1e-12)
        start = root_baselines(groups.rewards, groups.branched, values=averaging)
        rowwise = groups.rewards[:, None] - sibling_baselines(
            groups.rewards, groups.branched, shrinkage=shrinkage, initial_B=start
        )
        torch.testing.assert_close(groups.mean_gradient(rowwise), true, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_equal_tokens_come_close_to_it(design, seed, shrinkage):
    """Two tokens to choose from: no policy has more coincidences."""
    groups = all_groups(design, seed)
    true = groups.policy.true_gradient()

    def direction(start):
        baseline = sibling_baselines(
            groups.rewards, groups.equal, shrinkage=shrinkage, initial_B=start
        )
        return cosine(groups.mean_gradient(groups.rewards[:, None] - baseline), true)

    assert direction(None) > 0.97
    from_other_roots = direction(root_baselines(groups.rewards, groups.branched))
    assert from_other_roots > (0.97 if shrinkage == 0 else 0.985)
    if math.isinf(shrinkage):
        assert from_other_roots == pytest.approx(1.0, abs=1e-12)


def test_the_mean_of_a_branched_group_tilts_the_gradient():
    """`group` credit: it holds the rows that share one's own tokens, which then earn too little."""
    groups = all_groups("fixed fraction, 2/3", 1)
    true = groups.policy.true_gradient()
    means = sibling_baselines(groups.rewards, groups.branched, shrinkage=math.inf)
    assert cosine(groups.mean_gradient(groups.rewards[:, None] - means), true) < 0.985


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_one_weight_for_each_branch_at_a_position_keeps_the_gradient(design, shrinkage):
    groups = all_groups(design, 0)
    credit = branch_advantages(groups.rewards, groups.branched, shrinkage=shrinkage)
    weight = branch_weights(groups.branches, groups.groups, groups.policy.T)
    mean = groups.mean_gradient(credit, weight)
    torch.testing.assert_close(mean, groups.policy.true_gradient(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("design", EVEN)
@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_one_weight_per_edge_tilts_the_gradient(design, seed, shrinkage):
    """There are twice as many edges behind the forks as before them."""
    groups = all_groups(design, seed)
    true = groups.policy.true_gradient()
    by_ids = branch_advantages(groups.rewards, groups.branched, shrinkage=shrinkage)
    by_tokens = groups.rewards[:, None] - sibling_baselines(
        groups.rewards, groups.equal, shrinkage=shrinkage
    )
    for credit, sets in ((by_ids, groups.branched), (by_tokens, groups.equal)):
        edge = 1 / sets.sizes().clamp(min=1)
        assert cosine(groups.mean_gradient(credit, edge), true) < 0.975


# Completions that end, and forks that wait


def waiting(policy: TabularPolicy, positions):
    """A fork position drawn in advance; a root that ended before it has copies for children."""
    return lambda row: [(min(fork, len(row)), 1 / len(positions)) for fork in positions]


@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_forks_that_wait_for_their_token_are_exact_with_ends(shrinkage):
    policy = TabularPolicy(end=0, seed=1)
    groups = AllGroups(policy, independent(policy.roots(2, waiting(policy, [0, 1, 2])), 2))
    for averaging in ("children", "leaves"):
        credit = branch_advantages(
            groups.rewards, groups.branched, shrinkage=shrinkage, values=averaging
        )
        torch.testing.assert_close(
            groups.mean_gradient(credit), policy.true_gradient(), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("shrinkage", SHRINKAGES)
@pytest.mark.parametrize("seed", SEEDS)
def test_forks_placed_by_the_finished_length_come_close(seed, shrinkage):
    """Hindsight of the mildest kind: one knows that the root went on to the fork, and how far."""
    policy = TabularPolicy(end=0, seed=seed)
    true = policy.true_gradient()
    rules = {
        "a random token": lambda row: [(fork, 1 / len(row)) for fork in range(len(row))],
        "half the length": lambda row: [(len(row) // 2, 1.0)],
    }
    for rule in rules.values():
        groups = AllGroups(policy, independent(policy.roots(2, rule), 2))
        credit = branch_advantages(groups.rewards, groups.branched, shrinkage=shrinkage)
        assert 0.99 < cosine(groups.mean_gradient(credit), true) < 1 - 1e-7


# The shared part once


class SoftmaxPolicy(torch.nn.Module):
    """Logits from the token before and the position."""

    def __init__(self, vocabulary: int, T: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
        self.before = torch.nn.Parameter(draw(vocabulary + 1, vocabulary))
        self.position = torch.nn.Parameter(draw(T, vocabulary))

    def forward(self, ids_BT):
        before_BT = torch.nn.functional.pad(ids_BT + 1, (1, 0))[:, :-1]
        logits = self.before[before_BT] + self.position
        return logits.log_softmax(-1).gather(-1, ids_BT[..., None])[..., 0]


class Case:
    """Three roots, each continued four ways from its token 2; rows of uneven length."""

    K, M, FORK, T = 3, 4, 2, 6

    def __init__(self):
        B, generator = self.K * self.M, torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, 5, (B, self.T), generator=generator)
        roots = torch.arange(self.K).repeat_interleave(self.M) * self.M
        self.is_root = torch.arange(B) == roots
        self.ids[:, : self.FORK] = self.ids[roots, : self.FORK]
        self.lengths = torch.randint(self.FORK + 1, self.T + 1, (B,), generator=generator)
        self.branches = Branches(roots, torch.where(self.is_root, 0, self.FORK))
        groups = torch.zeros(B, dtype=torch.long)
        self.sets = branch_sets(self.ids, self.lengths, groups, self.branches)
        rewards = torch.randn(B, dtype=torch.float64, generator=generator)
        self.credit = branch_advantages(rewards, self.sets)
        self.there = torch.arange(self.T) < self.lengths[:, None]

    def gradient(self, weight):
        """Of the clipped objective away from the sampling policy, with a weight for each token."""
        policy, old = SoftmaxPolicy(5, self.T, seed=1), SoftmaxPolicy(5, self.T, seed=2)
        ratio = (policy(self.ids) - old(self.ids).detach()).exp()
        term = torch.min(ratio * self.credit, ratio.clamp(0.8, 1.2) * self.credit)
        (-(term * weight * self.there).sum()).backward()
        return torch.cat([policy.before.grad.flatten(), policy.position.grad.flatten()])


def test_training_on_all_rows_trains_the_shared_part_once_with_weight_1_over_K():
    case = Case()
    B = case.K * case.M
    shared = torch.arange(case.T) < case.FORK
    once = torch.where(shared, case.is_root[:, None] / case.K, 1 / B)
    all_rows = case.gradient(torch.full((B, 1), 1 / B))
    assert all_rows.abs().max() > 0.01
    torch.testing.assert_close(case.gradient(once), all_rows, rtol=1e-12, atol=1e-12)
    # In general: own tokens alone, each weighted by how many rows share it.
    own = case.branches.own_tokens(case.T) * case.sets.sizes() / B
    torch.testing.assert_close(case.gradient(own), all_rows, rtol=1e-12, atol=1e-12)


def test_a_mean_per_row_does_not():
    """TRL's `grpo` loss: a shared token weighs less in a longer row, so no one weight will do."""
    case = Case()
    B = case.K * case.M
    shared = torch.arange(case.T) < case.FORK
    per_row = 1 / (B * case.lengths[:, None])
    once = torch.where(shared, case.M * case.is_root[:, None] * per_row, per_row)
    gap = case.gradient(once) - case.gradient(per_row.expand(B, case.T))
    assert gap.abs().max() > 1e-3
