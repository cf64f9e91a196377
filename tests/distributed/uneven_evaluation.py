"""Run by `accelerate launch`: evaluations whose last batch two processes cannot share evenly.

    uneven_evaluation.py FOLDER

Six rows a process, four to a prompt: with one prompt the second process has none of its own, with
four it has four. Each process writes FOLDER/<prompts>.<rank>.json, the metrics.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import on_cpu
import tiny

PROMPTS = (1, 4)
SETTINGS = {
    "per_device_train_batch_size": 6,
    "per_device_eval_batch_size": 6,
    "num_generations_eval": 4,
    "trace_mode": "ratio",
    "beta": 0.04,
}
ROWS = [[5, 6, tiny.EOS], [5, 7, 8, 9, tiny.EOS], [6, tiny.EOS]]


def run(prompts: int, folder: Path, process: int) -> None:
    trainer = tiny.trainer(
        folder / str(prompts),
        rollout_func=tiny.scripted(ROWS),
        settings=SETTINGS,
        eval_dataset=tiny.prompts(prompts),
    )
    metrics = {
        name: value
        for name, value in trainer.evaluate().items()
        if not any(word in name for word in tiny.TIMINGS)
    }
    (folder / f"{prompts}.{process}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    state = on_cpu.process_state()
    with on_cpu.leaving_together():
        for count in PROMPTS:
            run(count, Path(sys.argv[1]), state.process_index)
