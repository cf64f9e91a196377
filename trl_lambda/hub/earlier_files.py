"""Says which files of an earlier run would be pushed with a new one.

transformers pushes all of `output_dir`. A new run in an old folder therefore publishes what the old
one left there: completions, evaluations, adapters beside a full model. Nothing of it is deleted or
moved here, since nobody but the user knows what belongs together.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..console import get_logger
from .push import NOT_PUSHED

logger = get_logger(__name__)

SHOWN_NAMES = 12


class EarlierFiles(TrainerCallback):
    """Warns once, before anything is pushed.

    Args:
        folder: the run's `output_dir`, as it is before the trainer is built: trackers may write to
            it from then on.
        announced: whether the training pushes by itself. Else `tell` is for who pushes afterwards.

    Attributes:
        found: files and folders that were there and are pushed: inode by name.
    """

    def __init__(self, folder: Path, *, announced: bool):
        self.folder = folder
        self.announced = announced
        self.found = pushed_names(folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self.found = {}  # they belong to the run that is resumed

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """By now the credit log of the earlier run is moved away, and nothing is pushed yet."""
        if self.announced:
            self.tell(state.is_world_process_zero)

    def tell(self, is_main_process: bool) -> None:
        """Warns of those that are still there."""
        there = pushed_names(self.folder)
        # A credit log that was moved away has another one in its place.
        left = [name for name, inode in self.found.items() if there.get(name) == inode]
        self.found = {}
        if left and is_main_process:
            more = f" and {len(left) - SHOWN_NAMES} more" if len(left) > SHOWN_NAMES else ""
            logger.warning(
                "%s was not empty when this run began. What was there and is not written anew is "
                "pushed with it: %s%s. Give the run an output_dir of its own, or move away what "
                "does not belong to it.",
                self.folder,
                ", ".join(left[:SHOWN_NAMES]),
                more,
            )


def pushed_names(folder: Path) -> dict[str, int]:
    """The entries of a folder that are pushed, folders with a slash at the end; inode by name."""
    if not folder.is_dir():
        return {}
    paths = [
        path
        for path in sorted(folder.iterdir())
        if not any(fnmatch(path.name, pattern) for pattern in NOT_PUSHED)
    ]
    return {f"{path.name}/" if path.is_dir() else path.name: path.lstat().st_ino for path in paths}
