"""Problem sets: loaded from the Hub or a file, and checked before anything is generated."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trl_lambda.evaluation.benchmarks import BENCHMARKS, Benchmark

FILE_TYPES = (".parquet", ".jsonl")


@dataclass(frozen=True)
class Problem:
    """A problem and the answers any of which is right."""

    problem: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class ProblemSet:
    """Problems to evaluate on.

    Attributes:
        name: The benchmark's name, or the file's without its ending.
        source: Where the problems come from: Hub id, configuration, split and revision, or a file.
        problems: The problems, in order.
        sha256: Hash of the whole set's problems and answers, also when `limit` cut it.
        template: The prompt template to use unless another is asked for.
        default_k: The samples a problem to draw unless another number is asked for.
    """

    name: str
    source: str
    problems: tuple[Problem, ...]
    sha256: str
    template: str
    default_k: int

    def limit(self, count: int | None) -> "ProblemSet":
        """The first `count` problems; all for `None`."""
        if count is None:
            return self
        if not 1 <= count <= len(self.problems):
            raise ValueError(
                f"limit is {count}, expected 1 to {len(self.problems)}, the problems of "
                f"{self.name}; leave it out for all."
            )
        return replace(self, problems=self.problems[:count])


def load_problem_set(spec: str, *, accept_sha256: Iterable[str] = ()) -> ProblemSet:
    """Loads a benchmark or a file.

    Args:
        spec: A benchmark's name (from the Hub), `name=FILE` (that benchmark from a file, with the
            same checks), or a file of your own. Files are Parquet or JSON Lines with the columns
            `problem` and `answers`.
        accept_sha256: Hashes to take in place of the expected one, for who has looked at what
            differs.

    Raises:
        ValueError: The name is unknown, the row count or the hash differs from the expected one, or
            a row has no problem or no answer.

    Warns:
        UserWarning: The set's content could not be checked.
    """
    name, _, file = spec.partition("=")
    if name in BENCHMARKS:
        row = BENCHMARKS[name]
        problems = _read_file(Path(file)) if file else _read_hub(row)
        checked = _check(row, problems, file or row.hub_id, set(accept_sha256))
        source = file or "/".join(filter(None, (row.hub_id, row.config, row.split, row.revision)))
        return ProblemSet(name, source, problems, checked, row.template, row.default_k)
    path = Path(spec)
    if path.suffix not in FILE_TYPES:
        raise ValueError(
            f"benchmark {spec!r} is unknown: expected one of {', '.join(BENCHMARKS)}, one of them "
            f"as name=FILE, or a file that ends in {' or '.join(FILE_TYPES)}."
        )
    problems = _read_file(path)
    return ProblemSet(path.stem, spec, problems, fingerprint(problems), "qwen_math", 4)


def fingerprint(problems: Sequence[Problem]) -> str:
    """SHA-256 of `[[problem, [answer, …]], …]` as JSON in UTF-8, no blanks, nothing escaped."""
    rows = [[row.problem, list(row.answers)] for row in problems]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check(row: Benchmark, problems: Sequence[Problem], source: str, accepted: set[str]) -> str:
    """Compares with the benchmark's row and returns the hash."""
    if len(problems) != row.num_problems:
        raise ValueError(
            f"{row.name}: {source} has {len(problems)} problems, expected {row.num_problems}. This "
            "is another version or another split; give it as a file of its own name to use it."
        )
    found = fingerprint(problems)
    if row.sha256 is None and found not in accepted:
        warnings.warn(
            f"{row.name}: the content could not be checked: {row.unchecked}. Its SHA-256 is "
            f"{found}; look at it, then pass accept_sha256 to say so.",
            stacklevel=3,
        )
    elif row.sha256 not in (None, found) and found not in accepted:
        raise ValueError(
            f"{row.name}: {source} has the SHA-256 {found}, expected {row.sha256}. The problems, "
            "the answers or their order differ from the copy the hash was made from, perhaps in a "
            f"blank only. If they are what you mean, pass accept_sha256 {found}."
        )
    return found


def _read_hub(row: Benchmark) -> tuple[Problem, ...]:
    from datasets import load_dataset

    rows = load_dataset(row.hub_id, row.config, split=row.split, revision=row.revision)
    return _problems(rows, row.problem_column, row.answer_column, row.hub_id)


def _read_file(path: Path) -> tuple[Problem, ...]:
    if path.suffix not in FILE_TYPES:
        raise ValueError(f"{path}: expected a file that ends in {' or '.join(FILE_TYPES)}.")
    if path.suffix == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    return _problems(rows, "problem", "answers", str(path))


def _problems(
    rows: Iterable[Mapping[str, Any]], problem_column: str, answer_column: str, source: str
) -> tuple[Problem, ...]:
    found = []
    for index, row in enumerate(rows):
        if missing := {problem_column, answer_column} - set(row):
            raise ValueError(
                f"{source}, row {index}: no column {', '.join(sorted(missing))}; it has "
                f"{', '.join(row)}."
            )
        problem, answers = row[problem_column], _answers(row[answer_column])
        if not isinstance(problem, str) or not problem.strip() or not all(answers) or not answers:
            raise ValueError(
                f"{source}, row {index}: problem {problem!r}, answers {answers!r}; expected a text "
                "and at least one answer that is not empty."
            )
        found.append(Problem(problem.strip(), answers))
    if not found:
        raise ValueError(f"{source}: no rows.")
    return tuple(found)


def _answers(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(_answer_text(one) for one in values)


def _answer_text(value: Any) -> str:
    """Text without blanks around it; AMC's 142.0 as 142."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()
