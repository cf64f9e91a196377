"""The report's figures as pictures in Weights & Biases or Trackio, when training ends."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from transformers import TrainerCallback

from ..credit_log.writing import CreditLog

logger = get_logger(__name__)
TRACKERS = ("wandb", "trackio")  # both have log(), and Image() of a path


class TrackCreditFigures(TrainerCallback):
    """Writes the figures beside the credit log and hands them to the trackers that are on.

    Args:
        log: the credit log of this run, which lies in the run's output_dir.
    """

    def __init__(self, log: CreditLog):
        self.log = log

    def on_train_end(self, args, state, control, **kwargs):
        trackers = [name for name in TRACKERS if name in args.report_to]
        if trackers and self.log.segments():
            figures = self._figures()
            for name in trackers:
                show_in_tracker(importlib.import_module(name), figures)

    def _figures(self) -> list[Path]:
        try:
            from . import load_run
            from .figures import write_figures
        except ModuleNotFoundError as error:
            logger.warning(
                "The figures of the credit log need %s: pip install 'trl-lambda[report]'.",
                error.name,
            )
            return []
        return write_figures([load_run(self.log.folder.parent)], self.log.folder / "credit")


def show_in_tracker(tracker: Any, figures: list[Path]) -> None:
    """One picture per view, under `credit/<view>`."""
    pictures = {f"credit/{path.stem.split('-')[-1]}": path for path in figures}
    if pictures:
        tracker.log({name: tracker.Image(str(path)) for name, path in pictures.items()})
