"""Problem sets: loaded from the Hub or a file, and checked before anything is generated."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trl_lambda.evaluation.benchmarks import BENCHMARKS, Benchmark
from trl_lambda.evaluation.problem_files import FILE_TYPES, Row, read_rows
from trl_lambda.evaluation.problem_rows import Problem, benchmark_problem, own_problem


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

    @property
    def is_conversational(self) -> bool:
        """Whether the problems are messages."""
        return not isinstance(self.problems[0].problem, str)

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


def load_problem_set(
    spec: str,
    *,
    accept_sha256: Iterable[str] = (),
    prompt_column: str = "problem",
    answer_column: str | None = None,
    need_answers: bool = True,
) -> ProblemSet:
    """Loads a benchmark or a file.

    The problems of a benchmark are stripped of blanks around them, as the hashes are over stripped
    rows. Those of your own files are used as they are, as in training.

    Args:
        spec: A benchmark's name (from the Hub), `name=FILE` (that benchmark from a file, with the
            same checks), or a file of your own. Files are Parquet or JSON Lines with the columns
            `problem` and `answers`.
        accept_sha256: Hashes to take in place of the expected one, for who has looked at what
            differs.
        prompt_column: The column with the problems, in a file of your own.
        answer_column: The column with the golds there, which reward functions then get as
            `answers`, as in training (`trl_lambda.data.add_answers`); `None` for `answers` as it
            is.
        need_answers: Whether a row of your own without golds is an error; the math reward needs
            them.

    Raises:
        ValueError: The name is unknown, the row count or the hash differs from the expected one, or
            a row has no problem or no answer, or one that is neither text nor a finite number.
        OSError: There is no such file.

    Warns:
        UserWarning: The set's content could not be checked.
    """
    name, _, file = spec.partition("=")
    if name in BENCHMARKS:
        row = BENCHMARKS[name]
        problems = _benchmark_problems(row, file)
        checked = _check(row, problems, file or row.hub_id, set(accept_sha256))
        source = file or "/".join(filter(None, (row.hub_id, row.config, row.split, row.revision)))
        return ProblemSet(name, source, problems, checked, row.template, row.default_k)
    path = Path(spec)
    if path.suffix not in FILE_TYPES or not path.stem.strip("."):
        raise ValueError(
            f"benchmark {spec!r} is unknown: expected one of {', '.join(BENCHMARKS)}, one of them "
            f"as name=FILE, or a file that ends in {' or '.join(FILE_TYPES)}."
        )
    columns = (prompt_column, answer_column, need_answers)
    problems = _not_empty([own_problem(*row, *columns) for row in read_rows(path)], spec)
    made = ProblemSet(path.stem, spec, problems, fingerprint(problems), "qwen_math", 4)
    if made.is_conversational:
        made = replace(made, template="none")
    _check_one_kind(problems, spec)
    return made


def is_benchmark(spec: str) -> bool:
    """Whether `load_problem_set` takes it for a benchmark rather than for a file of one's own."""
    return spec.partition("=")[0] in BENCHMARKS


def check_names(problem_sets: Sequence[ProblemSet]) -> None:
    """Raises a ValueError if two sets would write into one folder."""
    sources: dict[str, str] = {}
    for one in problem_sets:
        if one.name in sources:
            raise ValueError(
                f"{sources[one.name]} and {one.source} would both be written to the folder "
                f"{one.name} of the output: rename one of the files, or evaluate on them one by "
                "one, each with an output_dir of its own."
            )
        sources[one.name] = one.source


def fingerprint(problems: Sequence[Problem]) -> str:
    """SHA-256 of `[[problem, [answer, …]], …]` as JSON in UTF-8, no blanks, nothing escaped.

    It is over the problems as they are asked; a benchmark's are asked without the blanks around.
    """
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


def _benchmark_problems(row: Benchmark, file: str) -> tuple[Problem, ...]:
    """A benchmark's problems, stripped: from its file, or from the Hub."""
    if file:
        rows, columns = read_rows(Path(file)), ("problem", "answers")
    else:
        rows, columns = _read_hub(row), (row.problem_column, row.answer_column)
    return _not_empty([benchmark_problem(*one, *columns) for one in rows], file or row.hub_id)


def _read_hub(row: Benchmark) -> Iterable[Row]:
    from datasets import load_dataset

    rows = load_dataset(row.hub_id, row.config, split=row.split, revision=row.revision)
    return ((f"{row.hub_id}, row {index}", values) for index, values in enumerate(rows))


def _not_empty(problems: Sequence[Problem], source: str) -> tuple[Problem, ...]:
    if not problems:
        raise ValueError(f"{source}: no rows.")
    return tuple(problems)


def _check_one_kind(problems: Sequence[Problem], source: str) -> None:
    if len({isinstance(one.problem, str) for one in problems}) > 1:
        raise ValueError(f"{source}: some problems are texts and some are messages; expected one.")
