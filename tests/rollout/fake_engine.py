"""An engine that samples from a tabular policy, and notes what it was asked for."""

from __future__ import annotations

import math
import random

from tabular_policy import Row, TabularPolicy

from trl_lambda.rollout.waves import Engine

PROMPT = [100]


class FakeEngine:
    """Attributes:
    calls: (prompts, tokens spent, copies) of each wave.
    """

    def __init__(self, policy: TabularPolicy, seed: int = 0, *, log_probs: bool = True):
        self.policy, self.random = policy, random.Random(seed)
        self.log_probs = log_probs
        self.calls: list[tuple[list[list[int]], list[int], int]] = []

    def engine(self, budget: int | None = None) -> Engine:
        ends = [] if self.policy.end is None else [self.policy.end]
        return Engine(
            generate=self.generate,
            score=self.score,
            doubt=self.doubt,
            end_ids=frozenset(ends),
            ends_line=lambda token: token == 1,
            budget=self.policy.T if budget is None else budget,
        )

    def generate(self, prompts, spent, copies):
        self.calls.append((prompts, spent, copies))
        rows = [self._finished(tuple(p[len(p) - n :])) for p, n in zip(prompts, spent, strict=True)]
        new = [list(row[n:]) for row, n in zip(rows, spent, strict=True)]
        if not self.log_probs:
            return new, None
        chances = [self._log_probs(row)[n:] for row, n in zip(rows, spent, strict=True)]
        return new, chances

    def score(self, prompts, completions):
        """Entropies are the position modulo 3, so that a test knows them."""
        rows = [tuple(row) for row in completions]
        entropies = [[float(t % 3) for t in range(len(row))] for row in rows]
        return [self._log_probs(row) for row in rows], entropies

    def doubt(self, rows, prompts, completions):
        """Told of every other place, the more the later; of rows 2 and 6 nothing."""
        return [
            [float(t) if t % 2 == 0 and row not in (2, 6) else -math.inf for t in range(len(ids))]
            for row, ids in zip(rows, completions, strict=True)
        ]

    def _finished(self, prefix: Row) -> Row:
        while not self.policy.finished(prefix):
            weights = self.policy.probabilities[self.policy.state[prefix]].tolist()
            prefix = (*prefix, *self.random.choices(range(len(weights)), weights))
        return prefix

    def _log_probs(self, row: Row) -> list[float]:
        states = [self.policy.state[row[:t]] for t in range(len(row))]
        return [
            self.policy.probabilities[state, token].log().item()
            for state, token in zip(states, row, strict=True)
        ]
