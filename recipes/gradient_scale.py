"""How large the gradient is with each setting, as a multiple of Dr. GRPO's.

    python recipes/gradient_scale.py

One batch of scripted completions, one small random model; each setting sees the same batch at the
same weights. The learning rate that suits a setting moves with the inverse of what is printed,
where the optimiser does not divide the scale out (Adam does, but for gradient clipping).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import scripted
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer

NEUTRAL = {"trace_style": "none", "process_set_weighting": False}
UNWEIGHTED = {"process_set_weighting": False}
PAPER = {"process_set_weighting": False, "normalize_trace": False}
SETTINGS = {
    "Dr. GRPO (trace none, no process sets)": NEUTRAL,
    "process sets alone (λ-GRPO)": {"trace_style": "none"},
    "recent, advantage or ratio": UNWEIGHTED,
    "recent, weight": UNWEIGHTED | {"trace_mode": "weight"},
    "both, advantage or ratio": UNWEIGHTED | {"trace_style": "both"},
    "both, weight": UNWEIGHTED | {"trace_style": "both", "trace_mode": "weight"},
    "recent, advantage or ratio, not normalised": PAPER,
    "recent, weight, not normalised": PAPER | {"trace_mode": "weight"},
    "both, advantage or ratio, not normalised": PAPER | {"trace_style": "both"},
    "both, weight, not normalised": PAPER | {"trace_style": "both", "trace_mode": "weight"},
    "terminal, recent, normalised": UNWEIGHTED | {"td_error": "terminal"},
    "terminal, recent, not normalised": PAPER | {"td_error": "terminal"},
    "tree, recent": UNWEIGHTED | {"td_error": "tree"},
    "tree, recent, not normalised": PAPER | {"td_error": "tree"},
    "all defaults (recent, process sets)": {},
    "advantage divided by the group's std (GRPO)": NEUTRAL | {"scale_rewards": "group"},
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
        **scripted.QUIET,
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
