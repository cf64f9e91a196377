"""What is run, and the rules that choose learning rates.

The rules stand here, in code. All but the steps back were fixed before any result was looked at;
pilots of one or two seeds of GRPO and `branch` had set the tasks' sizes and the rates that are
tried first:

- The learning rate is chosen for each method and task by the mean final accuracy over the tuning
  seeds, the smaller one in a tie. Tuning seeds are used for nothing else. All methods begin with
  the task's three rates. Where the best rate is the smallest or the largest that was tried, the
  next one in that direction, by a factor of √2, is tried too, until the best lies inside, or
  `GROWN` rates have been added. Trained is with the rate *one step below* the best, on `chain` two.
- Final accuracy is that after the last step. A run that crashed was never right.
- The steps back were changed after a look: without one, three seeds of results had runs of most
  methods, GRPO too, that broke. The best rate of two seeds is one that happened to hold. With one,
  11 % of GRPO's failures on `chain` were decided where its name does not say, and with two, on
  eight seeds of GRPO alone that are used for nothing else, 6 %.
- Ten other seeds are the result. A method is compared with TRL's GRPO seed by seed, by the rule of
  `verdict.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .methods import BASELINES, FORKS, METHODS, PROBES, TRACES, check_names
from .runs import Record
from .tasks import SHORT, TASKS, TINY
from .training import Run
from .verdict import REFERENCE

GROWN = 6  # rates that a grid is grown by, at most
STEPS_BELOW = {"chain": 2}
Lookup = Callable[[Run], Record | None]


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        rates: so many of a task's learning rates; None for all, and for those that are added.
    """

    methods: tuple[str, ...] = (*BASELINES, *TRACES, *FORKS, *PROBES)
    tasks: tuple[str, ...] = tuple(name for name in TASKS if name not in (SHORT, TINY))
    tuning_seeds: tuple[int, ...] = (1000, 1001)
    seeds: tuple[int, ...] = tuple(range(10))
    rates: int | None = None

    def run(self, task: str, method: str, rate: float, seed: int) -> Run:
        return Run(task, method, rate, seed, TASKS[task].generations)

    def cells(self) -> list[tuple[str, str]]:
        """(task, method): all that go together."""
        return [(t, m) for t in self.tasks for m in self.methods if applies(m, t)]


FULL = Plan()
SMOKE = Plan(
    methods=(REFERENCE, "branch"),
    tasks=(TINY,),
    tuning_seeds=(1000,),
    seeds=(0, 1),  # one would have no interval
    rates=1,
)


def only(plan: Plan, methods: Sequence[str] | None = None, seeds: int | None = None) -> Plan:
    """The plan with these methods alone and the one that all are compared with, or fewer seeds.

    Raises:
        SystemExit: there is no method of that name, no task has the answer that it asks for, or
            there are too few seeds for an interval.
    """
    check_names(methods or ())
    check_tasks(methods or (), plan.tasks)
    if seeds is not None and not 2 <= seeds <= len(plan.seeds):
        raise SystemExit(f"--seeds {seeds}: from 2, for an interval, to {len(plan.seeds)}.")
    if methods:
        plan = replace(plan, methods=tuple(dict.fromkeys([REFERENCE, *methods])))
    return replace(plan, seeds=plan.seeds[:seeds])


def applies(method: str, task: str) -> bool:
    return TASKS[task].answered or not METHODS[method].answered


def check_tasks(methods: Iterable[str], tasks: Sequence[str]) -> None:
    """Raises SystemExit where no task has what a method asks for."""
    if useless := [m for m in methods if not any(applies(m, task) for task in tasks)]:
        raise SystemExit(
            f"--methods: {', '.join(useless)} cannot be run on {', '.join(tasks)}: a probe asks "
            "for the prompt's answer, and there is none."
        )


def final_accuracy(record: Record) -> float:
    return 0.0 if "error" in record else record["curve"][-1][2]


def scores(
    plan: Plan, lookup: Lookup, task: str, method: str, rates: Iterable[float]
) -> dict[float, float | None]:
    """Learning rate → mean final accuracy over the tuning seeds; None while one is not done."""
    found = {}
    for rate in rates:
        records = [lookup(plan.run(task, method, rate, seed)) for seed in plan.tuning_seeds]
        done = [final_accuracy(record) for record in records if record]
        found[rate] = float(np.mean(done)) if len(done) == len(records) else None
    return found


def best_rate(scores: dict[float, float]) -> float:
    """The rate with the highest score, the smallest of those that tie."""
    return max(sorted(scores), key=lambda rate: scores[rate])


def grid(plan: Plan, lookup: Lookup, task: str, method: str) -> dict[float, float | None]:
    """The rates to try, ascending, with their scores; None for those that are not done yet."""
    found = scores(plan, lookup, task, method, TASKS[task].learning_rates[: plan.rates])
    limit = len(found) + (GROWN if plan.rates is None else 0)
    while None not in found.values() and len(found) < limit:
        best = best_rate(found)
        if best == min(found):
            new = neighbour(best, 2**-0.5)
        elif best == max(found):
            new = neighbour(best, 2**0.5)
        else:
            break
        found |= scores(plan, lookup, task, method, [new])
    return dict(sorted(found.items()))


def neighbour(rate: float, factor: float) -> float:
    """The next rate, to two digits."""
    return float(f"{rate * factor:.1e}")


def tuning(plan: Plan, lookup: Lookup) -> list[Run]:
    """The runs that choose rates, as far as they are known. When they are done, ask again."""
    rates = {cell: grid(plan, lookup, *cell) for cell in plan.cells()}
    return [
        plan.run(task, method, rate, seed)
        for seed in plan.tuning_seeds
        for (task, method), tried in rates.items()
        for rate in tried
    ]


def chosen_rates(plan: Plan, lookup: Lookup) -> dict[tuple[str, str], float]:
    """(task, method) → learning rate, where the grid is done."""
    grids = {cell: grid(plan, lookup, *cell) for cell in plan.cells()}
    return {
        (task, method): below_best(tried, steps_below(task))
        for (task, method), tried in grids.items()
        if None not in tried.values()
    }


def steps_below(task: str) -> int:
    """So many steps of √2 does the rate that is trained with stand below the best."""
    return STEPS_BELOW.get(task, 1)


def below_best(scores: dict[float, float], steps: int) -> float:
    """The rate so many steps below the best, be it one that was tried or not."""
    rate = best_rate(scores)
    lower = [tried for tried in sorted(scores, reverse=True) if tried < rate][:steps]
    for _ in range(steps - len(lower)):
        lower.append(neighbour(min(lower, default=rate), 2**-0.5))
    return lower[-1]


def final(plan: Plan, rates: dict[tuple[str, str], float]) -> list[Run]:
    """Seeds come first: a run that is cut short has something of every method."""
    return [plan.run(*cell, rate, seed) for seed in plan.seeds for cell, rate in rates.items()]
