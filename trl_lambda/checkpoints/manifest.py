"""Which checkpoint is whole: a run that is killed while it saves leaves part of one behind.

The trainer writes `files.json` (names and sizes) into a checkpoint when every process has written
its part, and transformers writes `trainer_state.json` last of all. A checkpoint with both, and with
every file that `files.json` lists, is whole. Weights and other tensors must have their size;
configurations, tokenizers and other text, which people edit, must be there, not empty and readable
if they are JSON.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

MANIFEST = "files.json"
# The card and its plot say nothing of the state, and people edit or delete them.
NOT_STATE = (".md", ".png", ".yaml")
# Tensors, of any engine: weights, optimizer, schedule, random numbers, window, reference.
TENSORS = (".safetensors", ".bin", ".pt", ".pth", ".distcp", ".metadata")
TRAINER_STATE = "trainer_state.json"
# transformers' mark on a checkpoint that a signal asked for, there until it is whole.
UNFINISHED = "checkpoint-is-incomplete.txt"
# TRL writes it (use_adaptive_entropy) when all else has been written, the manifest too; the same
# numbers are in the generation window.
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
    """Says what a checkpoint lacks; None if it is whole.

    One without `files.json` (saved by another trainer, or with save_only_model) is judged by its
    `trainer_state.json` alone.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return "there is no such folder"
    if (checkpoint / UNFINISHED).exists():
        return f"{UNFINISHED} says that saving it was cut off"
    if (fault := _json_fault(checkpoint / TRAINER_STATE)) is not None:
        return fault
    if not (checkpoint / MANIFEST).is_file():
        return None
    if (fault := _json_fault(checkpoint / MANIFEST)) is not None:
        return fault
    sizes = json.loads((checkpoint / MANIFEST).read_bytes())
    faults = (_file_fault(checkpoint, name, size) for name, size in sizes.items())
    return next(filter(None, faults), None)


def _json_fault(path: Path) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return f"{path.name} is torn"
    return None


def _file_fault(checkpoint: Path, name: str, size: int) -> str | None:
    """Says what is wrong with a file that had `size` bytes when it was saved."""
    path = checkpoint / name
    if not path.is_file():
        return f"{name} is missing"
    now = path.stat().st_size
    if now != size and (_holds_tensors(path) or not now):
        return f"{name} has {now} bytes, and had {size} when it was saved"
    if now != size and path.suffix == ".json":
        return _json_fault(path)
    return None


def _holds_tensors(path: Path) -> bool:
    return (path.suffix or path.name) in TENSORS


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
    """Before a checkpoint is saved over one of the same step: it is none until it is whole.

    Tensors that the older one listed are deleted: what is not saved anew (the optimizer with
    save_only_model, whole weights where there is an adapter now) is another run's.
    """
    checkpoint = Path(checkpoint)
    (checkpoint / TRAINER_STATE).unlink(missing_ok=True)
    if _json_fault(checkpoint / MANIFEST) is None:
        for name in map(Path, json.loads((checkpoint / MANIFEST).read_bytes())):
            if _holds_tensors(name) and not name.is_absolute() and ".." not in name.parts:
                (checkpoint / name).unlink(missing_ok=True)
    for name in (MANIFEST, WRITTEN_LATER):
        (checkpoint / name).unlink(missing_ok=True)
