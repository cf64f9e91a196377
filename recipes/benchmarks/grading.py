"""Gradings per second: this package's pool, plain math-verify, TRL's accuracy_reward.

    python recipes/benchmarks/grading.py --data FOLDER

FOLDER holds `gsm8k.parquet` and `math500.parquet` with the column `answers` (lists of golds). Every
gold is boxed in a sentence and graded against itself, so the share accepted should be 1. The
shortcut for plain integers is used only in the line that names it; on MATH-500, where the texts
would be the same, it would measure nothing. Each grader meets the first hundred problems before its
clock runs: a parser that starts cold is several times slower.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pyarrow import parquet

from trl_lambda.rewards import GraderPool, extract_answer, grade_many

# Data set, grader, gradings per second, share accepted.
Row = tuple[str, str, float, float]
Grader = Callable[[list[str], list[str]], Sequence[bool | None]]


def main() -> None:
    """Measures and prints the table."""
    arguments = parse_arguments()
    rows: list[Row] = []
    with GraderPool(arguments.workers) as pool:
        for name, count in (("gsm8k", arguments.gradings), ("math500", 500)):
            golds = read_golds(arguments.data / f"{name}.parquet", count)
            measured = measure(golds, pool, shortcut=name == "gsm8k")
            rows += [(name, *row) for row in measured]
    print_table(rows, arguments.workers)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the Parquet files")
    parser.add_argument("--workers", type=int, default=2, help="grading processes (default: 2)")
    parser.add_argument(
        "--gradings", type=int, default=4000, help="problems of GSM8K to use (default: 4000)"
    )
    return parser.parse_args()


def read_golds(path: Path, count: int) -> list[str]:
    """The first gold of the first problems."""
    return [row["answers"][0] for row in parquet.read_table(path).slice(0, count).to_pylist()]


def measure(
    golds: list[str], pool: GraderPool, *, shortcut: bool
) -> list[tuple[str, float, float]]:
    """Times every grader on the same responses."""
    responses = [rf"Adding up, the answer is \boxed{{{gold}}}." for gold in golds]
    graders: dict[str, Grader] = {
        f"pool, {pool.num_workers} workers": partial(through_pool, pool=pool),
        "math-verify, 1 process": plain_math_verify,
        "TRL accuracy_reward": trl_accuracy_reward,
    }
    if shortcut:
        graders["grade_many, with shortcut"] = partial(with_shortcut, pool=pool)
    return [(name, *timed(grader, responses, golds)) for name, grader in graders.items()]


def timed(grader: Grader, responses: list[str], golds: list[str]) -> tuple[float, float]:
    """Gradings per second and share accepted."""
    grader(responses[:100], golds[:100])
    start = time.perf_counter()
    verdicts = grader(responses, golds)
    seconds = time.perf_counter() - start
    return len(verdicts) / seconds, sum(map(bool, verdicts)) / len(verdicts)


def through_pool(responses: list[str], golds: list[str], pool: GraderPool) -> list[bool]:
    """Extraction, then every pair to the workers: no shortcut, no pair left out as a repeat."""
    tasks = [((g,), extract_answer(r) or "") for g, r in zip(golds, responses, strict=True)]
    return [reason == "ok" for reason in pool.judge_many(tasks, timeout=5.0)]


def with_shortcut(responses: list[str], golds: list[str], pool: GraderPool) -> list[bool]:
    """The public function, as training calls it."""
    return [grade.correct for grade in grade_many(responses, golds, pool=pool)]


def plain_math_verify(responses: list[str], golds: list[str]) -> list[bool]:
    """math-verify's defaults in this process, with its own timeouts; the gold boxed."""
    from math_verify import parse, verify

    return [
        verify(parse(rf"\boxed{{{gold}}}"), parse(response))
        for gold, response in zip(golds, responses, strict=True)
    ]


def trl_accuracy_reward(responses: list[str], golds: list[str]) -> list[bool | None]:
    """TRL's reward function, with the bare golds of the data set."""
    from trl.rewards import accuracy_reward

    completions = [[{"role": "assistant", "content": response}] for response in responses]
    return accuracy_reward(completions, golds)


def print_table(rows: list[Row], workers: int) -> None:
    """Prints the rates, and each as a multiple of plain math-verify's on the same set."""
    plain = {row[0]: row[2] for row in rows if row[1].startswith("math-verify")}
    print(f"{'data':<9}{'grader':<28}{'per second':>12}{'ratio':>8}{'accepted':>10}")
    for name, grader, rate, accepted in rows:
        ratio = rate / plain[name]
        print(f"{name:<9}{grader:<28}{rate:>12.0f}{ratio:>8.2f}{accepted:>10.3f}")
    print(f"ratio: to plain math-verify in one process; {workers} workers")


if __name__ == "__main__":
    main()
