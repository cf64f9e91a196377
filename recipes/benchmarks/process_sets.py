"""Draws the README's picture: a group of completions as the tree of its prefixes.

    python recipes/benchmarks/process_sets.py --output recipes/benchmarks/results/process_sets.png

The group is made up, its numbers are not: process sets, values and credit are the package's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from trl_lambda.credit import Signal, assign_credit
from trl_lambda.functional import group_mean, prefix_sets, reward_denominator
from trl_lambda.report.figures import tree_figure
from trl_lambda.rule import resolve

PROMPT = "3 boxes of 4 eggs, 2 break. How many are whole?"
# Pieces stand for tokens; 1 is right.
COMPLETIONS = (
    (("3", " × 4", " = 12", ", 12 − 2", " = 10", "."), 1.0),
    (("3", " × 4", " = 12", ", 12 − 2", " = 10", "."), 1.0),
    (("3", " × 4", " = 12", ", 12 + 2", " = 14", "."), 0.0),
    (("3", " × 4", " = 7", ", 7 − 2", " = 5", "."), 0.0),
    (("3", " + 4", " = 7", ", 7 − 2", " = 5", "."), 0.0),
    (("3", " + 4", " = 7", ", so 7", "."), 0.0),
    (("First", " 4 − 2", " = 2", ", 3 × 2", " = 6", "."), 0.0),
    (("First", " 3 × 4", " = 12", ", less 2", " = 10", "."), 1.0),
)


def group() -> dict[str, Any]:
    """A group as the credit log has it, with the credit of TEMPO."""
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(p, len(vocabulary)) for p in row] for row, _ in COMPLETIONS]
    lengths = torch.tensor([len(row) for row in ids])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    groups = torch.zeros(len(ids), dtype=torch.long)
    rewards = torch.tensor([reward for _, reward in COMPLETIONS])
    sets = prefix_sets(tokens, lengths, groups)
    denominator = reward_denominator(rewards, groups)
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    signal = Signal(
        mask_BT=mask,
        advantage_B=(rewards - group_mean(rewards, groups)) / denominator,
        sizes_BT=sets.sizes(),
        values_BT1=sets.mean(rewards),
        denominator_B=denominator,
    )
    credit = assign_credit(resolve({"method": "tempo"}).credit, signal)
    completions = [
        {
            "row": f"0-{i}",
            "pieces": list(pieces),
            "ids": ids[i],
            "mask": [1] * len(pieces),
            "reward": reward,
            "group_advantage": signal.advantage_B[i].item(),
            "advantage": credit.advantage_BT[i, : len(pieces)].tolist(),
            "weight": credit.weight_BT[i, : len(pieces)].tolist(),
            "trace_weight": [1.0] * len(pieces),
            "size": signal.sizes_BT[i, : len(pieces)].tolist(),
            "update": None,
        }
        for i, (pieces, reward) in enumerate(COMPLETIONS)
    ]
    return {"id": "0", "step": 0, "mode": "train", "prompt": PROMPT, "completions": completions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    tree_figure(group()).savefig(options.output, dpi=120, facecolor="white")


if __name__ == "__main__":
    main()
