"""Settings of an evaluation: written beside its records, compared before those are used."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trl_lambda.evaluation.generate import Generator, Sampling
from trl_lambda.evaluation.problem_sets import ProblemSet
from trl_lambda.evaluation.scoring import MATH, Rewards, others

Change = tuple[str, Any, Any]  # a setting's name, its old and its new value


def describe(
    problem_set: ProblemSet,
    generator: Generator,
    sampling: Sampling,
    k: int,
    *,
    rewards: Rewards = MATH,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Everything that changes the records, as JSON.

    Options of the prompt that are not set are left out, and so are the rewards where they are the
    math reward alone.
    """
    how = {n: v for n, v in asdict(sampling).items() if v is not None and v is not False}
    described = {
        "benchmark": problem_set.name,
        "source": problem_set.source,
        "sha256": problem_set.sha256,
        "num_problems": len(problem_set.problems),
        "n": k,
        **how,
        "generator": {**generator.settings, "batch_size": batch_size or generator.batch_size},
    }
    if others(rewards):
        columns = [dict(one.columns) for one in problem_set.problems]
        text = json.dumps(columns, sort_keys=True, default=str)
        described["rewards"] = list(rewards)
        described["columns_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return json.loads(json.dumps(described))


def read_json(path: Path) -> Any:
    """Reads a file of our own.

    Raises:
        ValueError: It is no JSON; the message names it.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: no JSON ({error}). The file was cut off or changed from outside."
        ) from error


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the records that a folder holds."""
    path = folder / "settings.json"
    if not path.exists():
        raise ValueError(f"{path} is missing beside records.jsonl; begin anew in another folder.")
    return read_json(path)


def check_settings(folder: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
    """Raises a ValueError if the folder holds records of other settings."""
    if fresh:
        return
    if changed := differences(read_settings(folder), settings):
        named = "; ".join(f"{name}: {before!r}, now {now!r}" for name, before, now in changed)
        raise ValueError(
            f"{folder} holds records of other settings: {named}. Give the old "
            "settings, another output_dir, or resume=False (--no_resume) to delete the records."
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[Change]:
    """The settings that differ, those inside of others as `outer.inner`."""
    found: list[Change] = []
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append((f"{prefix}{name}", before, now))
    return found
