"""What is run: the plan, and the rules that choose methods and learning rates.

The rules stand here, in code, and were fixed before any result was looked at; pilots of one or two
seeds had set the tasks' rewards and grids:

- A learning rate is chosen per method and task by the mean area under the accuracy curve over the
  tuning seeds, the smaller one in a tie; each method gets the same number of trials. Tuning seeds
  are used for nothing else.
- Stage 1 ranks by the mean over its tasks of that area at the best of the three rates.
- Stage 2 takes `ALWAYS`, the best of each family of `BEST_OF`, then the best of what is left, 10 in
  all. Process supervision sees rewards of steps that the others do not, and `search` has none: it
  has no part in means over all tasks, and ends with stage 1.
- One thing was changed after a look at stage 1: the family `floor` was added and took the place of
  `process` in `BEST_OF`, and GRPO with and without a floor that of a ninth and tenth method: the
  one method with a floor led by far, and nothing told whether that was its floor or its trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .estimators import area_under_curve
from .methods import METHODS, REFERENCE
from .runs import Record
from .tasks import BRANCHED, SHORT, TASKS
from .training import Run

# The fourth is what the package had as its defaults when this was first run.
ALWAYS = ("DAPO", "Dr. GRPO", "λ-GRPO", "Dr. GRPO + sets + recent 0.99", "GRPO", "GRPO + floor")
BEST_OF = ("GRPO-λ", "tree", "floor")
METHODS_IN_STAGE_2 = 10
# These are measured by themselves (comparisons.py), against generated tokens.
APART = ("branching", "probe")
SCREENED = tuple(name for name, method in METHODS.items() if method.family not in APART)
Lookup = Callable[[Run], Record | None]


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        screening_tasks: of stage 1; the two cheapest.
        generations: at most so many in a run; None for the task's own number.
    """

    screening_methods: tuple[str, ...] = SCREENED
    screening_tasks: tuple[str, ...] = ("early", "search")
    screening_seeds: tuple[int, ...] = (2000, 2001, 2002)
    tasks: tuple[str, ...] = tuple(name for name in TASKS if name not in (BRANCHED, SHORT))
    tuning_seeds: tuple[int, ...] = (1000, 1001, 1002)
    seeds: tuple[int, ...] = tuple(range(10))
    methods: int = METHODS_IN_STAGE_2
    always: tuple[str, ...] = ALWAYS
    best_of: tuple[str, ...] = BEST_OF
    rates: int | None = None
    generations: int | None = None

    def run(self, task: str, method: str, rate: float, seed: int) -> Run:
        full = TASKS[task].generations
        return Run(task, method, rate, seed, min(full, self.generations or full))

    def grid(self, task: str) -> tuple[float, ...]:
        return TASKS[task].learning_rates[: self.rates]


FULL = Plan()
SMOKE = Plan(
    screening_methods=("Dr. GRPO", "Dr. GRPO + recent 0.99"),
    screening_tasks=("search",),
    screening_seeds=(2000,),
    tasks=("search",),
    tuning_seeds=(1000,),
    seeds=(0, 1),  # one would have no interval
    methods=2,
    always=("Dr. GRPO", "Dr. GRPO + recent 0.99"),
    best_of=(),
    rates=1,
    generations=5,
)


def only(plan: Plan, methods: Sequence[str]) -> Plan:
    """The plan with these methods alone, and the one that all are compared with.

    Raises:
        SystemExit: there is no method of that name.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise SystemExit(f"--methods: no {', '.join(unknown)}; there are {', '.join(METHODS)}.")
    chosen = tuple(dict.fromkeys([REFERENCE, *methods]))
    return replace(
        plan,
        screening_methods=chosen,
        screening_tasks=("early",),  # its scores choose nothing here
        screening_seeds=(2000,),
        always=chosen,
        best_of=(),
        methods=len(chosen),
    )


def applies(method: str, task: str) -> bool:
    return TASKS[task].steps is not None or not METHODS[method].needs_steps


def screening(plan: Plan) -> list[Run]:
    """Stage 1. Seeds come first: a run that is cut short has something of every method."""
    return [
        plan.run(task, method, rate, seed)
        for seed in plan.screening_seeds
        for task in plan.screening_tasks
        for method in plan.screening_methods
        if applies(method, task)
        for rate in plan.grid(task)
    ]


def tuning(plan: Plan, methods: Iterable[str]) -> list[Run]:
    methods = list(methods)
    return [
        plan.run(task, method, rate, seed)
        for seed in plan.tuning_seeds
        for task in plan.tasks
        for method in methods
        if applies(method, task)
        for rate in plan.grid(task)
    ]


def final(plan: Plan, rates: dict[tuple[str, str], float]) -> list[Run]:
    return [
        plan.run(task, method, rate, seed)
        for seed in plan.seeds
        for (method, task), rate in rates.items()
    ]


def area(record: Record) -> float:
    steps, _, accuracies = zip(*record["curve"], strict=True)
    return area_under_curve(steps, accuracies)


def mean_areas(
    plan: Plan, lookup: Lookup, method: str, task: str, seeds: Iterable[int]
) -> dict[float, float]:
    """Of each learning rate, where all its seeds are there; a run that failed learnt nothing."""
    areas = {}
    for rate in plan.grid(task):
        records = [lookup(plan.run(task, method, rate, seed)) for seed in seeds]
        if all(records):
            areas[rate] = float(np.mean([0.0 if "error" in r else area(r) for r in records]))
    return areas


def best_rate(areas: dict[float, float]) -> float:
    return max(sorted(areas), key=lambda rate: areas[rate])


def screening_scores(plan: Plan, lookup: Lookup) -> dict[str, dict]:
    """For each method `score`, and for each task the areas of its rates; best first.

    Methods that lack a task or a rate are left out: they have had fewer trials.
    """
    scores = {}
    for method in plan.screening_methods:
        tasks = [t for t in plan.screening_tasks if applies(method, t)]
        areas = {t: mean_areas(plan, lookup, method, t, plan.screening_seeds) for t in tasks}
        if all(len(areas[t]) == len(plan.grid(t)) for t in tasks):
            best = [max(areas[t].values()) for t in tasks]
            whole = len(tasks) == len(plan.screening_tasks)
            scores[method] = {"score": float(np.mean(best)), "areas": areas, "all_tasks": whole}
    return dict(sorted(scores.items(), key=lambda item: -item[1]["score"]))


def choose_methods(plan: Plan, scores: dict[str, dict]) -> list[str]:
    """The methods of stage 2, by the rule at the head of this file."""
    chosen = list(plan.always)
    for family in plan.best_of:
        chosen += [m for m in scores if METHODS[m].family == family and m not in chosen][:1]
    rest = [m for m in scores if m not in chosen and scores[m]["all_tasks"]]
    return [*chosen, *rest[: max(0, plan.methods - len(chosen))]]


def choose_rates(
    plan: Plan, lookup: Lookup, methods: Iterable[str]
) -> dict[tuple[str, str], float]:
    """(method, task) → learning rate, where all trials of the pair are done."""
    rates = {}
    for method in methods:
        for task in plan.tasks:
            areas = mean_areas(plan, lookup, method, task, plan.tuning_seeds)
            if applies(method, task) and len(areas) == len(plan.grid(task)):
                rates[method, task] = best_rate(areas)
    return rates
