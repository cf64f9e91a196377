"""Collects finished quickstarts: which learning rates suit its trainers, and what seeds differ in.

    for rate in 1.2e-3 2.4e-3 4.8e-3; do
      python recipes/quickstart.py --output_dir runs/$rate --seed 100 --learning_rate $rate
    done
    python recipes/benchmarks/quickstart_seeds.py runs/*       # prints what each rate ends with

    for seed in 0 1 2; do
      python recipes/quickstart.py --output_dir runs/tuned-$seed --seed $seed
    done
    python recipes/benchmarks/quickstart_seeds.py runs/* --write

A rate is chosen for each trainer by the mean accuracy it ends with, the smaller one in a tie, and
then written into `quickstart_parts/settings.py`. Seeds that chose rates are no evidence: runs with
the rates of the settings need others.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
if __name__ == "__main__":  # the folder `recipes` takes the place of this one
    sys.path[0] = str(BENCHMARKS.parent)
from benchmarks.learning.report import json_text  # noqa: E402
from benchmarks.learning.table import insert, number, signed, table  # noqa: E402

from trl_lambda.atomic_write import replace_text  # noqa: E402

MARK = "<!-- quickstart -->"
KEPT = (
    *("seed", "learning_rate", "learning_rate_grpo", "tuned", "accuracy_before"),
    *("accuracy_after", "accuracy_after_grpo", "generated_tokens", "generated_tokens_grpo"),
    *("seconds", "seconds_ours", "seconds_grpo", "budget", "label_noise", "versions"),
)


def collect(folders: list[Path]) -> dict[str, Any]:
    """`tuning` and `seeds`: what is kept of each run, by learning rate and seed.

    Raises:
        SystemExit: a seed chose rates and is shown as evidence, runs are of other settings, one
            comes twice, or one is of `--smoke`.
    """
    told = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    runs = sorted(
        ({name: run[name] for name in KEPT} for run in told),
        key=lambda run: (run["learning_rate"], run["seed"]),
    )
    if len({json.dumps([run["budget"], run["label_noise"]], sort_keys=True) for run in runs}) > 1:
        raise SystemExit("The runs differ in their budget: they cannot be compared.")
    if smoke := [str(f) for f, run in zip(folders, told, strict=True) if run["smoke"]]:
        raise SystemExit(f"{', '.join(smoke)}: runs with --smoke learn nothing; leave them out.")
    tuning = [run for run in runs if not run["tuned"]]
    seeds = [run for run in runs if run["tuned"]]
    if len(rates := {(run["learning_rate"], run["learning_rate_grpo"]) for run in seeds}) > 1:
        raise SystemExit(
            f"The runs with the settings' own rates have several: {sorted(rates)}; give one's."
        )
    for part in (tuning, seeds):
        shown = [(run["seed"], run["learning_rate"]) for run in part]
        if twice := sorted({run for run in shown if shown.count(run) > 1}):
            raise SystemExit(f"Seeds and rates that come twice: {twice}; give each once.")
    if both := {run["seed"] for run in tuning} & {run["seed"] for run in seeds}:
        raise SystemExit(f"Seeds {sorted(both)} chose the learning rates; show others.")
    return {"tuning": tuning, "seeds": seeds}


def markdown(data: dict[str, Any]) -> str:
    parts = []
    if data["tuning"]:
        rates = sorted({run["learning_rate"] for run in data["tuning"]})
        parts.append(table(["rate", "seeds", "TRL's GRPO", "`branch`"], rows_of(data, rates)))
    if data["seeds"]:
        columns = ["seed", "before", "TRL's GRPO", "`branch`", "difference"]
        columns += ["tokens of TRL's GRPO", "tokens of `branch`"]
        parts.append(table(columns, [row(run) for run in data["seeds"]]))
    return "\n\n".join(parts) + "\n"


def rows_of(data: dict[str, Any], rates: list[float]) -> list[list[str]]:
    """A row for each tried rate: the accuracies that its runs ended with."""
    rows = []
    for rate in rates:
        runs = [run for run in data["tuning"] if run["learning_rate"] == rate]
        ends = [
            ", ".join(number(run[name], 3) for run in runs)
            for name in ("accuracy_after_grpo", "accuracy_after")
        ]
        rows.append([f"{rate:g}", ", ".join(str(run["seed"]) for run in runs), *ends])
    return rows


def row(run: dict[str, Any]) -> list[str]:
    ours, theirs = run["accuracy_after"], run["accuracy_after_grpo"]
    tokens = (f"{run[name]:,}" for name in ("generated_tokens_grpo", "generated_tokens"))
    accuracies = (number(value, 3) for value in (run["accuracy_before"], theirs, ours))
    return [str(run["seed"]), *accuracies, number(ours - theirs, 3), *tokens]


def sentence(data: dict[str, Any]) -> str:
    """What the seeds say, for the front page; from the results alone."""
    runs = data["seeds"]

    def ends(name: str) -> str:
        values = [run[name] for run in runs]
        return f"{number(min(values))} to {number(max(values))}"

    tokens = [run["generated_tokens"] / run["generated_tokens_grpo"] for run in runs]
    gains = [signed(run["accuracy_after"] - run["accuracy_after_grpo"]) for run in runs]
    return (
        f"Over {len(runs)} seeds TRL's GRPO ended at {ends('accuracy_after_grpo')} and `branch` at "
        f"{ends('accuracy_after')} (differences by seed {', '.join(gains)}), with "
        f"{number(sum(tokens) / len(tokens))} of the generated tokens."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of quickstart.py")
    parser.add_argument("--write", action="store_true", help="keep them, and the table in README")
    parser.add_argument("--results", type=Path, default=BENCHMARKS / "results")
    parser.add_argument("--readme", type=Path, default=BENCHMARKS / "README.md")
    options = parser.parse_args()
    data = collect(options.folders)
    print(markdown(data))
    if data["seeds"]:
        print(sentence(data))
    if options.write:
        replace_text(options.results / "quickstart.json", json_text(data))
        insert(options.readme, markdown(data), mark=MARK)


if __name__ == "__main__":
    main()
