"""The batch plan: what the sizes of a GRPO training come to, as numbers and as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .sizes import BatchSizes, check_sizes


@dataclass(frozen=True)
class BatchPlan:
    """The plan that the sizes come to; `str` of it is the table that is printed.

    Attributes:
        sizes: The numbers it follows from.
        completions: Those of a generation batch, over all processes.
        prompts: Those of a generation batch.
        completions_per_device: Those of a generation batch, on each process.
        straddling_groups: Groups of a generation batch with completions on several processes.
        step_completions: Those of an optimiser step, over all processes.
        step_prompts: Prompts an optimiser step's completions come to; a step may take parts of
            groups, so not always a whole number.
        step_tokens: Upper bound of an optimiser step's completion tokens, without prompts; None
            without one.
        steps_per_batch: Optimiser steps that a generation batch is used for.
        batches_per_epoch: Generation batches of a pass over the data; None for a stream.
        prompts_left_out: Prompts of a pass that fill no generation batch, others each time if the
            data are shuffled; None for a stream.
        total_steps: Optimiser steps; None if unknown.
        epochs: Passes over the data; None for a stream.
    """

    sizes: BatchSizes
    completions: int
    prompts: int
    completions_per_device: int
    straddling_groups: int
    step_completions: int
    step_prompts: float
    step_tokens: int | None
    steps_per_batch: float
    batches_per_epoch: int | None
    prompts_left_out: int | None
    total_steps: int | None
    epochs: float | None

    def __str__(self) -> str:
        lines = [
            ("generation batch", self._batch_line()),
            ("groups", self._groups_line()),
            *([("branches", self._branch_line())] if self.sizes.branching else []),
            ("micro-batch", self._micro_batch_line()),
            ("optimiser step", self._step_line()),
            ("training", self._training_line()),
        ]
        if self.sizes.eval_rows is not None:
            lines.append(("evaluation", self._evaluation_line()))
        return "\n".join(["Batch plan", *(f"  {name:<17} {line}" for name, line in lines)])

    def _batch_line(self) -> str:
        line = (
            f"{_count(self.completions, 'completion')} = {_count(self.prompts, 'prompt')} × "
            f"{self.sizes.num_generations}"
        )
        if self.sizes.num_processes > 1:
            each = f"{self.completions_per_device:,} on each of {self.sizes.num_processes}"
            line = f"{line} ({each} processes)"
        return f"{line}, used for {_count(self.steps_per_batch, 'optimiser step')}"

    def _groups_line(self) -> str:
        if self.straddling_groups == 0:
            return "each on one process"
        return (
            f"{self.straddling_groups:,} of {self.prompts:,} straddle processes: token ids are "
            "gathered once a generation batch"
        )

    def _branch_line(self) -> str:
        rule = self.sizes.branching
        roots, *forks = rule.sizes(self.sizes.num_generations).waves
        line = f"{_count(roots, 'root')} and {_count(sum(forks), 'fork')} of each group"
        if len(forks) > 1:
            line += f" in waves of {' + '.join(map(str, forks))}"
        if rule.generated_share is None:
            return line
        share = (roots + sum(forks) * rule.generated_share) / self.sizes.num_generations
        return f"{line}: about {share:.0%} of the completion tokens are generated"

    def _micro_batch_line(self) -> str:
        rows = self.sizes.per_device_train_batch_size
        return f"{_count(rows, 'completion')} a device{self._tokens(rows)}"

    def _step_line(self) -> str:
        return (
            f"{_count(self.step_completions, 'completion')} = "
            f"{_count(self.step_prompts, 'prompt')}{self._tokens(self.step_completions)}"
        )

    def _tokens(self, completions: int) -> str:
        longest = self.sizes.max_completion_length
        return "" if longest is None else f", at most {completions * longest:,} completion tokens"

    def _training_line(self) -> str:
        if self.total_steps is None:
            return "over a stream, of unknown length"
        steps = _count(self.total_steps, "optimiser step")
        if self.epochs is None:
            return f"{steps} over a stream"
        prompts = _count(self.sizes.num_prompts, "prompt")
        line = f"{steps} = {_count(self.epochs, 'epoch')} of {prompts}"
        if not self.prompts_left_out:
            return line
        return f"{line}, {self.prompts_left_out:,} left out of each: no whole generation batch"

    def _evaluation_line(self) -> str:
        sizes = self.sizes
        line = (
            f"{_count(sizes.eval_rows, 'completion')} a batch = "
            f"{_count(sizes.eval_rows // sizes.eval_group, 'prompt')} × {sizes.eval_group}"
        )
        if sizes.num_eval_prompts is None:
            return line
        batches = math.ceil(sizes.num_eval_prompts * sizes.eval_group / sizes.eval_rows)
        return f"{line}, {_count(sizes.num_eval_prompts, 'prompt')} in {_count(batches, 'batch')}"


def plan_batches(sizes: BatchSizes) -> BatchPlan:
    """The plan of sizes that fit.

    Raises:
        ValueError: sizes that do not; the message says which, and the nearest that do.
    """
    check_sizes(sizes)
    uses = sizes.micro_batches * sizes.num_iterations
    per_epoch = left_out = epochs = None
    total = sizes.max_steps if sizes.max_steps > 0 else None
    if sizes.num_prompts is not None:
        per_epoch, left_out = divmod(sizes.num_prompts, sizes.prompts)
        # As transformers counts: the last step of a pass takes what micro-batches are left.
        steps_per_epoch = math.ceil(per_epoch * uses / sizes.gradient_accumulation_steps)
        total = total or math.ceil(sizes.num_train_epochs * steps_per_epoch)
        epochs = total / steps_per_epoch
    longest = sizes.max_completion_length
    step_completions = sizes.rows * sizes.gradient_accumulation_steps
    return BatchPlan(
        sizes=sizes,
        completions=sizes.completions,
        prompts=sizes.prompts,
        completions_per_device=sizes.completions // sizes.num_processes,
        straddling_groups=_straddling_groups(sizes),
        step_completions=step_completions,
        step_prompts=step_completions / sizes.num_generations,
        step_tokens=None if longest is None else step_completions * longest,
        steps_per_batch=uses / sizes.gradient_accumulation_steps,
        batches_per_epoch=per_epoch,
        prompts_left_out=left_out,
        total_steps=total,
        epochs=epochs,
    )


def _straddling_groups(sizes: BatchSizes) -> int:
    """Groups that the rows of two processes cut, or of more."""
    rows, group = sizes.completions // sizes.num_processes, sizes.num_generations
    ends = range(rows, sizes.completions, rows)
    return len({end // group for end in ends if end % group})


def _count(value: float, noun: str) -> str:
    """`1 prompt`, `1,024 prompts`, `0.5 prompts`."""
    plural = {"batch": "batches"}.get(noun, f"{noun}s")
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
    return f"{shown} {noun if value == 1 else plural}"
