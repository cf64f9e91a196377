"""The start that all methods share: once per task, kept on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2ForCausalLM

from .policy import encode, new_model, tokenizer
from .tasks import Problem, Task

SEED = 0


def held_out(task: Task) -> list[Problem]:
    """The first problems of the stream; the warm start and the training get the others."""
    return list(itertools.islice(task.problems(random.Random(SEED)), task.held_out))


def others(task: Task, count: int) -> list[Problem]:
    """Up to `count` problems that are not held out.

    Raises:
        ValueError: there is none.
    """
    stream = task.problems(random.Random(SEED))
    kept = sum(1 for _ in itertools.islice(stream, task.held_out))
    found = list(itertools.islice(stream, count))
    if not found:
        raise ValueError(
            f"The task {task.name} has {kept} problems and holds out {task.held_out}: none is left "
            "to train on. Set its held_out lower."
        )
    return found


def fingerprint(settings: dict) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def warm_start_settings(task: Task) -> dict:
    names = ("name", "right", "held_out", "tokens", "characters")
    chosen = {k: v for k, v in task.settings().items() if k in names or k.startswith("warm_start")}
    rng = random.Random(SEED)
    shown = [(p.prompt, task.demonstrate(p, rng, task.right)) for p in others(task, 8)]
    # The texts as well, since no number says how they are made.
    return chosen | {"seed": SEED, "shown": shown}


def warm_start_folder(task: Task, folder: Path) -> Path:
    return folder / f"{task.name}-{fingerprint(warm_start_settings(task))}"


def warm_start(task: Task, folder: Path) -> Path:
    """The folder with the warm-started model; trained if it is not there."""
    place = warm_start_folder(task, folder)
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = train(task)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            model.save_pretrained(temporary + "/model")
            # In one step: a folder that is there is whole. Another process may have been faster.
            if not place.exists():
                os.rename(temporary + "/model", place)
    return place


def train(task: Task) -> Qwen2ForCausalLM:
    """Cross-entropy on demonstrations, AdamW, one cycle of the learning rate."""
    encoder, rng = tokenizer(task), random.Random(SEED + 1)
    torch.manual_seed(SEED)
    model = new_model(encoder)
    problems = others(task, 20_000)
    steps, rate = task.warm_start_steps, task.warm_start_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, cycle_momentum=False, pct_start=0.2
    )
    for _ in range(steps):
        batch = rng.choices(problems, k=task.warm_start_batch)
        ids, start = demonstrated(task, batch, encoder, rng)
        logits = model(ids[:, :-1]).logits[:, start - 1 :]
        loss = cross_entropy(logits.flatten(0, 1), ids[:, start:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def demonstrated(task: Task, problems: list[Problem], encoder, rng) -> tuple[torch.Tensor, int]:
    """(B, T) ids of prompts and demonstrations with their end, and where these begin."""
    prompts = encode(encoder, [p.prompt for p in problems])
    solutions = encode(encoder, [task.demonstrate(p, rng, task.right) for p in problems])
    end = torch.full((len(problems), 1), encoder.eos_token_id)
    return torch.cat([prompts, solutions, end], 1), prompts.shape[1]
