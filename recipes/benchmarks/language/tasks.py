"""The tasks: which problems, how they are asked, how long an answer may be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, load_dataset

from . import problems

Row = dict[str, object]
VALIDATION = 256
STEP_BY_STEP = (
    "Solve the problem step by step. End with one line that has four hashes and the answer, such "
    "as #### 42."
)


@dataclass(frozen=True)
class Task:
    """Rows with `prompt` (messages) and `answers`.

    Attributes:
        part: of `held_out`, `validation` and `training`, which have no problem in common.
        solutions: the worked solution of each row of a part.
        steps: how a solution is cut into steps, `sentences` or `newline`.
        tokens: of the longest completion.
        warm_start: whether runs begin at a warm start of the model, or at the model itself.
        default_model: for people with network; None where the model comes from a GGUF.
        given: whether the problems come from a folder.
    """

    part: Callable[[str], list[Row]]
    solutions: Callable[[str], list[str]]
    steps: str
    tokens: int
    warm_start: bool
    default_model: str | None = None
    given: bool = False


def first(task: Task, part: str, count: int, option: str = "--held_out") -> list[Row]:
    """The first problems of a part.

    Args:
        option: what asks for so many.

    Raises:
        SystemExit: the part has fewer.
    """
    rows = task.part(part)
    if count > len(rows):
        raise SystemExit(
            f"{count} problems of {part} ({option}) were asked for, and the part has "
            f"{len(rows)}; ask for no more."
        )
    return rows[:count]


def chat(question: str, system: str | None = None) -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": question}]


def as_rows(ours: list[problems.Problem]) -> list[Row]:
    return [{"prompt": chat(p.question), "answers": [p.answer]} for p in ours]


def words(part: str, folder: Path | None = None) -> list[Row]:
    """Word problems: made here, or from `PART.jsonl` of a folder that a pack has."""
    rows = word_rows(part, folder)
    return [{name: row[name] for name in ("prompt", "answers")} for row in rows]


def word_rows(part: str, folder: Path | None = None) -> list[Row]:
    """As `words`, with the `solution` of each; given ones have it where their lines do."""
    if folder is None:
        ours = problems.part(part)
        return [row | {"solution": p.solution} for row, p in zip(as_rows(ours), ours, strict=True)]
    path = there(folder, f"{part}.jsonl", "the folder tasks of a pack")
    # A line of JSON may hold other ends of lines than this one.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [_row(path, i, line) for i, line in enumerate(lines, 1) if line]


def word_solutions(part: str, folder: Path | None = None) -> list[str]:
    """Those of the same rows.

    Raises:
        SystemExit: a given row has none.
    """
    found = [row.get("solution") for row in word_rows(part, folder)]
    for number, solution in enumerate(found, 1):
        if not isinstance(solution, str):
            raise SystemExit(
                f"--data {folder}: {part}.jsonl has no solution in line {number}; --probe asks "
                "about the steps of solutions. Make the pack anew, or leave out --data."
            )
    return found


def there(folder: Path, name: str, expected: str) -> Path:
    if not (folder / name).is_file():
        raise SystemExit(
            f"--data {folder}: {name} is not there; expected {expected}. Without --data the task's "
            "own problems are taken."
        )
    return folder / name


def _row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
        lists = all(isinstance(row[name], list) and row[name] for name in ("prompt", "answers"))
        asked = lists and all({"role", "content"} <= one.keys() for one in row["prompt"])
        right = asked and all(isinstance(answer, str) for answer in row["answers"])
    except (ValueError, TypeError, KeyError, AttributeError):
        right = False
    if not right:
        raise SystemExit(
            f"--data {path.parent}: {path.name}, line {number}: {line[:80]!r}; expected a line as "
            'in the folder tasks of a pack, {"prompt": [{"role": …, "content": …}], "answers": '
            "[…]}."
        )
    return row


def gsm8k(part: str, folder: Path | None = None) -> list[Row]:
    """GSM8K: from the Hub, or from `train.jsonl` and `test.jsonl` of a folder.

    What is held out is the test split; the last problems of the other one are for validation.
    """
    if part == "held_out":
        return gsm8k_split("test", folder)
    rows = gsm8k_split("train", folder)
    kept = min(VALIDATION, len(rows) // 10)
    return rows[-kept:] if part == "validation" else rows[:-kept]


def gsm8k_split(split: str, folder: Path | None) -> list[Row]:
    if folder is None:
        loaded = load_dataset("openai/gsm8k", "main", split=split)
    else:
        expected = "train.jsonl and test.jsonl of GSM8K"
        loaded = Dataset.from_json(str(there(folder, f"{split}.jsonl", expected)))
    return [
        # The gold is the worked solution: what follows its #### is the answer.
        {"prompt": chat(row["question"], STEP_BY_STEP), "answers": [row["answer"]]}
        for row in loaded
    ]


def worked(row: Row) -> str:
    """The solution of a row of GSM8K, without the notes for a calculator in it."""
    return re.sub(r"<<[^<>]*>>", "", row["answers"][0])


def task(name: str, data: Path | None = None) -> Task:
    """The task of that name.

    Args:
        data: a folder with the problems, in the place of the Hub or of the rules that make them.

    Raises:
        SystemExit: there is no such task.
    """
    if name == "words":
        return Task(
            part=lambda name: words(name, data),
            solutions=lambda name: word_solutions(name, data),
            steps="sentences",
            tokens=80,
            warm_start=True,
            given=data is not None,
        )
    if name == "gsm8k":
        return Task(
            part=lambda name: gsm8k(name, data),
            solutions=lambda name: [worked(row) for row in gsm8k(name, data)],
            steps="newline",
            tokens=320,
            warm_start=False,
            given=data is not None,
            default_model="Qwen/Qwen2.5-0.5B-Instruct",
        )
    raise SystemExit(f"There is no task {name!r}; there are words and gsm8k.")
