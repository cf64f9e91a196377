"""Made-up plans, finished runs and a model of the language benchmark, for its tests."""

from __future__ import annotations

from pathlib import Path

import tiny
import tiny_chat
from benchmarks.language import plan, training
from benchmarks.learning.runs import Store

SMALL = training.Size(
    groups=1, completions=2, micro_batch=2, steps=3, measurements=1, held_out=2, samples=2,
    measured_at_once=3, checkpoint_every=1,
)  # fmt: skip


def made_plan(**more) -> plan.Plan:
    given = {
        "task": "words",
        "size": SMALL,
        "arms": ("default",),
        "rates": (1e-5, 2e-5),
        "tuning_seeds": (7, 8),
        "seeds": (0, 1, 2),
    }
    return plan.checked(plan.Plan(start="folder", made="made", **given | more))


def record(made: plan.Plan, run: training.Run, *ends: float, tokens: int = 100, **more) -> dict:
    """A run whose accuracy goes from .3 to `ends`; pass@k is .2 above it."""
    points = [
        {"step": i, "generated_tokens": tokens * i, "seconds": 2.0 * i, "accuracy": value,
         "pass_at_k": value + 0.2, "correct": [1, 0], "length": 50.0, "format": 1.0, "entropy": 0.3}
        for i, value in enumerate((0.3, *ends))
    ]  # fmt: skip
    log = {name: [0.0] for name in training.LOGGED}
    told = {"curve": points, "log": log, "seconds": 2.0, "generated_tokens": tokens * len(ends)}
    return {"key": plan.key(run, made), **vars(run), **told, **more}


def filled(tmp_path, made: plan.Plan, height) -> Store:
    """All runs of the plan, each with the accuracies that `height(run)` gives."""
    store = Store(tmp_path / "runs.jsonl", plan.keys(made))
    for run in made.tuning():
        store.add(record(made, run, *height(run)))
    for run in made.final(plan.chosen_rates(made, store.any)):
        store.add(record(made, run, *height(run)))
    return store


def chat_model(folder: Path) -> Path:
    """A made-up chat model with a token for each character."""
    tokenizer = tiny_chat.tokenizer()
    tiny.model(vocab_size=len(tokenizer), max_position_embeddings=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
