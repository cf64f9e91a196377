"""Where completions are forked.

A *place* is a number of completion tokens: the fork takes over those, and samples from there. A
rule is a *stopping time* if whether a completion is forked at a place follows from its tokens
before that place alone, and from other roots. Then the completion that was there is as good a
sample as its forks, and the mean gradient stays that of independent samples. A rule that looks at
what comes later ("entropy", "value") is *hindsight*.

The positions themselves are chosen without a look at the completion: lengths are those of the other
roots. A completion that ends before its place has nothing to fork, `None`: the row becomes a copy
of it. The copy costs no generation, and without it a completion that ended early would count for
less than one that went on, which tilts the mean gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import nlargest

import torch
from torch import Tensor

from .rule import BranchRule


@dataclass(frozen=True)
class Candidate:
    """A completion that may be forked.

    Attributes:
        token_ids: the completion's.
        log_probs: those of its tokens, as they were sampled; None where the engine does not say.
        reach: the last place at which it can be forked: that of its last token, or of its first
            end token.
        expected_length: mean length of the other roots, a guess at its length that does not look
            at it.
        uncertainty: at each place, for "entropy" the policy's entropy and for "value" V(1 − V); −∞
            where it is not told. None where it was not asked for.
    """

    token_ids: Sequence[int]
    log_probs: Sequence[float] | None
    reach: int
    expected_length: float
    uncertainty: Sequence[float] | None = None


@dataclass(frozen=True)
class Place:
    """A fork: of the candidate with this number, behind so many of its tokens; None: a copy."""

    candidate: int
    tokens: int | None


@dataclass(frozen=True)
class Turn:
    """Which of a completion's forks this is: the `number`-th of `of`, from 0."""

    number: int
    of: int


class Places:
    """Chooses places by a rule.

    Args:
        rule: which, and its numbers.
        ends_line: whether a token id ends a line; for "newline".
    """

    def __init__(self, rule: BranchRule, ends_line: Callable[[int], bool]):
        self.rule = rule
        self.ends_line = ends_line

    def even(self, candidates: Sequence[Candidate], ways: int, turn: Turn) -> list[Place]:
        """One place for each completion, and `ways` − 1 forks there."""
        if self.rule.at == "random":
            tokens = [self._random(one) for one in candidates]
        elif self.rule.hindsight:
            tokens = [self._most_uncertain(one) for one in candidates]
        else:
            tokens = [self._placed(one, turn) for one in candidates]
        return [Place(i, at) for i, at in enumerate(tokens) for _ in range(ways - 1)]

    def spread(self, candidates: Sequence[Candidate], forks: int, turn: Turn) -> list[Place]:
        """Each fork at another token of any completion, as far as there are others."""
        if self.rule.at == "random":
            return self._spread_at_random(candidates, forks)
        if self.rule.hindsight:
            return self._spread_over_uncertain(candidates, forks)
        order = torch.randperm(len(candidates)).tolist()
        rounds = -(-forks // len(candidates))
        places = []
        for number in range(forks):
            lap = number // len(candidates)
            own_turn = Turn(turn.number * rounds + lap, turn.of * rounds)
            candidate = order[number % len(candidates)]
            places.append(Place(candidate, self._placed(candidates[candidate], own_turn)))
        return places

    def _placed(self, candidate: Candidate, turn: Turn) -> int | None:
        """The place by "fraction", "newline" or "surprise"; a later turn is further on."""
        share = self.rule.fraction + (1.0 - self.rule.fraction) * turn.number / turn.of
        start = max(1, round(share * candidate.expected_length))
        if start > candidate.reach:
            return None
        if self.rule.at == "fraction":
            return start
        for place in range(start, candidate.reach + 1):
            if self._marked(candidate, place - 1):
                return place
        return None

    def _marked(self, candidate: Candidate, token: int) -> bool:
        """Whether "newline" or "surprise" fork right behind this token."""
        if self.rule.at == "newline":
            return self.ends_line(candidate.token_ids[token])
        assert candidate.log_probs is not None
        return candidate.log_probs[token] < -self.rule.surprise

    def _random(self, candidate: Candidate) -> int | None:
        """Uniform over the places of a completion of the expected length."""
        place = int(torch.randint(1, _last_place(candidate) + 1, ()))
        return place if place <= candidate.reach else None

    def _most_uncertain(self, candidate: Candidate) -> int | None:
        best = _uncertain(candidate, 1)
        return best[0][1] if best else self._random(candidate)

    def _spread_over_uncertain(self, candidates: Sequence[Candidate], forks: int) -> list[Place]:
        """The most uncertain places of all completions; at random where too few are told."""
        ranked = [
            (doubt, number, at)
            for number, candidate in enumerate(candidates)
            for doubt, at in _uncertain(candidate, forks)
        ]
        places = [Place(number, at) for _, number, at in nlargest(forks, ranked)]
        left = forks - len(places)
        return places + (self._spread_at_random(candidates, left) if left else [])

    def _spread_at_random(self, candidates: Sequence[Candidate], forks: int) -> list[Place]:
        """Uniform over completions and places, without taking a place twice while there are new."""
        lasts = torch.tensor([_last_place(one) for one in candidates])
        ends = lasts.cumsum(0)
        laps = -(-forks // int(ends[-1]))
        numbers = torch.cat([torch.randperm(int(ends[-1])) for _ in range(laps)])[:forks]
        owners = torch.searchsorted(ends, numbers, right=True)
        places = numbers - (ends - lasts)[owners] + 1
        return [
            Place(owner, place if place <= candidates[owner].reach else None)
            for owner, place in zip(owners.tolist(), places.tolist(), strict=True)
        ]


def _last_place(candidate: Candidate) -> int:
    """The last place of a completion of the expected length."""
    return max(1, round(candidate.expected_length) - 1)


def _uncertain(candidate: Candidate, count: int) -> list[tuple[float, int]]:
    """The `count` most uncertain places, best first; place 0 would share nothing."""
    assert candidate.uncertainty is not None
    told = [(doubt, at) for at, doubt in enumerate(candidate.uncertainty[: candidate.reach + 1])]
    return nlargest(count, (one for one in told[1:] if one[0] > -math.inf))


def reach_of(token_ids: Sequence[int], end_ids: frozenset[int]) -> int:
    """The last place at which a completion can be forked: its end token may be sampled anew."""
    ends = (at for at, token in enumerate(token_ids) if token in end_ids)
    return min(next(ends, len(token_ids)), max(len(token_ids) - 1, 0))


def expected_lengths(lengths_R: Sequence[int], budget: int | None) -> Tensor:
    """For each root the mean length of the others; of a single root half the budget."""
    lengths = torch.tensor(lengths_R, dtype=torch.float64)
    if len(lengths) == 1:
        return lengths if budget is None else torch.full_like(lengths, budget / 2)
    return (lengths.sum() - lengths) / (len(lengths) - 1)
