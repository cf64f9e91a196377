"""Which credit learns faster: stock GRPO, Dr. GRPO, GSPO, GRPO-λ, λ-GRPO, tree, process, ours.

    python recipes/benchmarks/learning                     # both stages, then the report
    python recipes/benchmarks/learning --stage 1 --budget_hours 0.5
    python recipes/benchmarks/learning --report            # the report alone, from finished runs
    python recipes/benchmarks/learning --output_dir smoke --smoke   # under a minute, means nothing
    python recipes/benchmarks/learning --compare branching # branching rollouts, see comparisons.py
    python recipes/benchmarks/learning --compare probe     # λ of the answer probe
    python recipes/benchmarks/learning --compare branching --report   # prints its tables: see below

Tiny models on five tasks that differ in where the token sits that decides (see tasks.py), one
process a core with one thread each. Stage 1 tries every method of methods.py with three learning
rates and three seeds on the two cheapest tasks. Stage 2 takes at most ten methods by a rule that
stands in stages.py, tunes the learning rate of each on each task with seeds of its own, and runs
ten new seeds on all tasks. All of it takes 80 minutes on two cores.

Kill it whenever you like and start it again with the same arguments: finished runs are kept in
OUTPUT_DIR/runs.jsonl, and what was under way is done again. A run that crashed is recorded with its
error, counts as one that is never right, and is tried again at the next start. After a change of
the package's or the tasks' code begin with a new OUTPUT_DIR: a run is known by its settings.

--compare NAME runs every arm of a comparison (comparisons.py) with every learning rate of its tasks
and three seeds, or the arms that --methods names, and writes RESULTS/NAME.json and the tables
between the `<!-- NAME -->` lines of the README (of recipes/benchmarks/learning). With --report it
trains nothing; where OUTPUT_DIR has no runs, it prints the tables of RESULTS/NAME.json.

The report goes to RESULTS/learning.json and RESULTS/learning.png (recipes/benchmarks/results, if
nothing else is said), and its tables between the two `<!-- learning -->` lines of the README (of
recipes/benchmarks), if there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
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
        "--stage", choices=("1", "2", "all"), default="all", help="2 needs what 1 found (all)"
    )
    parser.add_argument(
        "--budget_hours",
        type=_positive,
        default=6.0,
        help="no run is begun after so many hours of wall time (6)",
    )
    parser.add_argument(
        "--workers", type=int, default=_cores(), help="processes at once (one a core: %(default)s)"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="two methods, one task, a few steps: does it run?"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="these of methods.py alone, all of them in both stages; name --results, too",
    )
    parser.add_argument(
        "--compare", choices=("branching", "probe"), help="accuracy against tokens, see above"
    )
    parser.add_argument("--report", action="store_true", help="train nothing, write the report")
    parser.add_argument(
        "--results", type=Path, help="folder for learning.json and learning.png (see above)"
    )
    parser.add_argument(
        "--readme", type=Path, help="Markdown file that gets the tables (see above)"
    )
    args = parser.parse_args(arguments)
    # What a smoke run or a few methods find is never published by accident.
    whole = not args.smoke and not args.methods
    args.results = args.results or (BENCHMARKS / "results" if whole else args.output_dir)
    place = BENCHMARKS / "learning" if args.compare else BENCHMARKS
    args.readme = args.readme or (place / "README.md" if whole else None)
    return args


def _positive(text: str) -> float:
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of hours above 0")
    return value


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    args = parse_arguments()
    if args.compare:
        return compare(args)
    # Late, so that --help answers at once.
    from benchmarks.learning import stages
    from benchmarks.learning.report import write_report
    from benchmarks.learning.runs import Store

    plan = stages.SMOKE if args.smoke else stages.FULL
    if args.methods:
        plan = stages.only(plan, args.methods)
    store = Store(args.output_dir / "runs.jsonl")
    if not args.report and not run_stages(args, plan, store):
        raise SystemExit(3)
    if args.report or args.stage != "1":
        for path in write_report(plan, store, results=args.results, readme=args.readme):
            print(f"wrote {path}")


def compare(args: argparse.Namespace) -> None:
    from benchmarks.learning.comparisons import BRANCHING, PROBE, markdown, only, write_results
    from benchmarks.learning.runs import Store, run_all

    plan = {"branching": BRANCHING, "probe": PROBE}[args.compare]
    plan = only(plan, args.methods) if args.methods else plan
    store = Store(args.output_dir / "runs.jsonl")
    committed = args.results / f"{plan.name}.json"
    if args.report and not store.records and committed.exists():
        print(markdown(json.loads(committed.read_text(encoding="utf-8"))))
        return
    if not args.report:
        deadline = time.monotonic() + 3600 * args.budget_hours
        run_all(
            plan.runs(),
            store,
            args.output_dir,
            workers=args.workers,
            deadline=deadline,
            name=plan.name,
        )
    for path in write_results(plan, store, results=args.results, readme=args.readme):
        print(f"wrote {path}")


def run_stages(args: argparse.Namespace, plan, store) -> bool:
    """Whether all that was asked for is done; says what is not."""
    from benchmarks.learning import stages
    from benchmarks.learning.runs import run_all

    deadline = time.monotonic() + 3600 * args.budget_hours

    def do(runs, name: str) -> bool:
        left = run_all(
            runs, store, args.output_dir, workers=args.workers, deadline=deadline, name=name
        )
        if left:
            print(
                f"{name}: the budget of {args.budget_hours:g} hours is spent with {len(left)} runs "
                "to do. Start again with the same arguments to go on; --report has what there is."
            )
        return not left

    if args.stage != "2" and not do(stages.screening(plan), "stage 1"):
        return False
    if args.stage == "1":
        return True
    scores = stages.screening_scores(plan, store.any)
    if not scores:
        raise SystemExit(
            f"--stage 2 chooses its methods by the runs of stage 1, and {store.path} has none that "
            "are complete. Run --stage 1 first."
        )
    methods = stages.choose_methods(plan, scores)
    print("stage 2:", ", ".join(methods))
    if not do(stages.tuning(plan, methods), "stage 2, learning rates"):
        return False
    rates = stages.choose_rates(plan, store.any, methods)
    return do(stages.final(plan, rates), "stage 2, ten seeds")


if __name__ == "__main__":
    main()
