"""What a checkpoint must hold so that a killed run goes on as if it had not been killed.

transformers saves weights, optimizer, schedule and random numbers. TRL's GRPO has more state, and
forgets it: the completions of the window it is in (`steps_per_generation` micro-batches, used
`num_iterations` times), its place in that window, how often the data were shuffled, and the
reference model that `sync_ref_model` moves. `ResumableTrainer` saves and restores these, and takes
the newest checkpoint that is whole.

Every process writes and reads its own part, so a run resumes with as many processes as it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Sampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from .manifest import (
    checkpoints,
    mark_unfinished,
    missing_part,
    newest_checkpoint,
    write_manifest,
)
from .reference import adapter_pair, load_reference, reference_sync, save_reference

logger = get_logger(__name__)


class ResumableTrainer(GRPOTrainer):
    """`GRPOTrainer` whose checkpoints hold all of its state."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        """As in transformers; `True` takes the newest checkpoint that is whole.

        Raises:
            ValueError: a checkpoint that is not whole, or `True` where none is.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._newest_checkpoint()
        elif resume_from_checkpoint:
            self._check_whole(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _move_reference(self) -> None:
        """Has the reference follow the policy as `sync_ref_model` asks for, also under PEFT."""
        self.add_callback(reference_sync(self.model, self.ref_model, self.accelerator))

    def moving_reference(self) -> list[Any]:
        """Parameters of a reference that moves while training; none where it stays or is absent."""
        if not self.args.sync_ref_model:
            return []
        if self.ref_model is None:
            return adapter_pair(self.accelerator.unwrap_model(self.model))[1]
        return list(self.ref_model.parameters())

    # -- methods of transformers and TRL ---------------------------------------------------------

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        # The sampler is made before a checkpoint is read, so the epoch is asked for later.
        return _FromEpoch(sampler, lambda: int(self.state.epoch or 0))

    def _save_checkpoint(self, model, trial):
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            mark_unfinished(Path(self._get_output_dir(trial=trial)) / name)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        folder = Path(output_dir)
        torch.save(self._window(), folder / f"generation_window_{self.args.process_index}.pt")
        reference = self.moving_reference()
        if reference:
            save_reference(
                folder,
                reference,
                process=self.args.process_index,
                writes_whole=self.args.should_save,
            )
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_manifest(folder)

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        self._resume_window(Path(checkpoint))
        reference = self.moving_reference()
        if reference:
            load_reference(Path(checkpoint), reference, process=self.args.process_index)

    # -- parts of the above ----------------------------------------------------------------------

    def _newest_checkpoint(self) -> str:
        """The newest checkpoint that is whole on every process."""
        newest, faults = newest_checkpoint(self.args.output_dir)
        step = -1 if newest is None else int(newest.name.split("-")[1])
        agreed = min(gather_object([step]))  # another node may lack what this one has
        for folder, fault in faults.items():
            logger.warning("%s is incomplete (%s): not resuming from it.", folder, fault)
        if agreed < 0:
            found = ", ".join(path.name for path in checkpoints(self.args.output_dir)) or "none"
            raise ValueError(
                f"resume_from_checkpoint=True: no complete checkpoint in {self.args.output_dir} "
                f"(there: {found}). Start without it, or name a checkpoint."
            )
        return str(Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{agreed}")

    def _check_whole(self, checkpoint: str) -> None:
        fault = missing_part(checkpoint)
        if fault is not None:
            newest, _ = newest_checkpoint(Path(checkpoint).parent)
            raise ValueError(
                f"resume_from_checkpoint={checkpoint!r}: not a complete checkpoint ({fault}). The "
                f"newest complete one beside it: {newest or 'none'}."
            )

    def _shape_of_window(self) -> dict[str, int]:
        """Settings under which the saved window means the same."""
        return {
            "processes": self.args.world_size,
            "per_device_train_batch_size": self.args.per_device_train_batch_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "steps_per_generation": self.args.steps_per_generation,
            "num_iterations": self.num_iterations,
            "num_generations": self.num_generations,
        }

    def _window(self) -> dict[str, Any]:
        """This process's completions, where some of the window's updates are still to come."""
        every = self.args.steps_per_generation * self.num_iterations
        inside = self._step % every != 0
        return {
            "shape": self._shape_of_window(),
            "step": self._step,
            "batches": _moved(self._buffered_inputs, "cpu") if inside else None,
        }

    def _resume_window(self, checkpoint: Path) -> None:
        path = checkpoint / f"generation_window_{self.args.process_index}.pt"
        if not path.is_file():
            logger.warning(
                "%s has no %s: new completions are generated at once, and the remaining steps "
                "differ from those of a run that was never stopped if it was saved inside a "
                "generation window.",
                checkpoint,
                path.name,
            )
            return
        window = torch.load(path, map_location="cpu", weights_only=True)
        shape = self._shape_of_window()
        changed = [
            f"{name} {was} → {shape[name]}"
            for name, was in window["shape"].items()
            if was != shape[name]
        ]
        if changed:
            logger.warning(
                "Resuming %s with other settings (%s): new completions are generated at once.",
                checkpoint,
                ", ".join(changed),
            )
            return
        self._step = window["step"]
        self._buffered_inputs = _moved(window["batches"], self.accelerator.device)


class _FromEpoch(Sampler):
    """A sampler that shuffles anew in every epoch, begun in a later one.

    TRL's sampler draws a permutation for each pass from a generator of its own, which begins at the
    first one in every process, also in one that resumes in the third epoch.
    """

    def __init__(self, sampler: Sampler, epoch: Callable[[], int]):
        self._sampler = sampler
        self._epoch: Callable[[], int] | None = epoch

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        if self._epoch is not None:
            for _ in range(self._epoch()):
                next(iter(self._sampler), None)  # draws the permutation
            self._epoch = None
        yield from self._sampler


def _moved(value: Any, device: Any) -> Any:
    """Copies on `device` of the tensors in lists and dicts; other values as they are."""
    if isinstance(value, Tensor):
        # A clone: a slice would be saved with the whole tensor that it is cut from.
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(part, device) for part in value)
    return value
