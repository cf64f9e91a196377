"""Run by `accelerate launch`: a record of which one process knows less than the other.

    one_sided_record.py FOLDER

The second process cannot describe its rows in the first record. The first one logs fewer extras
than it has completions, and none of a column that the second one logs. They train twice.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import on_cpu
import straddle
import tiny
from accelerate import PartialState


def reward(completions, log_extra, **columns):
    rank = PartialState().process_index
    values = [f"{rank}.{i}" for i in range(len(completions))]
    log_extra("short", values[: 2 if rank == 0 else None])
    if rank == 1:
        log_extra("one_sided", values)
    return straddle.own(straddle.REWARDS)


def fails_once(recorder):
    """Puts a tokenizer in the recorder's place that raises in the first record."""
    right = recorder.tokenizer

    def decode(ids):
        recorder.tokenizer = right
        raise RuntimeError("only here")

    recorder.tokenizer = SimpleNamespace(decode=decode)


def main(folder: Path) -> None:
    state = PartialState()
    trainer = tiny.trainer(
        folder,
        reward_funcs=reward,
        rollout_func=straddle.rollout_of("recorded"),
        settings={
            "per_device_train_batch_size": straddle.ROWS // state.num_processes,
            "num_generations": straddle.GROUP,
            "num_iterations": 1,
            "credit_log_steps": 1,
            "log_completions": True,
            "max_steps": 2,
        },
        train_dataset=straddle.PROMPTS,
    )
    trainer.train()
    if state.is_last_process:
        fails_once(trainer._observer.recorder)
    trainer.train()


if __name__ == "__main__":
    on_cpu.process_state()
    with on_cpu.leaving_together():
        main(Path(sys.argv[1]))
