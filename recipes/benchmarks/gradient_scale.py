"""How large the gradient is with each setting, as a multiple of that of a baseline.

    python recipes/benchmarks/gradient_scale.py
    python recipes/benchmarks/gradient_scale.py --real FOLDER --results gradient_scale.json

Without options: one batch of scripted, random completions, one small random model, multiples of Dr.
GRPO's. That shows what a setting does to the scale where all tokens are alike. They are not alike
in real text, so --real takes a warm-started model (`recipes/benchmarks/language` makes one) and
completions that it samples, and prints multiples of GRPO's. Each setting sees the same batch at the
same weights. The learning rate that suits a setting moves with the inverse of what is printed,
where the optimiser does not divide the scale out (Adam does, but for gradient clipping).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # the folder `recipes` takes the place of this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from benchmarks import scripted
from benchmarks.quiet import QUIET, silence
from rich.console import Console
from rich.progress import track
from rich.table import Table

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer

DR_GRPO = {"method": "dr_grpo"}
RECENT = DR_GRPO | {"trace_style": "recent"}
BOTH = DR_GRPO | {"trace_style": "both"}
WEIGHT = {"trace_mode": "weight"}
PAPER = {"normalize_trace": False}
GRPO = {"method": "grpo", "loss_type": "grpo"}
DAPO = {"method": "dapo"}
FLOOR = {"advantage_floor": -0.1}
SETTINGS = {
    "Dr. GRPO (trace none, no process sets)": DR_GRPO,
    "advantage divided by the group's std": DR_GRPO | {"scale_rewards": "group"},
    "process sets alone": DR_GRPO | {"process_set_weighting": True},
    "recent, advantage or ratio": RECENT,
    "recent, weight": RECENT | WEIGHT,
    "both, advantage or ratio": BOTH,
    "both, weight": BOTH | WEIGHT,
    "recent, advantage or ratio, not normalised": RECENT | PAPER,
    "recent, weight, not normalised": RECENT | WEIGHT | PAPER,
    "both, advantage or ratio, not normalised": BOTH | PAPER,
    "both, weight, not normalised": BOTH | WEIGHT | PAPER,
    "terminal, recent, normalised": RECENT | {"td_error": "terminal", "normalize_trace": True},
    "terminal, recent, not normalised": RECENT | PAPER | {"td_error": "terminal"},
    "tree, recent": RECENT | {"td_error": "tree"},
    "tree, recent, not normalised": RECENT | PAPER | {"td_error": "tree"},
    "GRPO's loss": GRPO,
    "GRPO's loss, floor": GRPO | FLOOR,
    "DAPO's loss": DAPO,
    "DAPO's loss, floor": DAPO | FLOOR,
    "DAPO's loss, floor, recent": DAPO | FLOOR | {"trace_style": "recent"},
}


def gradient_norm(folder: Path, length: int, settings: dict) -> float:
    """Norm of the gradient of one step at the model's starting weights."""
    config = LambdaGRPOConfig(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=length,
        max_steps=1,
        logging_steps=1,
        learning_rate=0.0,
        **QUIET,
        **settings,
    )
    trainer = scripted.trainer(
        LambdaGRPOTrainer,
        config,
        scripted.branching_completions(groups=4, size=8, length=length),
        model_config=scripted.qwen2(hidden_size=64, layers=2),
        model_folder=folder / "model",
    )
    trainer.train()
    return trainer.state.log_history[0]["grad_norm"]


# The options that belong to --real, and what they are where they are not given.
REAL = {
    "results": Path("gradient_scale.json"),
    "readme": None,
    "batches": 2,
    "groups": 3,
    "completions": 8,
    "arms": None,
}
LENGTHS = [64, 768]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens (64 768); not with --real")
    parser.add_argument("--real", metavar="FOLDER", help="a warm-started model")
    real = parser.add_argument_group("with --real")
    kept = "what is measured, kept after each arm and taken up again (gradient_scale.json)"
    real.add_argument("--results", type=Path, help=kept)
    real.add_argument("--readme", type=Path, help="a Markdown file with the two marks (none)")
    real.add_argument("--batches", type=int, help="how many (2)")
    real.add_argument("--groups", type=int, help="prompts of each batch (3)")
    real.add_argument("--completions", type=int, help="of each prompt (8)")
    real.add_argument("--arms", nargs="+", help="see language/arms.py (those of gradients.py)")
    options = parser.parse_args(arguments)
    if options.real and options.lengths:
        parser.error("--lengths is of random completions: leave it out with --real.")
    if not options.real and (given := [f"--{n}" for n in REAL if vars(options)[n] is not None]):
        parser.error(f"{', '.join(given)}: of use with --real FOLDER alone.")
    options.lengths = options.lengths or LENGTHS
    for name, value in REAL.items():
        if vars(options)[name] is None:
            setattr(options, name, value)
    return options


def main() -> None:
    options = parse_arguments()
    silence()
    torch.set_num_threads(1)
    if options.real:
        print_real(options)
    else:
        print_scripted(options)


def print_real(options: argparse.Namespace) -> None:
    from benchmarks.language import gradients
    from benchmarks.language.tasks import task
    from benchmarks.learning.table import insert

    data = gradients.measure_all(
        options.real,
        task("words"),
        options.arms or list(gradients.ARMS),
        options.results,
        batches=options.batches,
        groups=options.groups,
        size=options.completions,
    )
    if options.readme:
        insert(options.readme, gradients.markdown(data), mark=gradients.MARK)
    table = Table(*gradients.COLUMNS)
    for row in gradients.rows(data):
        table.add_row(*row)
    Console().print(table)


def print_scripted(options: argparse.Namespace) -> None:
    table = Table("setting", *(f"{n} tokens" for n in options.lengths))
    with tempfile.TemporaryDirectory() as folder:
        norms: dict[str, list[float]] = {}
        for name, settings in track(SETTINGS.items(), description="settings"):
            norms[name] = [gradient_norm(Path(folder), n, settings) for n in options.lengths]
    unit = next(iter(norms.values()))
    for name, own in norms.items():
        table.add_row(name, *(f"{a / b:.3g}" for a, b in zip(own, unit, strict=True)))
    Console().print(table)


if __name__ == "__main__":
    main()
