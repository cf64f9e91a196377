"""Whether the sizes of a GRPO training fit each other, and which would if they do not.

TRL repeats each prompt G times. Every `steps_per_generation` micro-batches, `num_iterations` times
over, take their rows from one *generation batch*, which must hold whole groups:

    generation batch = per_device_train_batch_size · processes · steps_per_generation completions
                     = that / num_generations prompts, each for one group

`gradient_accumulation_steps` micro-batches make an optimiser step. By default
`steps_per_generation` equals them, and an optimiser step is one generation batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..rollout.rule import BranchRule

MAX_FACTOR = 8  # how far from a size a better one is looked for


@dataclass(frozen=True)
class BatchSizes:
    """Numbers under the names of `GRPOConfig`, and those that only a trainer knows.

    Attributes:
        max_completion_length: In tokens; None for no bound.
        steps_per_generation: None follows from `generation_batch_size`, or is
            `gradient_accumulation_steps`.
        generation_batch_size: Completions of all processes; None follows from the others.
        num_processes: So many as `accelerate launch` starts.
        per_device_eval_batch_size: None if nothing is evaluated.
        num_generations_eval: None for `num_generations`.
        num_prompts: Rows of the data set; None for a stream.
        num_eval_prompts: Rows of the evaluation set; None if unknown.
        branching: How completions are forked from one another; None if they are not.
    """

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    num_generations: int
    max_completion_length: int | None
    steps_per_generation: int | None = None
    generation_batch_size: int | None = None
    num_iterations: int = 1
    num_processes: int = 1
    max_steps: int = -1
    num_train_epochs: float = 1.0
    num_prompts: int | None = None
    per_device_eval_batch_size: int | None = None
    num_generations_eval: int | None = None
    num_eval_prompts: int | None = None
    branching: BranchRule | None = None

    @property
    def rows(self) -> int:
        """Completions of one micro-batch of all processes."""
        return self.per_device_train_batch_size * self.num_processes

    @property
    def completions(self) -> int:
        """Completions of a generation batch, as asked for."""
        if self.generation_batch_size is not None:
            return self.generation_batch_size
        return self.rows * (self.steps_per_generation or self.gradient_accumulation_steps)

    @property
    def eval_group(self) -> int:
        return self.num_generations_eval or self.num_generations

    @property
    def eval_rows(self) -> int | None:
        """Completions of one evaluation batch of all processes."""
        if self.per_device_eval_batch_size is None:
            return None
        return self.per_device_eval_batch_size * self.num_processes

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a generation batch."""
        return self.completions // self.rows

    @property
    def prompts(self) -> int:
        """Different prompts of a generation batch."""
        return self.completions // self.num_generations


def check_sizes(sizes: BatchSizes) -> None:
    """Raises ValueError for sizes that do not fit, with the nearest that do."""
    if fault := batch_fault(sizes):
        raise ValueError(fault)


def batch_fault(sizes: BatchSizes) -> str | None:
    """Says what does not fit, with the nearest settings that do; None if all does."""
    if fault := size_fault(sizes):
        return fault
    for check in CHECKS:
        if fault := check(sizes):
            return f"{fault}{_remedies(sizes, check)}"
    return None


def size_fault(sizes: BatchSizes) -> str | None:
    """A size that is too small by itself."""
    for name in _COUNTS:
        value = getattr(sizes, name)
        if value is not None and value < 1:
            return f"{name} is {value}, expected at least 1."
    if sizes.num_generations < 2:
        return (
            f"num_generations is {sizes.num_generations}, expected at least 2: the advantage of a "
            "completion is its reward next to those of the others for the same prompt."
        )
    return None


def train_fault(sizes: BatchSizes) -> str | None:
    """A generation batch that is not made of whole micro-batches and whole groups."""
    left = sizes.completions % sizes.rows
    if left:
        return (
            f"generation_batch_size={sizes.completions} does not divide into micro-batches of "
            f"{sizes.per_device_train_batch_size} (per_device_train_batch_size) × "
            f"{sizes.num_processes} (processes) = {sizes.rows} completions: {left} left over."
        )
    left = sizes.completions % sizes.num_generations
    if left:
        return (
            f"A generation batch has {_made_of(sizes)} completions, which do not divide into "
            f"groups of num_generations={sizes.num_generations}: {left} left over."
        )
    return None


def eval_fault(sizes: BatchSizes) -> str | None:
    """An evaluation batch that is not made of whole groups."""
    if sizes.eval_rows is None or sizes.eval_rows % sizes.eval_group == 0:
        return None
    name = "num_generations" if sizes.num_generations_eval is None else "num_generations_eval"
    return (
        f"An evaluation batch has {sizes.per_device_eval_batch_size} (per_device_eval_batch_size) "
        f"× {sizes.num_processes} (processes) = {sizes.eval_rows} completions, which do not divide "
        f"into groups of {name}={sizes.eval_group}."
    )


def data_fault(sizes: BatchSizes) -> str | None:
    """Fewer prompts than one generation batch takes: TRL would train zero steps."""
    if sizes.num_prompts is None or sizes.num_prompts >= sizes.prompts:
        return None
    return (
        f"A generation batch of {_made_of(sizes)} completions takes {sizes.prompts} different "
        f"prompts, and the data set has {sizes.num_prompts}: there would be no step at all. More "
        "prompts would do."
    )


def branch_fault(sizes: BatchSizes) -> str | None:
    """Groups, or parts of groups on a process, that cannot branch as they should."""
    if sizes.branching is None or train_fault(sizes):
        return None
    try:
        branches = sizes.branching.sizes(sizes.num_generations)
    except ValueError as fault:
        return str(fault)
    return branches.share_fault(sizes.completions // sizes.num_processes)


CHECKS = (train_fault, eval_fault, data_fault, branch_fault)
# Sizes that a remedy may change. Where two say the same thing, it changes the one that was given.
TRAIN_KNOBS = (
    "num_generations",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "generation_batch_size",
    "num_processes",
)
EVAL_KNOBS = ("per_device_eval_batch_size", "num_generations_eval", "num_processes")
_COUNTS = (*TRAIN_KNOBS[1:], *EVAL_KNOBS[:2], "max_completion_length", "num_iterations")


def _remedies(sizes: BatchSizes, check: Callable[[BatchSizes], str | None]) -> str:
    """One line for each size that can be changed alone, and the nearest values that mend it."""
    lines = []
    for knob, given in _knobs(sizes, check):
        fits = [replace(sizes, **{knob: value}) for value in _nearest(sizes, check, knob, given)]
        if fits:
            options = " or ".join(f"{getattr(fit, knob)} ({_outcome(fit, check)})" for fit in fits)
            lines.append(f"\n  {_NAMES.get(knob, knob)}: {options}")
    if not lines:
        return ""
    return f" Nearest settings that fit, one change each:{''.join(lines)}"


def _knobs(
    sizes: BatchSizes, check: Callable[[BatchSizes], str | None]
) -> Iterator[tuple[str, int]]:
    for knob in EVAL_KNOBS if check is eval_fault else TRAIN_KNOBS:
        value = getattr(sizes, knob)
        if knob == "num_generations_eval":
            value = sizes.eval_group
        elif knob == "gradient_accumulation_steps" and _set_by_other(sizes):
            continue
        if value is not None:
            yield knob, value


def _set_by_other(sizes: BatchSizes) -> bool:
    """Whether the generation batch does not depend on gradient_accumulation_steps."""
    return sizes.steps_per_generation is not None or sizes.generation_batch_size is not None


def _nearest(
    sizes: BatchSizes, check: Callable[[BatchSizes], str | None], knob: str, given: int
) -> list[int]:
    """The nearest value below and above that mends this fault and makes no new one."""
    known = {other for other in CHECKS if other(sizes)}

    def mends(value: int) -> bool:
        changed = replace(sizes, **{knob: value})
        if size_fault(changed):
            return False
        return {other for other in CHECKS if other(changed)} <= known - {check}

    below = next(filter(mends, range(given - 1, 0, -1)), None)
    furthest = max(MAX_FACTOR * given, sizes.num_generations)
    above = next(filter(mends, range(given + 1, furthest + 1)), None)
    return [value for value in (below, above) if value is not None]


def _outcome(sizes: BatchSizes, check: Callable[[BatchSizes], str | None]) -> str:
    if check is eval_fault:
        return f"{sizes.eval_rows} = {sizes.eval_rows // sizes.eval_group} × {sizes.eval_group}"
    return f"{sizes.completions} = {sizes.prompts} × {sizes.num_generations}"


_NAMES = {"num_processes": "processes (--num_processes of accelerate launch)"}


def _made_of(sizes: BatchSizes) -> str:
    if sizes.generation_batch_size is not None:
        return f"generation_batch_size={sizes.completions}"
    name = "gradient_accumulation_steps"
    if sizes.steps_per_generation is not None:
        name = "steps_per_generation"
    return (
        f"{sizes.per_device_train_batch_size} (per_device_train_batch_size) × "
        f"{sizes.num_processes} (processes) × {sizes.completions // sizes.rows} ({name}) = "
        f"{sizes.completions}"
    )
