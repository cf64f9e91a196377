"""Which checkpoint is whole: a run that is killed while it saves leaves part of one behind.

The trainer writes `files.json` (names and sizes) into a checkpoint when every process has written
its part, and transformers writes `trainer_state.json` last of all. Who finds both, and every file
at its size, has the whole checkpoint.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

MANIFEST = "files.json"
# The card and its plot say nothing of the state, and people edit them.
NOT_STATE = (".md", ".png", ".yaml")
TRAINER_STATE = "trainer_state.json"
# transformers' mark on a checkpoint that a signal asked for, there until it is whole.
UNFINISHED = "checkpoint-is-incomplete.txt"
# TRL writes it (use_adaptive_entropy) when all else has been written, the manifest too.
WRITTEN_LATER = "entropy_ctrl_state.json"


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders `checkpoint-<step>` of a run, whole or not, the newest (highest step) first."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    steps = {
        path: int(match[1])
        for path in folder.iterdir()
        if path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    return sorted(steps, key=steps.__getitem__, reverse=True)


def missing_part(checkpoint: str | Path) -> str | None:
    """What a checkpoint lacks, in words; None if it is whole.

    One without `files.json` (saved by another trainer, or with save_only_model) is judged by its
    `trainer_state.json` alone.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "there is no such folder"
    if (checkpoint / UNFINISHED).exists():
        return f"{UNFINISHED} says that saving it was cut off"
    for name in (TRAINER_STATE, MANIFEST):
        path = checkpoint / name
        if not path.is_file():
            if name == MANIFEST:
                return None
            return f"{name} is missing"
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            return f"{name} is torn"
    for name, size in content.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, and had {size} when it was saved"
    return None


def newest_checkpoint(output_dir: str | Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest whole checkpoint, and what each newer one lacks.

    Returns:
        Its folder, or None where there is none; newer, incomplete folders with their faults.
    """
    faults: dict[Path, str] = {}
    for checkpoint in checkpoints(output_dir):
        fault = missing_part(checkpoint)
        if fault is None:
            return checkpoint, faults
        faults[checkpoint] = fault
    return None, faults


def write_manifest(checkpoint: str | Path) -> None:
    """Writes down the files of state that are there now, with their sizes in bytes."""
    checkpoint = Path(checkpoint)
    sizes = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
        and path.name not in (MANIFEST, TRAINER_STATE, UNFINISHED, WRITTEN_LATER)
        and path.suffix not in NOT_STATE
    }
    (checkpoint / MANIFEST).write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def mark_unfinished(checkpoint: str | Path) -> None:
    """Before a checkpoint is saved over one of the same step: it is none until it is whole."""
    for name in (TRAINER_STATE, MANIFEST):
        (Path(checkpoint) / name).unlink(missing_ok=True)
