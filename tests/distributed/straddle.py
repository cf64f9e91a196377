"""Run by `accelerate launch`: groups of four over processes that hold six rows each.

Twelve scripted completions of uneven length, however many processes there are. Each process writes
what it got, `<folder>/<case>.<rank>.pt`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import on_cpu
import tiny
import torch
import worked_groups
from accelerate import PartialState
from datasets import Dataset

from trl_lambda.probe import calibration

ROWS, GROUP = 12, 4
EOS = tiny.EOS
# The second group is split between the processes; the second process has the longest completion.
COMPLETIONS = [
    *worked_groups.TWO_GROUPS[:5],
    [7, 8, 9, EOS],
    [7, 7, EOS],
    [7, 8, 9, 9, 9, 9, EOS],
    [6, EOS],
    [6, 6, EOS],
    [6, 6, EOS],
    [6, 6, 5, EOS],
]
REWARDS = [1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.5, None, 0.0, 1.0, 0.0, 1.0]
STEPS = [[(len(row) - 1, float(i % 5)), (0, 1.0)] for i, row in enumerate(COMPLETIONS)]
STEPS[6] = None
# The last group has no gold for an answer probe.
ANSWERS = ["2", "12", None]
PROMPTS = Dataset.from_list([{"prompt": "1+1=", "answer": answer} for answer in ANSWERS])
PROBE = {
    "td_error": "probe",
    "trace_per": "step",
    "trace_lambda": 0.8,
    "step_ends": 2,
    "probe_text": "# ",
    "probe_calibration": False,
}

CASES = {
    "trace_and_floor": tiny.TRACE_AND_FLOOR,
    "traced": {},
    "tree": {"td_error": "tree", "trace_lambda": 0.9, "scale_rewards": "group"},
    "ratio_kl": {"trace_mode": "ratio", "trace_style": "both", "beta": 0.04},
    "weight_batch_std": {"trace_mode": "weight", "scale_rewards": "batch", "loss_type": "dapo"},
    "prompts": {"td_error": "tree", "beta": 0.04},
    "masked": {"td_error": "tree", "mask_truncated_completions": True},
    # The second process has no token to learn from.
    "all_masked": {"trace_mode": "ratio", "beta": 0.04, "mask_truncated_completions": True},
    "recorded": {"td_error": "tree", "credit_log_steps": 1, "beta": 0.04},
    "process": {"td_error": "process", "scale_rewards": "group", "loss_type": "grpo"},
    "process_batch_std": {"td_error": "process", "scale_rewards": "batch", "reward_weights": [1.0]},
    "probe": PROBE,
    # In use from the second batch on: see `run`.
    "probe_calibrated": PROBE | {"probe_calibration": True, "scale_rewards": "batch"},
    # One advantage a completion, and a policy loss that is logged.
    "floor_alone": tiny.NEUTRAL | {"advantage_floor": -0.1},
    "entropy_bonus": {"beta": 0.04, "entropy_coef": 0.01, "optim": "sgd"},
}


def own(values: list) -> list:
    """This process's share of twelve values."""
    state = PartialState()
    count = ROWS // state.num_processes
    return values[state.process_index * count : (state.process_index + 1) * count]


def rollout_of(case: str):
    """Scripted completions; with case "prompts" an environment adds 0 to 2 tokens to a prompt, with
    "masked" some are cut off and some tokens are not the policy's, with "all_masked" all of the
    second half are cut off."""
    completions = list(COMPLETIONS)
    if case == "all_masked":
        completions[6:] = [row[:-1] for row in completions[6:]]
    if case == "masked":
        completions = [row[:-1] if i in (5, 8) else row for i, row in enumerate(completions)]

    def rollout(prompts, trainer):
        prompt_ids = trainer.processing_class(prompts[0])["input_ids"]
        added = [[9] * (i % 3) if case == "prompts" else [] for i in range(ROWS)]
        output = {
            "prompt_ids": own([prompt_ids + tokens for tokens in added]),
            "completion_ids": own(completions),
            "logprobs": None,
        }
        if case == "masked":
            output["env_mask"] = own([[1, 0] + [1] * (len(row) - 2) for row in completions])
        return output

    return rollout


def reward(completions, **columns):
    return own(REWARDS)


def steps(completions, **columns):
    return own(STEPS)


def run(case: str, folder: Path) -> dict:
    """Trains three steps; what the last batch got, the metrics, the parameters."""
    state = PartialState()
    settings = {
        "per_device_train_batch_size": ROWS // state.num_processes,
        "num_generations": GROUP,
        "num_iterations": 1,
        "num_generations_eval": ROWS,
        # The prompts say nothing: every process must see the same ones in any case.
        "shuffle_dataset": False,
    } | CASES[case]
    if case == "probe_calibrated":
        calibration.MIN_GROUPS = 1
        calibration.Calibration.predicts = property(lambda self: self.gain[0] >= 1)
    trainer = tiny.trainer(
        folder / case,
        reward_funcs=reward,
        rollout_func=rollout_of(case),
        settings=settings,
        train_dataset=PROMPTS,
        process_reward_funcs=steps if settings.get("td_error") == "process" else None,
    )
    trainer.train()
    rows = own([{"prompt": "1+1=", "answer": ANSWERS[i // GROUP]} for i in range(ROWS)])
    trainer.model.train()
    output = trainer._generate_and_score_completions(rows)
    shown = list(trainer._logs["advantages"])[-ROWS:]
    extra = {name: list(values)[-ROWS:] for name, values in trainer._logs["extra"].items()}
    trainer.model.eval()
    result = {
        "advantages": output["advantages"],
        "eval_advantages": trainer._generate_and_score_completions(rows)["advantages"],
        "kl_weight": output.get("kl_weight"),
        "parameters": tiny.parameters(trainer),
        "logs": trainer.state.log_history[:3],
        "shown": {"advantage": shown, **extra},
        "calibration": trainer._probe.calibration.state() if trainer._probe else None,
    }
    torch.save(result, folder / f"{case}.{state.process_index}.pt")
    return result


if __name__ == "__main__":
    on_cpu.process_state()
    with on_cpu.leaving_together():
        for name in sys.argv[2:] or CASES:
            run(name, Path(sys.argv[1]))
