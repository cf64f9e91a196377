"""How large the gradient is with each setting, as a multiple of Dr. GRPO's.

    python recipes/benchmarks/gradient_scale.py

One batch of scripted completions, one small random model; each setting sees the same batch at the
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
from benchmarks.quiet import QUIET
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
    "default (DAPO's loss, floor, recent)": {"method": "default"},
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
        hidden_size=64,
        num_hidden_layers=2,
        model_folder=folder / "model",
    )
    trainer.train()
    return trainer.state.log_history[0]["grad_norm"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 768], help="tokens (64 768)")
    options = parser.parse_args()
    torch.set_num_threads(1)
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
