"""The file of samples: one JSON line each, only ever appended to, and safe against a kill."""

import fcntl
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from trl_lambda.evaluation.problem_rows import Question


@dataclass(frozen=True, kw_only=True)
class Record:
    """A sample, with everything needed to grade it again.

    Attributes:
        problem_index: Its problem, from 0.
        sample_index: Which of the problem's samples, from 0.
        seed: The seed of this sample.
        problem: The problem's text, or its messages.
        answers: The right answers, any of which counts.
        prompt: The text that the model continued.
        completion: The text that it wrote, without special tokens.
        num_tokens: Its tokens, the end-of-sequence token included.
        truncated: Whether it ran into `max_tokens`.
        correct: The verdict on `templates.response_text(prompt, completion)`; `None` where the math
            reward was not asked for.
        reason: Why, one of `trl_lambda.rewards.REASONS`, or `None` as well.
        extracted: The text taken for the answer, `None` where there was none.
        rewards: Those of the other reward functions, by name; `None` for a sample that the
            function does not judge.
    """

    problem_index: int
    sample_index: int
    seed: int
    problem: Question
    answers: tuple[str, ...]
    prompt: str
    completion: str
    num_tokens: int
    truncated: bool
    correct: bool | None
    reason: str | None
    extracted: str | None
    rewards: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        """Problem and sample."""
        return self.problem_index, self.sample_index


class RecordFile:
    """The records of one evaluation, open for appending; one process at a time.

    A line is whole once its newline is on the disk. A last line without one was torn by a kill: it
    is cut off, with a warning, and its sample is generated again.

    Args:
        path: The file, made if it is not there.

    Raises:
        RuntimeError: Another process has it open.
        ValueError: A whole line is no record, or a sample is there twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise RuntimeError(
                f"{path} is in use by another evaluation: wait for it, or give another output_dir."
            ) from error
        self._cut_torn_line()
        self.records = {record.key: record for record in read_records(path)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, records: Sequence[Record]) -> None:
        """Writes the records that are not there yet, and returns once they are on the disk."""
        new = [record for record in records if record.key not in self.records]
        self._file.write(b"".join(_line(record) for record in new))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records.update((record.key, record) for record in new)

    def _cut_torn_line(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            warnings.warn(
                f"{self.path}: the last line has no end, as after a kill; its {len(data) - whole} "
                "bytes are dropped and its sample is generated again.",
                stacklevel=4,
            )
            self._file.truncate(whole)


def read_records(path: Path) -> list[Record]:
    """Returns the records of a file, in its order.

    Raises:
        ValueError: A line is no record, or a sample is there twice.
    """
    records: dict[tuple[int, int], Record] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            record = _parse(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number}: no record ({error}). The file was changed from outside; "
                "remove the line to have its sample generated again."
            ) from error
        if record.key in records:
            raise ValueError(
                f"{path}, line {number}: problem {record.problem_index}, sample "
                f"{record.sample_index} is there twice; remove one of the lines."
            )
        records[record.key] = record
    return list(records.values())


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Writes a whole file at once, in place of an old one."""
    path.write_bytes(b"".join(map(_line, records)))


def _line(record: Record) -> bytes:
    # In ASCII: a lone surrogate, which UTF-8 refuses, comes back as it was.
    return json.dumps(asdict(record)).encode("ascii") + b"\n"


def _parse(fields: dict[str, Any]) -> Record:
    return Record(**(fields | {"answers": tuple(fields["answers"])}))
