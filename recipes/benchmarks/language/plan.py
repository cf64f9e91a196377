"""What is run, and the rules that choose learning rates; they stand in README.md as well.

The rules were fixed before any arm was run:

- Each arm gets the same learning rates with the same tuning seeds, and is measured on the problems
  for validation. The rate with the highest mean accuracy at the end is chosen, the smaller one in a
  tie. With one rate there is nothing to choose, and the report says that it was not tuned.
- The final seeds are others, and so are the problems that they are measured on.
- An arm is compared with `grpo` seed by seed, by the rule of `learning/verdict.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from trl_lambda.atomic_write import replace_json
from trl_lambda.methods import OPTIONS, preset_value
from trl_lambda.probe.step_ends import StepEnds
from trl_lambda.versions import TRAINING, installed_versions

from ..learning.plan import best_rate
from ..learning.runs import Record
from ..learning.warm_start import fingerprint
from . import arms
from .tasks import Task, first, task
from .training import Run, Size, make_config, measure_start, train

REFERENCE = "grpo"
ARMS = (REFERENCE, "grpo + floor", "dr_grpo", "grpo + trace_style=recent + floor")


@dataclass(frozen=True)
class Plan:
    """Arms, rates, seeds and sizes.

    Attributes:
        start: folder or name of the model that every run begins with.
        made: what the start was made with, for the record and the keys of runs.
        data: a folder with the problems, see `tasks.task`.
    """

    task: str
    start: str
    made: str
    size: Size
    arms: tuple[str, ...] = ARMS
    rates: tuple[float, ...] = (5e-6, 1e-5, 2e-5)
    tuning_seeds: tuple[int, ...] = (1000, 1001)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    data: str | None = None

    @cached_property
    def digests(self) -> dict[str, str]:
        """Of the problems in `data`, by part; none without it. A worker gets them with the plan."""
        if not self.data:
            return {}
        described = self.task_itself()
        return {part: fingerprint({"rows": described.part(part)}) for part in self.parts()}

    def parts(self) -> tuple[str, ...]:
        """The parts of the problems that the runs need."""
        tuned = ("validation",) if len(self.rates) > 1 else ()
        return ("training", "held_out", *tuned)

    def task_itself(self) -> Task:
        return task(self.task, Path(self.data) if self.data else None)

    def run(self, arm: str, rate: float, seed: int) -> Run:
        part = "validation" if seed in self.tuning_seeds else "held_out"
        return Run(self.task, arm, rate, seed, part)

    def tuning(self) -> list[Run]:
        """Seeds come first: a run that is cut short has something of every arm."""
        if len(self.rates) == 1:
            return []
        return [
            self.run(arm, rate, seed)
            for seed in self.tuning_seeds
            for arm in self.arms
            for rate in self.rates
        ]

    def final(self, rates: dict[str, float]) -> list[Run]:
        return [self.run(arm, rates[arm], seed) for seed in self.seeds for arm in rates]


def checked(plan: Plan) -> Plan:
    """The plan, with the arm that all are compared with.

    Raises:
        SystemExit: an arm is not known, a seed or a rate is given twice, a seed is for tuning and
            for the results, or a step's completions cannot be had in equal parts.
    """
    for arm in plan.arms:
        arms.settings(arm)
    for name in ("seeds", "tuning_seeds", "rates"):
        given = getattr(plan, name)
        if twice := [v for v in dict.fromkeys(given) if given.count(v) > 1]:
            raise SystemExit(
                f"--{name}: {', '.join(map(str, twice))} more than once; a run that is "
                "counted twice tells no more than one."
            )
    size = plan.size
    if (rows := size.groups * size.completions) % size.at_once():
        raise SystemExit(
            f"A step has {size.groups} × {size.completions} = {rows} completions (--groups × "
            f"--completions), and they go through the model in parts of {size.micro_batch} "
            "(--micro_batch), which would leave some out; give a micro_batch that divides "
            f"{rows}."
        )
    if both := sorted({*plan.seeds} & {*plan.tuning_seeds}):
        raise SystemExit(f"The seeds {both} are for tuning and for the results; they must differ.")
    return replace(plan, arms=tuple(dict.fromkeys((REFERENCE, *plan.arms))))


def ready(plan: Plan) -> Plan:
    """The plan, after all that its runs need was made once, here and not in a worker.

    There a wrong option of an arm or a missing file would be the failure of each run, and count as
    one that is never right.

    Raises:
        SystemExit: an arm cannot be built, or problems are missing.
    """
    described, size = plan.task_itself(), plan.size
    for part in plan.parts():
        count, option = (
            (size.groups, "--groups") if part == "training" else (size.held_out, "--held_out")
        )
        first(described, part, count, option)
    for arm in plan.arms:
        run = plan.run(arm, plan.rates[0], plan.seeds[0])
        try:
            made = make_config(run, described, size, Path("unused"))
            StepEnds(made.credit_rule.step_ends, str)
        except (TypeError, ValueError) as error:
            raise SystemExit(f"arm {arm!r}: {error}") from error
    return plan


def key(run: Run, plan: Plan) -> str:
    """Of all settings and versions that decide the numbers of a run; not of the code.

    The credit is spelt out: `default` may mean another one in a later version. Problems that are
    made here are known by the task's name, those in `data` by what they are; without `data` the key
    is what it has always been.
    """
    told = arms.settings(run.arm)
    credit = {option: preset_value(told["method"], option) for option in OPTIONS} | told
    return fingerprint(
        {
            "run": asdict(run),
            "credit": credit,
            "size": asdict(plan.size),
            "start": plan.made,
            "tokens": plan.task_itself().tokens,
            "versions": installed_versions(*TRAINING),
        }
        | of_data(plan, "training", run.part)
    )


def of_data(plan: Plan, *parts: str) -> dict[str, dict[str, str]]:
    """What a key gets where the plan's problems were given."""
    return {"data": {part: plan.digests[part] for part in parts}} if plan.data else {}


def perform(run: Run, plan: Plan, folder: Path, *, keep: bool = False) -> Record:
    """In a worker: what the run's record gets.

    Args:
        keep: whether the trained model stays, in `folder/models`.
    """
    name = key(run, plan)
    kept = folder / "models" / f"{run.arm.replace(' ', '_')}-{name}" if keep else None
    start = started(plan, run.part, folder)
    own = folder / "runs" / name
    return train(run, plan.task_itself(), plan.size, plan.start, start, own, kept)


def started(plan: Plan, part: str, folder: Path) -> dict:
    """The measurement of the start on a part of the problems; made once, and kept.

    As with the warm start, versions of packages are not in its name: both are what a comparison
    begins with, and stay when it goes on with a new version.
    """
    told = {"start": plan.made, "task": plan.task, "part": part, "size": asdict(plan.size)}
    told |= of_data(plan, part)
    path = folder / f"start-{part}-{fingerprint(told)}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace_json(path, measure_start(plan.task_itself(), plan.size, plan.start, part))
    return json.loads(path.read_text())


def chosen_rates(plan: Plan, lookup: Callable[[Run], Record | None]) -> dict[str, float]:
    """Arm → learning rate, where all trials of the arm are done."""
    if len(plan.rates) == 1:
        return dict.fromkeys(plan.arms, plan.rates[0])
    rates = {}
    for arm in plan.arms:
        scores = {r: _score(plan, lookup, arm, r) for r in plan.rates}
        if None not in scores.values():
            rates[arm] = best_rate(scores)
    return rates


def _score(plan: Plan, lookup, arm: str, rate: float) -> float | None:
    """Mean final accuracy over the tuning seeds; a run that failed was never right."""
    records = [lookup(plan.run(arm, rate, seed)) for seed in plan.tuning_seeds]
    return float(np.mean([final(r)["accuracy"] for r in records])) if all(records) else None


def final(record: Record) -> dict:
    """The last point of a run's curve; of a run that failed, one that was never right."""
    if "error" in record:
        return {"accuracy": 0.0, "pass_at_k": 0.0}
    return record["curve"][-1]


def keys(plan: Plan) -> Callable[[Run], str]:
    return partial(key, plan=plan)
