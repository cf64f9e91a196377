"""Tiny trainings that write a credit log, and what they wrote."""

from __future__ import annotations

import json

import tiny

EOS = tiny.EOS
COMPLETIONS = [[5, 6, 7, EOS], [5, 6, 8, EOS], [5, 9, EOS], [4, 6, EOS]] * 4


def by_row(completions, log_extra, **columns):
    log_extra("verdict", ["ok" if i % 2 else None for i in range(len(completions))])
    return [[1.0, 0.0, 0.5, None][i % 4] for i in range(len(completions))]


def build(folder, *, completions=COMPLETIONS, reward_funcs=by_row, eval_dataset=None, **settings):
    return tiny.trainer(
        folder,
        reward_funcs=reward_funcs,
        rollout_func=tiny.scripted(completions),
        eval_dataset=eval_dataset,
        settings={"max_steps": 4, "per_device_train_batch_size": 16, **settings},
    )


def run(folder, **options):
    trainer = build(folder, **options)
    trainer.train()
    return trainer


def lines(folder, name="records-*.jsonl"):
    paths = sorted((folder / "credit_log").glob(name))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def records(folder):
    """(groups, updates by row)."""
    written = lines(folder)
    groups = [line for line in written if line["kind"] == "group"]
    return groups, {line["row"]: line for line in written if line["kind"] == "update"}
