"""The outcome of a branched generation: completions, where each comes from, and metrics."""

from __future__ import annotations

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
        position: sum of the forks' positions, in tokens.
    """

    rows: int
    generated: int
    shared: int
    forks: int
    copies: int
    position: int


@dataclass(frozen=True)
class Rollout:
    """A process's completions, and where each comes from.

    Attributes:
        completion_ids, log_probs: each row's, tokens that it took over included; there are no
            log-probabilities where the engine returns none.
        parent: row whose first tokens a row took over; its own where it took over none.
        fork: how many it took over; all of them if it is a copy of a completion that ended before
            its fork.
    """

    completion_ids: list[Ids]
    log_probs: list[list[float]] | None
    parent: list[int]
    fork: list[int]

    def counts(self) -> Counts:
        lengths = list(map(len, self.completion_ids))
        copied = [0 < fork == n for n, fork in zip(lengths, self.fork, strict=True)]
        forks = [fork for fork, copy in zip(self.fork, copied, strict=True) if fork and not copy]
        return Counts(
            rows=len(lengths),
            generated=sum(lengths) - sum(self.fork),
            shared=sum(self.fork),
            forks=len(forks),
            copies=sum(copied),
            position=sum(forks),
        )


def rollout_metrics(counts: Sequence[Counts]) -> dict[str, float]:
    """Metrics of a batch from the counts of all processes.

    rollout/generated_tokens and rollout/shared_tokens are sums over the batch, rollout/copies is
    the share of completions that ended before their fork, and rollout/fork_position the mean number
    of tokens before a fork.
    """
    rows, generated, shared, forks, copies, position = (
        sum(values) for values in zip(*(tuple(vars(one).values()) for one in counts), strict=True)
    )
    metrics = {
        "rollout/generated_tokens": float(generated),
        "rollout/shared_tokens": float(shared),
        "rollout/copies": copies / rows,
    }
    if forks:
        metrics["rollout/fork_position"] = position / forks
    return metrics
