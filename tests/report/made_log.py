"""Credit logs made up for tests, in the format of the recorder."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

OPENINGS = (("Let", " x"), ("Let", " y"), ("We", " know"), ("Let", " x", " be", " even"))
WORDS = (" so", " the", " sum", " is", " 12", " and", " 7", ",", ".\n", " then", " x", " =", " 3")
SETTINGS = {"decay": 0.99, "loss_type": "dr_grpo", "num_generations": 8, "seed": 1}


def number(value: float) -> float:
    """As the recorder rounds: 5 significant digits."""
    return float(f"{value:.5g}")


def completion(
    row: str, pieces: list[str], reward: float | None, advantage: float, rng: random.Random
) -> dict[str, Any]:
    """A completion whose credit decays away from its end."""
    n = len(pieces)
    trace = [number((1 - 0.97 ** (n - t)) / (1 - 0.97) / n) for t in range(n)]
    return {
        "row": row,
        "pieces": pieces,
        "ids": [_token_id(piece) for piece in pieces],
        "mask": [1] * n,
        "reward": reward,
        "rewards": {"accuracy": reward, "format": None},
        "group_advantage": number(advantage),
        "advantage": [number(advantage * w * rng.uniform(0.6, 1.0)) for w in trace],
        "weight": [1.0] * n,
        "trace_weight": trace,
        "size": [1] * n,
        "extra": {"math_answer": str(rng.randint(1, 99)), "math_reason": "compared as numbers"},
    }


def _token_id(piece: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(piece[:6])) % 50_000


def update(made: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The first update of a completion."""
    n = len(made["pieces"])
    z = [number(rng.gauss(0, 0.1)) for _ in range(n)]
    return {
        "kind": "update",
        "row": made["row"],
        "step": int(made["row"].split("-")[0]),
        "logps": [number(rng.uniform(-3, 0)) for _ in range(n)],
        "old_logps": [number(rng.uniform(-3, 0)) for _ in range(n)],
        "z_abs": [abs(value) for value in z],
        "ratio": [number(math.exp(value)) for value in z],
        "kl": [number(value * value / 2) for value in z],
        "clipped": [int(abs(value) > 0.2) for value in z],
    }


def group(name: str, *, step: int, size: int, tokens: int, rng: random.Random) -> dict[str, Any]:
    """A group whose completions share some openings; sets and their sizes are right."""
    texts = [_pieces(rng, tokens) for _ in range(size)]
    rewards = [float(rng.random() < 0.5) for _ in range(size)]
    mean = sum(rewards) / size
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / size) or 1.0
    rows = [
        completion(f"{name}-{i}", texts[i], rewards[i], (rewards[i] - mean) / spread, rng)
        for i in range(size)
    ]
    for row in rows:
        row["size"] = [
            sum(other["ids"][: t + 1] == row["ids"][: t + 1] for other in rows) if t < 8 else 1
            for t in range(len(row["ids"]))
        ]
        row["weight"] = [number(1 / n) for n in row["size"]]
    return {
        "kind": "group",
        "id": name,
        "step": step,
        "mode": "train",
        "prompt": f"What is {step} + 7? Think step by step.",
        "completions": rows,
    }


def branched_group(
    name: str, forks: list[tuple[int, int]], *, step: int, tokens: int, rng: random.Random
) -> dict[str, Any]:
    """A group whose completion i took over (parent, tokens) = forks[i]: all of them for a copy."""
    made = group(name, step=step, size=len(forks), tokens=tokens, rng=rng)
    rows = made["completions"]
    for row, (parent, fork) in zip(rows, forks, strict=True):
        for key in ("pieces", "ids"):
            row[key][:fork] = rows[parent][key][:fork]
        row |= {"parent": parent, "fork": fork}
    return made


def _pieces(rng: random.Random, tokens: int) -> list[str]:
    opening = rng.choice(OPENINGS)
    return [*opening, *rng.choices(WORDS, k=tokens - len(opening))]


def logs(steps: int, rng: random.Random) -> list[dict[str, Any]]:
    """What a trainer logs: a reward that rises, with noise of the seed."""
    return [{"step": step, "metrics": _metrics(step, rng)} for step in range(1, steps + 1)]


def _metrics(step: int, rng: random.Random) -> dict[str, float | None]:
    reward = 1 - math.exp(-step / 20) + rng.gauss(0, 0.04)
    return {
        "reward": reward,
        "rewards/accuracy/mean": reward,
        "completions/mean_length": 120 + 2 * step + rng.gauss(0, 6),
        "entropy": 1.4 * math.exp(-step / 30) + rng.gauss(0, 0.02),
        "clip_ratio/region_mean": 0.02 + rng.uniform(0, 0.01),
        "process_sets/path_depth": 1.5 + rng.gauss(0, 0.1),
        "process_sets/intermediate_proportion": 0.2 + rng.gauss(0, 0.02),
        **({"eval_reward": reward - 0.1} if step % 10 == 0 else {}),
    }


def write_log(
    run_dir: Path,
    *,
    groups: int = 3,
    size: int = 8,
    tokens: int = 60,
    steps: int = 40,
    seed: int = 1,
    **settings: Any,
) -> Path:
    """A run's folder with a credit log in two segments; returns the folder."""
    rng = random.Random(seed)
    made = [
        group(f"{10 * i}-0-0", step=10 * i, size=size, tokens=tokens, rng=rng)
        for i in range(1, groups + 1)
    ]
    write_records(run_dir, made, rng=rng)
    meta = {
        "format": 1,
        "run": run_dir.name,
        "started": "2030-01-01T00:00:00",
        "settings": {**SETTINGS, **settings, "seed": seed},
        "versions": {"trl_lambda": "0.1.0"},
    }
    (run_dir / "credit_log" / "meta.json").write_text(json.dumps(meta))
    write_lines(run_dir / "credit_log" / "logs.jsonl", logs(steps, rng))
    return run_dir


def resume_from(run_dir: Path, step: int) -> None:
    """Makes a log that of a run which was resumed from a checkpoint, and killed at once."""
    folder = run_dir / "credit_log"
    for path in folder.glob("*.jsonl"):
        found = [json.loads(line) for line in path.read_text().splitlines()]
        write_lines(path, [line | {"run_id": "first"} for line in found])
    meta = json.loads((folder / "meta.json").read_text())
    meta["parts"] = [
        {"run_id": "first", "from_step": 0, "resumes": None},
        {"run_id": "second", "from_step": step, "resumes": "first"},
    ]
    (folder / "meta.json").write_text(json.dumps(meta | {"run_id": "second"}))


def write_records(run_dir: Path, groups: list[dict[str, Any]], *, rng: random.Random) -> None:
    """Groups and their updates, the first group in a segment of its own; meta.json if missing."""
    folder = run_dir / "credit_log"
    folder.mkdir(parents=True, exist_ok=True)
    for segment, part in enumerate((groups[:1], groups[1:])):
        updates = [update(row, rng) for made in part for row in made["completions"]]
        write_lines(folder / f"records-{segment:05}.jsonl", [*part, *updates])
    if not (folder / "meta.json").exists():
        meta = {"format": 1, "run": run_dir.name, "settings": SETTINGS, "versions": {}}
        (folder / "meta.json").write_text(json.dumps(meta))


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
