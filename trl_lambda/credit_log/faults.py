"""Faults while a log is written are told, and the training goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..console import get_logger

logger = get_logger(__name__)


class Tolerance:
    """Keeps faults of the diagnostics from ending a training.

    The first fault of each kind (what was done, the type of error) is a warning with the reason.

    Attributes:
        faults: how many there were, by what was done.
    """

    def __init__(self) -> None:
        self.faults: dict[str, int] = {}
        self._told: set[tuple[str, type]] = set()

    @contextmanager
    def of(self, *errors: type[Exception], doing: str, everywhere: bool = False) -> Iterator[None]:
        """Lets these errors end the block and nothing else.

        Args:
            doing: the work of the block, for the warning: "writing the credit log".
            everywhere: warn on the process where it happens, not on the main one alone.
        """
        try:
            yield
        except errors as error:
            self.faults[doing] = self.faults.get(doing, 0) + 1
            if (doing, type(error)) not in self._told:
                self._told.add((doing, type(error)))
                logger.warning(
                    "Training goes on, but %s failed: %s: %s. Further faults of this kind are "
                    "counted, and told when training ends.",
                    doing,
                    type(error).__name__,
                    error,
                    main_process_only=not everywhere,
                )

    def tell(self) -> None:
        """A warning with the counts of all faults since the last time."""
        if any(self.faults.values()):
            counts = ", ".join(f"{doing}: {count}" for doing, count in self.faults.items())
            logger.warning("Faults of the diagnostics in this training: %s.", counts)
        self.faults.clear()
        self._told.clear()
