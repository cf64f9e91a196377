"""Log lines of the main process that do not land on the line of a progress bar."""

from __future__ import annotations

import logging
from typing import Any

from torch import distributed
from tqdm import tqdm


class BesideProgressBars(logging.LoggerAdapter):
    """A logger that takes the open progress bars off the terminal while it writes.

    A bar's line has no end, so whatever is written next continues that line. The bars are drawn
    again below the message. Handlers, levels and files stay as the program has set them.
    """

    def log(
        self, level: int, msg: Any, *args: Any, main_process_only: bool = True, **kwargs: Any
    ) -> None:
        """As `Logger.log`, by default on the main process alone."""
        if not self.isEnabledFor(level) or (main_process_only and not _is_main_process()):
            return
        kwargs.setdefault("stacklevel", 2)  # the line that called, not one in here
        with tqdm.external_write_mode():
            super().log(level, msg, *args, **kwargs)


def get_logger(name: str) -> BesideProgressBars:
    """A logger for warnings that come while a training shows its progress."""
    return BesideProgressBars(logging.getLogger(name), {})


def _is_main_process() -> bool:
    started = distributed.is_available() and distributed.is_initialized()
    return not started or distributed.get_rank() == 0
