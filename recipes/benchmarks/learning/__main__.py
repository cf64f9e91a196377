"""Which credit learns faster than TRL's GRPO: small models, four calm tasks, ten seeds.

    python recipes/benchmarks/learning                     # all runs, then the report
    python recipes/benchmarks/learning --report            # the report alone, from finished runs
    python recipes/benchmarks/learning --output_dir smoke --smoke   # under a minute, means nothing
    python recipes/benchmarks/learning --compare branching # choices of branching rollouts
    python recipes/benchmarks/learning --compare branching --report   # prints its table: see below

Tiny models on three tasks that differ in where the token sits that decides (see tasks.py), one
process a core with one thread each. The learning rate of each method is tuned on each task with
seeds of its own, by the rule in plan.py; then ten new seeds are run, or as many as --seeds says.
All of it takes about 45 minutes on two cores.

Kill it whenever you like and start it again with the same arguments: finished runs are kept in
OUTPUT_DIR/runs.jsonl, and what was under way is done again. A run that crashed is recorded with its
error, counts as one that is never right, and is tried again at the next start. After a change of
the package's or the tasks' code begin with a new OUTPUT_DIR: a run is known by its settings.

--compare branching runs every arm of a comparison (comparisons.py) with every learning rate of its
task and three seeds, or the arms that --methods names, and writes RESULTS/branching.json and the
table between the `<!-- branching -->` lines of the README (of recipes/benchmarks/learning). With
--report it trains nothing; where OUTPUT_DIR has no run of the comparison, it prints the table of
RESULTS/branching.json.

The report goes to RESULTS/learning.json and RESULTS/learning.png (recipes/benchmarks/results, if
nothing else is said), and its tables between the two `<!-- learning -->` lines of the README (of
recipes/benchmarks), if there are any. While runs are missing, and with --smoke, --methods or
--seeds, RESULTS is OUTPUT_DIR and no README is written, if nothing else is said; nor is a README
written where --results names another folder. When the budget is spent before all is done, it ends
with 3 and without a report; --report has what there is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # the folder `recipes` takes the place of this one
    sys.path[0] = str(BENCHMARKS.parent)

# Before torch is loaded, here and in the workers: one process a core, one thread each.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python recipes/benchmarks/learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("learning"),
        help="folder for runs and warm starts (learning)",
    )
    parser.add_argument(
        "--budget_hours",
        type=_hours,
        default=6.0,
        help="no run is begun after so many hours of wall time (6)",
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        default=_cores(),
        help="processes at once (one a core: %(default)s)",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="two methods, one task, a few steps: does it run?"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="these of methods.py alone; without --compare the one that all are compared with, too",
    )
    parser.add_argument(
        "--seeds", type=int, help="so many of the ten seeds of the results; --report with them, too"
    )
    parser.add_argument(
        "--compare", choices=("branching",), help="accuracy against tokens, see above"
    )
    parser.add_argument("--report", action="store_true", help="train nothing, write the report")
    parser.add_argument(
        "--results", type=Path, help="folder for learning.json and learning.png (see above)"
    )
    parser.add_argument(
        "--readme", type=Path, help="Markdown file that gets the tables (see above)"
    )
    args = parser.parse_args(arguments)
    if args.compare and (args.smoke or args.seeds is not None):
        parser.error(f"--compare {args.compare} has three seeds: leave out --smoke and --seeds.")
    # What a smoke run, a few methods or seeds, or a part of the runs says is never published by
    # accident; nor are a README and results that do not belong together.
    whole = not args.smoke and not args.methods and args.seeds is None
    committed = BENCHMARKS / "results"
    args.unfinished = None if args.results else args.output_dir
    args.results = args.results or (committed if whole else args.output_dir)
    if args.readme is None and whole and args.results.resolve() == committed.resolve():
        place = BENCHMARKS / "learning" if args.compare else BENCHMARKS
        args.readme = place / "README.md"
    return args


def _hours(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of hours above 0")
    return value


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes, 1 or more")
    return int(text)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    args = parse_arguments()
    if args.compare:
        return compare(args)
    # Late, so that --help answers at once.
    from benchmarks.learning import plan as plans
    from benchmarks.learning.report import write_report
    from benchmarks.learning.runs import Store

    plan = plans.SMOKE if args.smoke else plans.FULL
    plan = plans.only(plan, args.methods, args.seeds)
    store = Store(args.output_dir / "runs.jsonl")
    if not args.report and not run_plan(args, plan, store):
        raise SystemExit(3)
    folders = {"results": args.results, "unfinished": args.unfinished}
    for path in write_report(plan, store, readme=args.readme, **folders):
        print(f"wrote {path}")


def compare(args: argparse.Namespace) -> None:
    from benchmarks.learning.comparisons import BRANCHING, markdown, only, write_results
    from benchmarks.learning.report import read_results
    from benchmarks.learning.runs import Store

    plan = only(BRANCHING, args.methods) if args.methods else BRANCHING
    store = Store(args.output_dir / "runs.jsonl")
    committed = args.results / f"{plan.name}.json"
    if args.report and committed.exists() and not any(map(store.any, plan.runs())):
        print(markdown(read_results(committed)))
        return
    if not args.report and not worker(args, store)(plan.runs(), plan.name):
        raise SystemExit(3)
    folders = {"results": args.results, "unfinished": args.unfinished}
    for path in write_results(plan, store, readme=args.readme, **folders):
        print(f"wrote {path}")


def run_plan(args: argparse.Namespace, plan, store) -> bool:
    """Whether all that was asked for is done; says what is not."""
    from benchmarks.learning import plan as plans

    do = worker(args, store)
    # What is tried next depends on what was found: until nothing new is asked for. A run that
    # failed, now or at an earlier start, is tried once.
    tried: set = set()
    while new := [run for run in plans.tuning(plan, store.any) if run not in tried]:
        if not do(new, "learning rates"):
            return False
        tried.update(new)
    rates = plans.chosen_rates(plan, store.any)
    return do(plans.final(plan, rates), f"{len(plan.seeds)} seeds")


def worker(args: argparse.Namespace, store) -> Callable[[list, str], bool]:
    """`do(runs, name)`, within the budget from now on: whether all are done; says what is not."""
    from benchmarks.learning.runs import run_all
    from benchmarks.learning.table import count

    deadline = time.monotonic() + 3600 * args.budget_hours

    def do(runs: list, name: str) -> bool:
        left = run_all(
            runs, store, args.output_dir, workers=args.workers, deadline=deadline, name=name
        )
        if left:
            print(
                f"{name}: the budget of {args.budget_hours:g} hours is spent with "
                f"{count(len(left), 'run')} to do. Start again with the same arguments to go on; "
                "--report has what there is."
            )
        return not left

    return do


if __name__ == "__main__":
    main()
