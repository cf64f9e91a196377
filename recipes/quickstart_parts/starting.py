"""Start of the quickstart, before it trains: the output folder, the device, the processes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import PartialState

WRITTEN = (
    "summary.json",
    "curves.json",
    "learning.png",
    "credit_report.html",
    "warm_start",
    "grpo",
    "model",
)


def start_processes(folder: Path, *, overwrite: bool) -> PartialState:
    """Starts the processes; all of them know then that the output folder may be written to.

    Raises:
        SystemExit: earlier results would be lost.
    """
    if "LOCAL_RANK" not in os.environ:
        # Else the Trainer spreads a single process over all GPUs. CUDA must not be in use yet.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    # Tensors this small gain nothing from more threads, and lose much where cores are shared.
    torch.set_num_threads(1)
    state = PartialState(cpu=not torch.cuda.is_available())
    check_output_dir(folder, overwrite)
    state.wait_for_everyone()  # nobody writes before everybody has looked
    return state


def check_output_dir(folder: Path, overwrite: bool) -> None:
    """Raises SystemExit where earlier results would be lost."""
    if folder.exists() and not folder.is_dir():
        raise SystemExit(f"--output_dir {folder} is a file; give a new or an empty folder.")
    present = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    if present and not overwrite:
        raise SystemExit(
            f"--output_dir {folder} is not empty (it has {', '.join(present[:6])}"
            f"{', …' if len(present) > 6 else ''}), and nothing in it was changed. Give a new or "
            f"an empty folder, or --overwrite to replace {', '.join(WRITTEN)} in it."
        )
