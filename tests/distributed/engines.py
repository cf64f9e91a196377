"""Run by `accelerate launch` under each engine: the same global batch, trained for three steps.

    engines.py FOLDER

Twelve scripted completions of uneven length in groups of four, two micro-batches a step (but in one
case): groups straddle two processes. Writes FOLDER/<case>.<rank>.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import on_cpu
import straddle
import tiny
import torch
from accelerate import PartialState
from torch.distributed.tensor import DTensor
from trl import GRPOTrainer

from trl_lambda import LambdaGRPOTrainer

SETTINGS = {
    "gradient_accumulation_steps": 2,
    "num_generations": straddle.GROUP,
    "shuffle_dataset": False,
    # Plain steps: Adam makes a whole step of a rounding error. Large ones, so that KL is not noise.
    "optim": "sgd",
    "learning_rate": 2.0,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.05,  # cuts
    "beta": 0.04,
}
CASES = {
    "default": {**tiny.DEFAULT, "method": "default"},
    "trace_and_floor": tiny.TRACE_AND_FLOOR,
    "traced": {},
    "tree": {"td_error": "tree", "trace_lambda": 0.9, "scale_rewards": "group"},
    "ratio_twice": {
        "trace_mode": "ratio",
        "trace_style": "both",
        "loss_type": "dapo",
        "num_iterations": 2,
    },
    "weight": {"trace_mode": "weight", "loss_type": "grpo", "scale_rewards": "batch"},
    "probe": straddle.PROBE | {"scale_rewards": "batch"},
    # In TRL's own pass over the batch, two micro-batches of it.
    "probe_shared": straddle.PROBE | {"scale_rewards": "batch", "num_iterations": 2},
    "no_accumulation": {"trace_mode": "ratio", "gradient_accumulation_steps": 1},
}
# TRL's normaliser of this loss is a micro-batch's own: other processes, other numbers.
BNPO = {"loss_type": "bnpo", "scale_rewards": "group"}
NOT_COMPARED = {"bnpo": tiny.NEUTRAL | BNPO, "bnpo_stock": BNPO}


def sharding(trainer) -> str:
    """What the engine really does with the parameters."""
    parameters = list(trainer.model.parameters())
    if all(isinstance(parameter, DTensor) for parameter in parameters):
        return "fsdp2"
    if trainer.is_deepspeed_enabled:
        return f"zero{trainer.model_wrapped.zero_optimization_stage()}"
    return "ddp" if trainer.accelerator.use_distributed else "one"


def watch_credit(trainer) -> list[dict]:
    """Copies of what each generated batch got: credit of tokens, or TRL's one for a completion."""
    scored, credit_of = [], trainer._credit

    def credit(batch):
        tensors = credit_of(batch)
        got = tensors or {"advantages": batch.advantage_B[:, None]}
        scored.append({name: tensor.clone() for name, tensor in got.items()})
        return tensors

    trainer._credit = credit
    return scored


def run(case: str, folder: Path) -> dict:
    state = PartialState()
    stock = case.endswith("stock")
    settings = SETTINGS | (CASES | NOT_COMPARED)[case]
    rows = straddle.ROWS // state.num_processes // settings["gradient_accumulation_steps"]
    trainer = tiny.trainer(
        folder / case,
        GRPOTrainer if stock else LambdaGRPOTrainer,
        reward_funcs=straddle.reward,
        rollout_func=straddle.rollout_of(case),
        settings=settings | {"per_device_train_batch_size": rows},
        train_dataset=straddle.PROMPTS,
    )
    scored = [] if stock else watch_credit(trainer)
    trainer.train()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    result = {
        "sharding": sharding(trainer),
        "logs": trainer.state.log_history[:3],
        "credit": scored,
        "shares": None if stock else trainer._continuations.shares,
        "parameters": {name: value.cpu() for name, value in (weights or {}).items()},
    }
    torch.save(result, folder / f"{case}.{state.process_index}.pt")
    return result


if __name__ == "__main__":
    on_cpu.process_state()
    with on_cpu.leaving_together():
        for name in CASES | NOT_COMPARED:
            run(name, Path(sys.argv[1]))
