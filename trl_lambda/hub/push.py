"""Pushes that the Hub does not take: nothing is lost, and the retry is one line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

from huggingface_hub.errors import HfHubHTTPError
from transformers import TrainerCallback

from ..console import get_logger
from .secrets import redacted

logger = get_logger(__name__)

# As transformers leaves them out of the model's own commit.
NOT_PUSHED = ("_*", "checkpoint-*")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
LONGEST_ANSWER = 400


class HubPushError(RuntimeError):
    """A push to the Hub failed; the message names the local folder and the line that retries.

    Attributes:
        folder: where the model lies.
        command: the line that pushes it.
    """

    def __init__(self, message: str, *, folder: Path, command: str):
        super().__init__(message)
        self.folder, self.command = folder, command


@dataclass(frozen=True)
class Push:
    """A push: which folder goes to which repository.

    Attributes:
        repo: the repository's name.
        folder: the local folder.
        path: the folder in the repository.
        message: the commit's.
        revision: branch, None for the main one.
        private: whether the repository was to be private: who retries must not publish it.
        secrets: texts that no message may contain.
    """

    repo: str
    folder: Path
    path: str = "."
    message: str = "End of training"
    revision: str | None = None
    private: bool | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def command(self) -> str:
        """The line of `huggingface_hub`'s command line that does the same."""
        words = ["hf", "upload", self.repo, str(self.folder.absolute()), self.path]
        words += ["--commit-message", self.message]
        if self.path == ".":
            words += [word for pattern in NOT_PUSHED for word in ("--exclude", pattern)]
        if self.revision:
            words += ["--revision", self.revision]
        if self.private:
            words += ["--private"]
        return shlex.join(words)

    def failed(self, error: BaseException) -> HubPushError:
        weights = sorted(p.name for pattern in WEIGHTS for p in self.folder.glob(pattern))
        kept = ", ".join(weights) if weights else "but no weights"
        where = f"The folder {self.folder.absolute()} holds the model ({kept})"
        if not weights:
            where = f"The folder {self.folder.absolute()} is there, {kept}"
        return HubPushError(
            f"Pushing to {self.repo} on the Hub failed: {hub_answer(error, self.secrets)}\n"
            f"{where}; nothing in it was touched. {remedy(error)}push it with\n"
            f"    {self.command}",
            folder=self.folder,
            command=self.command,
        )


def hub_answer(error: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """The messages of an error and its causes, outermost first; nothing secret."""
    lines: list[str] = []
    for link in _chain(error):
        text = next((line.strip() for line in str(link).splitlines() if line.strip()), "")
        line = f"{type(link).__name__}: {text}" if text else type(link).__name__
        # A signed URL is a password.
        line = redacted(re.sub(r"\?\S*", "?…", line), secrets)
        if line not in lines:
            lines.append(line[:LONGEST_ANSWER])
    return " ← ".join(lines)


def remedy(error: BaseException) -> str:
    status = next(
        (e.response.status_code for e in _chain(error) if isinstance(e, HfHubHTTPError)), None
    )
    if status in (401, 403):
        return (
            "Log in with `hf auth login` (or set HF_TOKEN) with a token that may write there, then "
        )
    if status is not None and status < 500:
        return "Once what the Hub says is mended, "
    return "When the Hub can be reached again, "


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain and len(chain) < 6:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    # Beneath a transport error of the client lie the same words of the layers below it.
    answered = [i for i, e in enumerate(chain) if isinstance(e, HfHubHTTPError)]
    return chain[: answered[0] + 1] if answered else chain[:3]


def push_under_way(trainer: Any) -> bool:
    """Whether transformers is pushing in the background, while training goes on."""
    progress = _progress(trainer)
    return progress is not None and not progress.is_done()


def wait_for_push(trainer: Any) -> None:
    """Returns when nothing is being pushed any more."""
    if (progress := _progress(trainer)) is not None:
        progress.wait_until_done()


def _progress(trainer: Any) -> Any:
    """transformers' handle on the push in the background; None before the first one."""
    return getattr(trainer, "push_in_progress", None)


class WatchPushes(TrainerCallback):
    """Says so when a push in the background fails. transformers does not look at its outcome.

    Args:
        trainer: its pushes are watched.
        push: makes a push of the trainer's output_dir from a commit message.

    Attributes:
        failed: how many did.
    """

    def __init__(self, trainer: Any, push: Callable[[str], Push]):
        self.trainer, self.push = trainer, push
        self.seen: WeakSet[Future] = WeakSet()
        self.failed = 0

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        progress = _progress(self.trainer)
        fresh = [job for job in (progress.jobs if progress else []) if job not in self.seen]
        for place, job in enumerate(fresh):
            self.seen.add(job)
            self.watch(job, self._push_of(place), "Training goes on; the next save pushes again.")

    def watch(self, job: Future, push: Push, consequence: str = "") -> None:
        def report(done: Future) -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None:
                logger.error("%s\n%s", push.failed(error), consequence)
                self.failed += 1

        job.add_done_callback(report)

    def _push_of(self, place: int) -> Push:
        """transformers pushes the model first, then with some strategies the checkpoint."""
        args, step = self.trainer.args, self.trainer.state.global_step
        push = self.push(f"Training in progress, step {step}")
        if place == 0:
            return push
        checkpoint = push.folder / f"checkpoint-{step}"
        path = "last-checkpoint" if args.hub_strategy == "checkpoint" else checkpoint.name
        return replace(push, folder=checkpoint, path=path)
