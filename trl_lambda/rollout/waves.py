"""Generates branched groups in waves: the roots, then the forks of each level.

Nothing here knows the engine: it is a function that continues given token ids.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .outcome import Ids, Rollout
from .places import Candidate, Place, Places, Turn, expected_lengths, reach_of
from .rule import BranchRule, BranchSizes


class Generate(Protocol):
    """Continues token ids; any number of them, on each process another.

    Args:
        prompts: token ids, one list for each completion.
        spent: how many tokens of each one's budget the end of its prompt has used up.
        copies: each prompt stands so often in a row.
    """

    def __call__(
        self, prompts: list[Ids], spent: list[int], copies: int
    ) -> tuple[list[Ids], list[list[float]] | None]: ...


Scores = tuple[list[list[float]], list[list[float]]]
Score = Callable[[list[Ids], list[Ids]], Scores]
"""(prompts, completions) -> of each completion token its log-probability, and the policy's entropy
before it."""
Doubt = Callable[[list[int], list[Ids], list[Ids]], list[list[float]]]
"""(rows, their prompts, completions) -> of each completion V(1 − V) of the prefix before each of
its tokens, V a share of the rewards' range; −∞ where it is not told."""


@dataclass(frozen=True)
class Engine:
    """An engine that generates, and its limits.

    Attributes:
        generate: continues token ids.
        score: asks the policy; for `branch_at="entropy"`, and for "surprise" where `generate`
            returns no log-probabilities.
        doubt: how uncertain the reward is at the places of completions; for `branch_at="value"`.
        end_ids: tokens that end a completion.
        ends_line: whether a token ends a line.
        budget: completion tokens at most; None for no bound.
    """

    generate: Generate
    score: Score
    doubt: Doubt
    end_ids: frozenset[int]
    ends_line: Callable[[int], bool]
    budget: int | None


def branch(
    engine: Engine, rule: BranchRule, sizes: BranchSizes, prompts: list[Ids], first_row: int
) -> Rollout:
    """Completions of a process's rows, forked within its part of each group.

    Args:
        prompts: token ids of the prompt of each row, those of a group in a row.
        first_row: number of the first row among those of all processes.

    Raises:
        ValueError: a number of rows that is no multiple of `sizes.unit`; prompts that differ within
            a group.
    """
    if fault := sizes.share_fault(len(prompts)):
        raise ValueError(fault)
    shares = [list(range(len(prompts)))[part] for part in sizes.shares(first_row, len(prompts))]
    _check_same_prompts(prompts, shares)
    growing = _Growing(engine, rule, prompts)
    # Rows of a share: its roots, then the forks of each wave.
    counts = [sizes.of_share(len(share)) for share in shares]
    roots = [row for share, count in zip(shares, counts, strict=True) for row in share[: count[0]]]
    growing.add_roots(roots, copies=sizes.roots)
    for level in range(rule.levels):
        forks: list[tuple[int, int, int | None]] = []
        for share, count in zip(shares, counts, strict=True):
            there = sum(count[: level + 1])
            candidates, new = share[:there], share[there : there + count[level + 1]]
            places = growing.places(candidates, len(new), level)
            forks += [
                (row, candidates[at.candidate], at.tokens)
                for row, at in zip(new, places, strict=True)
            ]
        growing.add_forks(forks)
    return growing.rollout()


class _Growing:
    """Rows that are there so far."""

    def __init__(self, engine: Engine, rule: BranchRule, prompts: list[Ids]):
        self.engine = engine
        self.rule = rule
        self.prompts = prompts
        self.choice = Places(rule, engine.ends_line)
        self.completions: dict[int, Ids] = {}
        self.log_probs: dict[int, list[float]] | None = {}
        self.parent = list(range(len(prompts)))
        self.fork = [0] * len(prompts)
        self.scored: dict[int, list[float]] = {}
        self.uncertainty: dict[int, list[float]] = {}
        self.expected: dict[int, float] = {}

    def add_roots(self, rows: list[int], copies: int) -> None:
        """Samples rows from their prompts."""
        self._generate(rows, [[] for _ in rows], copies)
        lengths = [len(self.completions[row]) for row in rows]
        expected = expected_lengths(lengths, self.engine.budget).tolist()
        self.expected = dict(zip(rows, expected, strict=True))

    def places(self, rows: Sequence[int], forks: int, level: int) -> list[Place]:
        """Where `forks` new completions are forked from these rows."""
        candidates = [self._candidate(row) for row in rows]
        turn = Turn(level, self.rule.levels)
        if self.rule.forks == "even":
            return self.choice.even(candidates, forks // len(rows) + 1, turn)
        return self.choice.spread(candidates, forks, turn)

    def add_forks(self, forks: list[tuple[int, int, int | None]]) -> None:
        """Makes rows of others: (row, where it takes tokens over, how many; None for a copy)."""
        rows, prefixes = [], []
        for row, taken, tokens in forks:
            if tokens is None:
                self._copy(row, taken)
                continue
            rows.append(row)
            prefixes.append(self.completions[taken][:tokens])
            self._descend(row, taken, tokens)
        self._generate(rows, prefixes, copies=1)

    def rollout(self) -> Rollout:
        rows = range(len(self.prompts))
        log_probs = None if self.log_probs is None else [self.log_probs[row] for row in rows]
        completions = [self.completions[row] for row in rows]
        return Rollout(completions, log_probs, self.parent, self.fork)

    def _copy(self, row: int, taken: int) -> None:
        self._descend(row, taken, len(self.completions[taken]))
        for kept in (self.completions, self.log_probs, self.scored, self.uncertainty):
            if kept is not None and taken in kept:
                kept[row] = copy.copy(kept[taken])

    def _descend(self, row: int, taken: int, tokens: int) -> None:
        """Notes where a row comes from: from the row that generated the last token taken over."""
        self.expected[row] = self.expected[taken]
        while tokens <= self.fork[taken] and self.parent[taken] != taken:
            taken = self.parent[taken]
        self.parent[row], self.fork[row] = taken, tokens

    def _candidate(self, row: int) -> Candidate:
        ids = self.completions[row]
        return Candidate(
            token_ids=ids,
            log_probs=self.scored.get(row) if self.log_probs is None else self.log_probs[row],
            reach=reach_of(ids, self.engine.end_ids),
            expected_length=self.expected[row],
            uncertainty=self.uncertainty.get(row),
        )

    def _generate(self, rows: list[int], prefixes: list[Ids], copies: int) -> None:
        """All processes come here equally often."""
        prompts = [self.prompts[row] + taken for row, taken in zip(rows, prefixes, strict=True)]
        new, log_probs = self.engine.generate(prompts, [len(p) for p in prefixes], copies)
        for row, taken, ids in zip(rows, prefixes, new, strict=True):
            self.completions[row] = taken + ids
        self._keep_log_probs(rows, log_probs)
        self._look(rows)

    def _look(self, rows: list[int]) -> None:
        """Asks what the rule wants to know of new completions."""
        at, prompts = self.rule.at, [self.prompts[row] for row in rows]
        completions = [self.completions[row] for row in rows]
        if at == "value":
            doubts = self.engine.doubt(rows, prompts, completions)
            self.uncertainty.update(zip(rows, doubts, strict=True))
        elif at == "entropy" or (at == "surprise" and self.log_probs is None):
            log_probs, entropies = self.engine.score(prompts, completions)
            self.scored.update(zip(rows, log_probs, strict=True))
            self.uncertainty.update(zip(rows, entropies, strict=True))

    def _keep_log_probs(self, rows: list[int], log_probs: list[list[float]] | None) -> None:
        """Those of what a row took over are its parent's."""
        if log_probs is None or self.log_probs is None:
            self.log_probs = None
        else:
            for row, own in zip(rows, log_probs, strict=True):
                before = self.log_probs.get(self.parent[row], []) if self.fork[row] else []
                self.log_probs[row] = before[: self.fork[row]] + own


def _check_same_prompts(prompts: list[Ids], shares: list[list[int]]) -> None:
    for share in shares:
        for row in share:
            if prompts[row] != prompts[share[0]]:
                raise ValueError(
                    f"rollout='branch': completions {share[0]} and {row} of this process belong to "
                    "one group and have different prompts (an environment's, say), so that neither "
                    "can go on from the other. Use rollout='independent' there."
                )
