"""Run by `accelerate launch`: trains to the end, or until it is killed where it is told to be.

    resume.py OUTPUT_DIR RESULT [--kill_at STEP] [--kill_while_saving STEP] [--stream]

Goes on where OUTPUT_DIR has a whole checkpoint. The main process writes the logs of all steps and
the parameters to RESULT.
"""

from __future__ import annotations

import argparse
import json
import os
import signal

import engines
import on_cpu
import tiny
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from transformers import TrainerCallback

from trl_lambda.checkpoints.manifest import checkpoints

SETTINGS = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    # A window of two generated micro-batch pairs, used twice: four updates.
    "steps_per_generation": 4,
    "num_iterations": 2,
    "max_steps": 10,
    "save_strategy": "steps",
    "save_steps": 1,
    "beta": 0.04,
    "sync_ref_model": True,
    "ref_model_sync_steps": 3,
    "ref_model_mixup_alpha": 1.0,
}


class KillAt(TrainerCallback):
    """kill -9 for the last process at the end of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


class KillWhileSaving(TrainerCallback):
    """kill -9 for the main process when all of a checkpoint but the trainer's state is written."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            state.save_to_json = lambda path: os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir")
    parser.add_argument("result")
    parser.add_argument("--kill_at", type=int)
    parser.add_argument("--kill_while_saving", type=int)
    # One that is over after four updates.
    parser.add_argument("--stream", action="store_true")
    options = parser.parse_args()
    state = on_cpu.process_state()
    with on_cpu.leaving_together():
        train(options, state)


def prompts():
    yield from ({"prompt": f"{i}+1="} for i in range(4))


def train(options: argparse.Namespace, state: PartialState) -> None:
    trainer = tiny.trainer(
        options.output_dir,
        settings=SETTINGS,
        train_dataset=IterableDataset.from_generator(prompts)
        if options.stream
        else Dataset.from_list(list(prompts())),
    )
    if options.kill_at:
        trainer.add_callback(KillAt(options.kill_at))
    if options.kill_while_saving:
        trainer.add_callback(KillWhileSaving(options.kill_while_saving))
    trainer.train(resume_from_checkpoint=bool(checkpoints(options.output_dir)))
    parameters = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if state.is_main_process:
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        kept = ("step", "loss", "kl", "reward", "grad_norm", "entropy", "num_tokens")
        content = {
            "logs": [{k: e[k] for k in kept if k in e} for e in logs],
            "sharding": engines.sharding(trainer),
            "parameters": {k: v.float().cpu().tolist() for k, v in parameters.items()},
        }
        with open(options.result, "w") as file:
            json.dump(content, file)


if __name__ == "__main__":
    main()
