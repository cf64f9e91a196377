"""Branched generation with an engine of a few states: who comes from whom, and with what."""

from __future__ import annotations

import math

import pytest
import torch
from fake_engine import PROMPT, FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from tabular_policy import AllGroups, TabularPolicy, cosine

from trl_lambda.functional import branch_advantages, branch_weights
from trl_lambda.rollout import BranchRule, Rollout, branch, rollout_metrics

PLACES = ["random", "fraction", "newline", "surprise", "entropy", "value"]


def rule(at="random", forks="spread", levels=1, roots=2, fraction=0.5) -> BranchRule:
    return BranchRule(roots, forks, at, fraction, surprise=0.5, levels=levels)


def rolled_out(made: BranchRule, fake: FakeEngine, *, group=8, prompts=None, first=0) -> Rollout:
    prompts = [PROMPT] * (2 * group) if prompts is None else prompts
    return branch(fake.engine(), made, made.sizes(group), prompts, first)


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("forks", ["spread", "even"])
@pytest.mark.parametrize("levels", [1, 2])
@given(seed=st.integers(0, 1000), end=st.sampled_from([None, 0]), log_probs=st.booleans())
@settings(max_examples=15)
def test_forks_take_over_what_stands_before_them(at, forks, levels, seed, end, log_probs):
    torch.manual_seed(seed)
    policy = TabularPolicy(T=6, end=end, seed=seed)
    fake = FakeEngine(policy, seed, log_probs=log_probs)
    made = rule(at, forks, levels)
    got = rolled_out(made, fake)
    sizes = made.sizes(8)

    for row, ids in enumerate(got.completion_ids):
        parent, fork = got.parent[row], got.fork[row]
        assert policy.finished(tuple(ids))
        assert parent // 8 == row // 8
        assert (parent == row) == (row % 8 < sizes.roots) == (fork == 0)
        assert ids[:fork] == got.completion_ids[parent][:fork]
        assert fork == 0 or fork > got.fork[parent]  # the parent sampled the last of them
        if fork < len(ids):
            assert end not in ids[:fork]
        if log_probs:
            assert got.log_probs[row] == pytest.approx(fake._log_probs(tuple(ids)))
    assert log_probs or got.log_probs is None

    # The engine was asked for the roots once, and for what is no copy.
    (roots, spent, copies), *waves = fake.calls
    assert (roots, spent, copies) == ([PROMPT] * 4, [0] * 4, 2)
    assert len(waves) == levels
    asked = [p for prompts, _, _ in waves for p in prompts]
    copied = [len(ids) == fork for ids, fork in zip(got.completion_ids, got.fork, strict=True)]
    assert len(asked) == 12 - sum(copied)
    for prompts, spent, copies in waves:
        assert copies == 1
        assert [len(p) - 1 for p in prompts] == spent
        assert min(spent, default=1) >= 1

    (metrics,) = [rollout_metrics([got.counts()])]
    generated = sum(len(ids) - fork for ids, fork in zip(got.completion_ids, got.fork, strict=True))
    assert metrics["rollout/generated_tokens"] == generated
    assert metrics["rollout/shared_tokens"] == sum(got.fork)
    assert metrics["rollout/copies"] == sum(copied) / 16


@pytest.mark.parametrize("at", ["fraction", "newline", "surprise"])
def test_a_stopping_time_does_not_look_ahead(at):
    """Where a completion is forked stays as it is when its later tokens change."""
    from trl_lambda.rollout.places import Candidate, Places, Turn

    place_of = Places(rule(at), ends_line=lambda token: token == 1)
    generator = torch.Generator().manual_seed(0)
    looked_at = 0
    for _ in range(200):
        ids = torch.randint(0, 2, (12,), generator=generator).tolist()
        logps = (-torch.rand(12, generator=generator)).tolist()

        def candidate(ids, logps):
            return Candidate(ids, logps, reach=len(ids) - 1, expected_length=8.0)

        (first,) = place_of.even([candidate(ids, logps)], 2, Turn(0, 1))
        if first.tokens is None:
            continue
        t = first.tokens
        changed = ids[:t] + [1 - token for token in ids[t:]]
        (again,) = place_of.even([candidate(changed, logps[:t] + [-9.0] * (12 - t))], 2, Turn(0, 1))
        assert again == first
        looked_at += 1
    assert looked_at > 100


def test_the_share_of_the_others_mean_length():
    torch.manual_seed(0)
    policy = TabularPolicy(T=6, end=0, seed=3)
    for seed in range(20):
        got = rolled_out(rule("fraction", "even", roots=4), FakeEngine(policy, seed))
        roots = [row for row in range(16) if got.parent[row] == row]
        for row in range(16):
            if row in roots:
                continue
            others = [len(got.completion_ids[r]) for r in roots if r != got.parent[row]]
            start = max(1, round(sum(others) / len(others) / 2))
            length = len(got.completion_ids[got.parent[row]])
            assert got.fork[row] == (start if start < length else length)


def test_the_most_uncertain_tokens_of_any_root():
    policy = TabularPolicy(T=6, seed=0)
    got = rolled_out(rule("entropy"), FakeEngine(policy), prompts=[PROMPT] * 8)
    # Entropies are 0, 1, 2, 0, 1, 2: six forks take all four twos, and two ones.
    assert sorted(got.fork[2:])[-2:] == [5, 5]
    assert [f % 3 for f in got.fork[2:]].count(2) == 4
    assert [f % 3 for f in got.fork[2:]].count(1) == 2


def test_the_most_uncertain_segment_ends_and_at_random_where_none_is_told():
    policy, at_random = TabularPolicy(T=6, seed=0), set()
    for seed in range(20):
        torch.manual_seed(seed)
        spread = rolled_out(rule("value", roots=4), FakeEngine(policy), prompts=[PROMPT] * 8)
        # Places 2 and 4 of three roots are told, the later ones more doubtful; of row 2 nothing is.
        assert sorted(spread.fork[4:]) == [2, 4, 4, 4]
        assert 2 not in spread.parent[4:]
        even = rule("value", forks="even", roots=4)
        even = rolled_out(even, FakeEngine(policy), prompts=[PROMPT] * 8)
        assert even.fork[4:6] + even.fork[7:] == [4, 4, 4]
        at_random.add(even.fork[6])
    assert len(at_random) > 2


def test_random_forks_are_spread_over_tokens():
    policy = TabularPolicy(T=6, seed=0)
    torch.manual_seed(0)
    places = [0] * 6
    for seed in range(100):
        got = rolled_out(rule(), FakeEngine(policy, seed))
        pairs = [(got.parent[r], got.fork[r]) for r in range(16) if got.fork[r]]
        assert len(set(pairs)) == len(pairs) == 12  # 10 places in each group: none twice
        for _, fork in pairs:
            places[fork] += 1
    assert places[0] == 0
    assert all(200 < n < 280 for n in places[1:])  # 240 are expected, with a deviation of 10


def test_completions_that_end_at_once_are_copied():
    class AtOnce(FakeEngine):
        def generate(self, prompts, spent, copies):
            self.calls.append((prompts, spent, copies))
            return [[0] for _ in prompts], [[-1.0] for _ in prompts]

    for at in PLACES:
        fake = AtOnce(TabularPolicy(end=0))
        got = rolled_out(rule(at), fake, prompts=[PROMPT] * 8)
        assert got.completion_ids == [[0]] * 8
        assert got.fork == [0, 0] + [1] * 6
        assert fake.calls[1:] == [([], [], 1)]
        counts = got.counts()
        assert (counts.generated, counts.copies, counts.forks) == (2, 6, 0)


def test_empty_completions_are_copied():
    class Silent(FakeEngine):
        def generate(self, prompts, spent, copies):
            return [[] for _ in prompts], [[] for _ in prompts]

    for at in PLACES:
        got = rolled_out(rule(at), Silent(TabularPolicy(end=0)), prompts=[PROMPT] * 8)
        assert (got.completion_ids, got.fork) == ([[]] * 8, [0] * 8)
        assert got.counts().generated == 0


def test_a_group_that_straddles_processes_forks_on_each():
    policy = TabularPolicy(T=6, seed=0)
    got = rolled_out(rule(roots=4), FakeEngine(policy), prompts=[PROMPT] * 6, first=6)
    # Two rows of the first group, four of the second.
    assert [got.parent[r] == r for r in range(6)] == [True, False, True, True, False, False]
    assert got.parent[1] == 0
    assert {got.parent[4], got.parent[5]} <= {2, 3}


def test_different_prompts_in_a_group_are_refused():
    prompts = [[100], [100], [101], [100]]
    with pytest.raises(ValueError, match=r"completions 0 and 2 .* different prompts"):
        rolled_out(rule(), FakeEngine(TabularPolicy()), group=4, prompts=prompts)


@pytest.mark.parametrize("at", ["random", "fraction"])
@pytest.mark.parametrize("forks", ["spread", "even"])
def test_the_mean_gradient_is_that_of_independent_samples(at, forks):
    """Over groups as they are really drawn, of completions of different lengths."""
    torch.manual_seed(0)
    policy = TabularPolicy(T=4, end=0, seed=1)
    fake = FakeEngine(policy, seed=1)
    made, size, groups = rule(at, forks, roots=2), 4, 6000
    drawn = []
    for _ in range(groups):
        got = rolled_out(made, fake, group=size, prompts=[PROMPT] * size)
        rows = [tuple(ids) for ids in got.completion_ids]
        drawn.append((1 / groups, rows, got.parent, got.fork))
    batch = AllGroups(policy, drawn)
    for shrinkage in (0.0, 1.0, math.inf):
        credit = branch_advantages(batch.rewards, batch.branched, shrinkage=shrinkage)
        mean = batch.mean_gradient(credit)
        assert cosine(mean, policy.true_gradient()) > 0.99
        assert 0.9 < mean.norm() / policy.true_gradient().norm() < 1.1
    credit = branch_advantages(batch.rewards, batch.branched)
    weight = branch_weights(batch.branches, batch.groups, policy.T)
    assert cosine(batch.mean_gradient(credit, weight), policy.true_gradient()) > 0.99
    edge = 1 / batch.branched.sizes().clamp(min=1)
    credit = branch_advantages(batch.rewards, batch.branched)
    assert cosine(batch.mean_gradient(credit, edge), policy.true_gradient()) < 0.99
