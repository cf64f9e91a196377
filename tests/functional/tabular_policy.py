"""A tiny policy with a logit for each prefix and token, and every branched group it can draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from trl_lambda.functional import Branches, branch_sets, prefix_sets

Row = tuple[int, ...]
Group = tuple[float, list[Row], list[int], list[int]]
"""Its probability, its completions, their parents and their forks."""


class TabularPolicy:
    """Completions of up to T tokens; the token `end`, where there is one, ends them."""

    def __init__(self, vocabulary: int = 2, T: int = 3, *, end: int | None = None, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.vocabulary, self.T, self.end = vocabulary, T, end
        self.completions = self.continuations(())
        prefixes = sorted({row[:t] for row in self.completions for t in range(len(row))})
        self.state = {prefix: n for n, prefix in enumerate(prefixes)}
        logits = torch.randn(len(prefixes), vocabulary, generator=generator, dtype=torch.float64)
        self.probabilities = logits.softmax(1)
        draws = torch.randn(len(self.completions), generator=generator, dtype=torch.float64)
        self.reward = dict(zip(self.completions, draws.tolist(), strict=True))

    def finished(self, prefix: Row) -> bool:
        return len(prefix) == self.T or self.end in prefix

    def continuations(self, prefix: Row) -> list[Row]:
        if self.finished(prefix):
            return [prefix]
        return [row for a in range(self.vocabulary) for row in self.continuations((*prefix, a))]

    def chance(self, row: Row, taken: int = 0) -> float:
        """Probability of a completion given its first `taken` tokens."""
        return math.prod(
            self.probabilities[self.state[row[:t]], row[t]].item() for t in range(taken, len(row))
        )

    def gradient(self, credit: Tensor) -> Tensor:
        """Σ credit·∇log π over (state, token), with regard to the logits."""
        return credit - credit.sum(1, keepdim=True) * self.probabilities

    def true_gradient(self) -> Tensor:
        """∇ E[r]."""
        credit = torch.zeros_like(self.probabilities)
        for row in self.completions:
            for t, token in enumerate(row):
                credit[self.state[row[:t]], token] += self.chance(row) * self.reward[row]
        return self.gradient(credit)

    # Ways to fork

    def roots(self, children: int, forks: Callable[[Row], Iterable[tuple[int, float]]]):
        """A root continued `children` ways; `forks` gives the positions and their probabilities."""
        for row in self.completions:
            for fork, chance in forks(row):
                again = itertools.repeat(self.continuations(row[:fork]), children - 1)
                for others in itertools.product(*again):
                    p = chance * self.chance(row) * math.prod(self.chance(o, fork) for o in others)
                    positions = [0] + [fork] * (children - 1)
                    yield p, [row, *others], [0] * children, positions

    def chains(self):
        """Two levels: the root is forked at 1, and its fork at 2."""
        for row in self.completions:
            for child in self.continuations(row[:1]):
                for grandchild in self.continuations(child[:2]):
                    p = self.chance(row) * self.chance(child, 1) * self.chance(grandchild, 2)
                    yield p, [row, child, grandchild], [0, 0, 1], [0, 1, 2]

    def spread(self, roots: int, forks: int) -> Iterator[Group]:
        """Forks at some of all the tokens of all finished roots, all choices alike."""
        for rows in itertools.product(self.completions, repeat=roots):
            places = [(i, t) for i, row in enumerate(rows) for t in range(len(row))]
            choices = list(itertools.combinations(places, forks))
            for choice in choices:
                again = [self.continuations(rows[i][:t]) for i, t in choice]
                for others in itertools.product(*again):
                    p = math.prod(map(self.chance, rows)) / len(choices)
                    for (_, t), other in zip(choice, others, strict=True):
                        p *= self.chance(other, t)
                    parents = [*range(roots), *(i for i, _ in choice)]
                    yield p, [*rows, *others], parents, [0] * roots + [t for _, t in choice]


def independent(parts: Iterable[Group], number: int) -> Iterator[Group]:
    """Groups of so many roots, each with what hangs on it."""
    for chosen in itertools.product(list(parts), repeat=number):
        chance, rows, parents, forks = 1.0, [], [], []
        for p, own, own_parents, own_forks in chosen:
            chance *= p
            parents += [len(rows) + parent for parent in own_parents]
            forks += own_forks
            rows += own
        yield chance, rows, parents, forks


class AllGroups:
    """Every group as one batch, and the mean over them of a policy gradient."""

    def __init__(self, policy: TabularPolicy, groups: Iterable[Group]):
        chances, rows, parents, forks = zip(*groups, strict=True)
        assert math.isclose(sum(chances), 1.0)
        self.policy, self.size, T = policy, len(rows[0]), policy.T
        flat = [row for own in rows for row in own]
        self.ids = torch.tensor([[*row, *[0] * (T - len(row))] for row in flat])
        self.lengths = torch.tensor([len(row) for row in flat])
        self.groups = torch.arange(len(rows)).repeat_interleave(self.size)
        self.rewards = torch.tensor([policy.reward[row] for row in flat], dtype=torch.float64)
        first = torch.arange(len(rows))[:, None] * self.size
        self.branches = branches = Branches(
            (torch.tensor(parents) + first).flatten(), torch.tensor(forks).flatten()
        )
        self.equal = prefix_sets(self.ids, self.lengths, self.groups)
        self.branched = branch_sets(self.ids, self.lengths, self.groups, branches)
        self._chance = torch.tensor(chances, dtype=torch.float64)[self.groups, None] / self.size
        self._there = torch.arange(T) < self.lengths[:, None]
        self._state = torch.tensor(
            [[policy.state.get(row[:t], 0) for t in range(T)] for row in flat]
        )

    def mean_gradient(self, credit: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """All rows weighted alike, but for `weight`."""
        policy = self.policy
        flat = torch.zeros(policy.probabilities.numel(), dtype=torch.float64)
        where = (self._state * policy.vocabulary + self.ids).flatten()
        flat.index_add_(0, where, (credit * weight * self._chance * self._there).flatten())
        return policy.gradient(flat.view_as(policy.probabilities))


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def one_of(positions: Sequence[int]) -> Callable[[Row], Iterable[tuple[int, float]]]:
    """A fork position drawn before the root is."""
    return lambda row: [(fork, 1 / len(positions)) for fork in positions]
