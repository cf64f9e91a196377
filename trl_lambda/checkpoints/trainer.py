"""Checkpoints that hold enough for a killed run to go on as if it had not been killed.

transformers saves weights, optimizer, schedule and random numbers. TRL's GRPO has more state, and
forgets it: the completions of the window it is in (`steps_per_generation` micro-batches, used
`num_iterations` times), its place in that window, how often the data were shuffled, the pass over a
stream, and the reference model that `sync_ref_model` moves. `ResumableTrainer` saves and restores
these, and takes the newest checkpoint that is whole.

Every process writes and reads its own part, so a run resumes with as many processes as it had.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from ..console import get_logger
from ..host import callbacks, reward_names, under_deepspeed, under_fsdp
from .manifest import (
    checkpoints,
    mark_unfinished,
    missing_part,
    newest_checkpoint,
    write_manifest,
)
from .place import Place
from .reference import adapter_pair, load_reference, reference_sync, save_reference
from .weights import check_adapter, is_adapter, load_renamed_weights
from .window import batch_settings, changes, moved, plain, read_window, window_file

logger = get_logger(__name__)


class ResumableTrainer(GRPOTrainer):
    """`GRPOTrainer` whose checkpoints hold all of its state."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._place = Place(self._begin_anew, lambda: self._step, self._credit_state)
        # First: what others do at the end of a step may be to save.
        callbacks(self).insert(0, self._place)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        """As in transformers; `True` takes the newest checkpoint that is whole.

        Raises:
            ValueError: a checkpoint that is not whole, or `True` where none is; one without values
                for all of the model's weights.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._newest_checkpoint()
        elif resume_from_checkpoint:
            self._check_whole(resume_from_checkpoint)
        # It saves when a step has ended, and what other callbacks do then belongs to the step.
        callbacks(self).sort(key=_saves_on_a_signal)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _move_reference(self) -> None:
        """Has the reference follow the policy as `sync_ref_model` asks for, also under PEFT."""
        self.add_callback(reference_sync(self.model, self.ref_model, self.accelerator))

    def _moving_reference(self) -> list[Any]:
        """Parameters of a reference that moves while training; none where it stays or is absent."""
        if not self.args.sync_ref_model:
            return []
        if self.ref_model is None:
            return adapter_pair(self.accelerator.unwrap_model(self.model))[1]
        return list(self.ref_model.parameters())

    def _credit_settings(self) -> dict[str, Any]:
        """Settings of the method that decide the credit of a generated batch, by name.

        A window that was saved under other values is generated anew.
        """
        return {}

    def _credit_state(self) -> dict[str, Any]:
        """State of the method from batch to batch, the same on all processes: plain values and
        tensors, which later batches leave as they are. A checkpoint holds it."""
        return {}

    def _restore_credit_state(self, state: Mapping[str, Any]) -> None:
        """Goes on with what `_credit_state` returned; `{}` where a checkpoint has nothing."""

    # -- methods of transformers and TRL ---------------------------------------------------------

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        # The sampler is made before a checkpoint is read, so the epoch is asked for later.
        return _FromEpoch(sampler, lambda: int(self.state.epoch or 0))

    def _init_training_state(self, *args, **kwargs):
        """Returns the pass to go on in, and how many of its micro-batches to skip."""
        passes, skipped = super()._init_training_state(*args, **kwargs)
        checkpoint = kwargs.get("resume_from_checkpoint", args[3] if len(args) > 3 else None)
        updates = skipped // self.args.gradient_accumulation_steps
        if checkpoint is not None and self._reads_a_stream:
            passes, updates = self._saved_place(Path(checkpoint)) or (passes, updates)
            skipped = updates * self.args.gradient_accumulation_steps
            if self.args.ignore_data_skip:
                updates = skipped = 0
        self._place.start_at(passes, updates)
        return passes, skipped

    def _save_checkpoint(self, model, trial):
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder = Path(self._get_output_dir(trial=trial)) / name
        if self.args.should_save:
            mark_unfinished(folder)
        self.accelerator.wait_for_everyone()
        if self.args.save_only_model:  # which the reference is one, too
            folder.mkdir(parents=True, exist_ok=True)
            self._save_reference(folder)
        if self._place.carried:
            logger.warning(
                "%s is saved between two passes over a stream that is no whole number of updates "
                "long: the gradient of %d micro-batches, which the next update adds, is not in it. "
                "Resume from one that is saved after an update (save_strategy='steps').",
                folder,
                self._place.carried,
            )
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        folder = Path(output_dir)
        torch.save(self._window(), window_file(folder, self.args.process_index))
        self._save_reference(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_manifest(folder)

    def _load_optimizer_and_scheduler(self, checkpoint):
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except json.JSONDecodeError:
            # The entropy controller's file, which TRL writes last of all: a kill can tear it.
            window = read_window(Path(checkpoint), self.args.process_index) or {}
            if "entropy" not in window:
                raise

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        self._resume_credit_state(Path(checkpoint))
        self._resume_window(Path(checkpoint))
        reference = self._moving_reference()
        if reference:
            load_reference(Path(checkpoint), reference, process=self.args.process_index)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        def load() -> None:
            super(ResumableTrainer, self)._load_from_checkpoint(resume_from_checkpoint, model)

        self._load_all_weights(Path(resume_from_checkpoint), load)

    def _load_best_model(self):
        self._load_all_weights(Path(self.state.best_model_checkpoint), super()._load_best_model)
        self._forget_engine_weights()

    # -- parts of the above ----------------------------------------------------------------------

    @property
    def _reads_a_stream(self) -> bool:
        return not isinstance(self.train_dataset, Sized)

    def _begin_anew(self) -> None:
        """Leaves a window that an earlier training of this trainer was in when it ended.

        Its completions are older than the weights; a checkpoint's are put back after this.
        """
        self._step, self._buffered_inputs = 0, None
        self._forget_engine_weights()

    def _forget_engine_weights(self) -> None:
        """vLLM gets the weights before it generates, whatever step it got some at."""
        if self.use_vllm:
            self._last_loaded_step = -1

    def _load_all_weights(self, folder: Path, load: Callable[[], None]) -> None:
        """`load`, or what it would leave out; FSDP and DeepSpeed have formats of their own."""
        model = self.model
        if under_deepspeed(self) or under_fsdp(self):
            load()
        elif is_adapter(model):
            load()
            check_adapter(model, folder)
        elif not load_renamed_weights(model, folder):
            load()

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

    def _save_reference(self, folder: Path) -> None:
        reference = self._moving_reference()
        if reference:
            save_reference(
                folder,
                reference,
                process=self.args.process_index,
                writes_whole=self.args.should_save,
            )

    def _shape_of_window(self) -> dict[str, Any]:
        """Settings under which the saved window means the same."""
        sizes = {
            "processes": self.args.world_size,
            "per_device_train_batch_size": self.args.per_device_train_batch_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "steps_per_generation": self.args.steps_per_generation,
            "num_iterations": self.num_iterations,
            "num_generations": self.num_generations,
        }
        scored = {"reward_funcs": reward_names(self)} | batch_settings(self.args)
        return plain(sizes | scored | self._credit_settings())

    def _window(self) -> dict[str, Any]:
        """This process's completions, where some of the window's updates are still to come."""
        every = self.args.steps_per_generation * self.num_iterations
        step = self._place.micro_batches
        # Amid an update, which will be repeated, they may be those of the next window already.
        inside = step % every != 0 and (self._step - 1) // every == step // every
        window = {
            "shape": self._shape_of_window(),
            "place": (self._place.passes, self._place.updates),
            "step": step,
            "batches": moved(self._buffered_inputs, "cpu") if inside else None,
            "credit_state": moved(self._place.credit_state, "cpu"),
        }
        if self.use_adaptive_entropy:
            window["entropy"] = (self.entropy_coef, self._last_world_entropy)
        return window

    def _saved_place(self, checkpoint: Path) -> tuple[int, int] | None:
        """(passes, updates in the pass begun) of a stream; None where all do not say the same."""
        window = read_window(checkpoint, self.args.process_index) or {}
        places = gather_object([window.get("place")])
        if None not in places and len(set(places)) == 1:
            return places[0]
        if self.state.epoch and self.state.epoch > 1:
            logger.warning(
                "%s does not say where in the stream it was saved, only that one pass was over: "
                "the stream is read from its top once more.",
                checkpoint,
            )
        return None

    def _resume_credit_state(self, checkpoint: Path) -> None:
        """All processes go on with that of the first that has one."""
        window = read_window(checkpoint, self.args.process_index) or {}
        saved = gather_object([moved(window.get("credit_state"), "cpu")])
        self._restore_credit_state(next((state for state in saved if state is not None), {}))
        self._place.credit_state = self._credit_state()

    def _resume_window(self, checkpoint: Path) -> None:
        window = read_window(checkpoint, self.args.process_index)
        if window is not None and self.use_adaptive_entropy and "entropy" in window:
            self.entropy_coef, self._last_world_entropy = window["entropy"]
        if not all(gather_object([window is not None])):
            logger.warning(
                "%s has no %s for every process: new completions are generated at once, and the "
                "remaining steps differ from those of a run that was never stopped if it was saved "
                "inside a generation window.",
                checkpoint,
                window_file(checkpoint, self.args.process_index).name,
            )
            return
        assert window is not None
        changed = changes(window["shape"], self._shape_of_window())
        if changed:
            logger.warning(
                "Resuming %s with other settings (%s): new completions are generated at once.",
                checkpoint,
                ", ".join(changed),
            )
            return
        self._step = self._place.micro_batches = window["step"]
        self._buffered_inputs = moved(window["batches"], self.accelerator.device)


def _saves_on_a_signal(callback: TrainerCallback) -> bool:
    return isinstance(callback, JITCheckpointCallback)


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
