"""What a branched generation gave: completions, where each comes from, and metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Ids = list[int]


@dataclass(frozen=True)
class Counts:
    """Sums over the completions of one process.

    Attributes:
        rows: completions.
        generated, shared: completion tokens that were sampled, and that were taken over.
        forks: completions that took some over and sampled others.
        copies: completions that took over all: they ended before their fork.
        position: of the forks, in tokens, added up.
        entropies: of the policy at the forks, added up.
        known: forks whose entropy is known.
    """

    rows: int
    generated: int
    shared: int
    forks: int
    copies: int
    position: int
    entropies: float
    known: int


@dataclass(frozen=True)
class Rollout:
    """A process's completions, and where each comes from.

    Attributes:
        completion_ids, log_probs: of each row, what it took over included; log-probabilities are
            None where the engine returns none.
        parent: row whose first tokens a row took over; its own where it took over none.
        fork: how many it took over; all of them if it is a copy of a completion that ended before
            its fork.
        entropy: of the policy at the fork; NaN where there is no fork or no entropy was asked for.
    """

    completion_ids: list[Ids]
    log_probs: list[list[float]] | None
    parent: list[int]
    fork: list[int]
    entropy: list[float]

    def counts(self) -> Counts:
        lengths = list(map(len, self.completion_ids))
        copied = [0 < fork == n for n, fork in zip(lengths, self.fork, strict=True)]
        forks = [fork for fork, copy in zip(self.fork, copied, strict=True) if fork and not copy]
        known = [entropy for entropy in self.entropy if not math.isnan(entropy)]
        return Counts(
            rows=len(lengths),
            generated=sum(lengths) - sum(self.fork),
            shared=sum(self.fork),
            forks=len(forks),
            copies=sum(copied),
            position=sum(forks),
            entropies=sum(known),
            known=len(known),
        )


def rollout_metrics(counts: Sequence[Counts]) -> dict[str, float]:
    """Metrics of a batch from the counts of all processes.

    rollout/generated_tokens and rollout/shared_tokens are sums over the batch, rollout/copies is
    the share of completions that ended before their fork, rollout/fork_position the mean number of
    tokens before a fork, and rollout/fork_entropy the policy's mean entropy there, in nats, where
    it is known.
    """
    rows, generated, shared, forks, copies, position, entropies, known = (
        sum(values) for values in zip(*(tuple(vars(one).values()) for one in counts), strict=True)
    )
    metrics = {
        "rollout/generated_tokens": float(generated),
        "rollout/shared_tokens": float(shared),
        "rollout/copies": copies / rows,
    }
    if forks:
        metrics["rollout/fork_position"] = position / forks
    if known:
        metrics["rollout/fork_entropy"] = entropies / known
    return metrics
