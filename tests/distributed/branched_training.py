"""Run by `accelerate launch` under an engine: branched groups of four, six rows on each process.

    branched_training.py FOLDER

The model generates; the second group is split between the processes. Trains two steps with forks at
random tokens, then two at the most uncertain ones, and writes FOLDER/<case>.<rank>.pt: what each
process generated, where it comes from, and its credit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import on_cpu
import tiny
import torch
from accelerate import PartialState
from datasets import Dataset

UNSET = dict.fromkeys(["trace_style", "process_set_weighting", "advantage_floor"])
CASES = {
    "random": {},
    # A forward pass for the entropies, on each process.
    "entropy": {"branch_at": "entropy", "sibling_shrinkage": 0.0},
    "tree": {"td_error": "tree", "branch_forks": "even", "branch_at": "fraction"},
}


def run(case: str, folder: Path) -> None:
    state = PartialState()
    settings = {
        "method": "branch",
        **UNSET,
        "loss_type": None,
        "scale_rewards": None,
        "num_generations": 4,
        "per_device_train_batch_size": 12 // state.num_processes,
        "max_completion_length": 10,
        "max_steps": 2,
    }
    rewards: list[float] = []

    def reward(completions, **columns):
        rewards[:] = tiny.letter_reward(completions)
        return rewards

    trainer = tiny.trainer(
        folder / case,
        reward_funcs=reward,
        settings=settings | CASES[case],
        train_dataset=Dataset.from_list([{"prompt": "1+1="}] * 6),
    )
    batches = []
    credit_of = trainer._credit

    def noted(batch):
        tensors = credit_of(batch)
        batches.append(
            {
                "completions": trainer._rollout.completion_ids,
                "parent": batch.branches.parent_B.tolist(),
                "fork": batch.branches.fork_B.tolist(),
                "rewards": list(rewards),
                "advantages": tensors["advantages"].clone(),
            }
        )
        return tensors

    trainer._credit = noted
    trainer.train()
    logs = trainer.state.log_history[:2]
    torch.save((batches, logs), folder / f"{case}.{state.process_index}.pt")


if __name__ == "__main__":
    on_cpu.process_state()
    with on_cpu.leaving_together():
        for name in CASES:
            run(name, Path(sys.argv[1]))
