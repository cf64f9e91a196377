"""One batch of rollouts as TRL's trainer sees it, and as verl does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import tiny
import torch
import worked_groups

from trl_lambda.methods import CREDIT_OPTIONS, NO_FLOOR

EOS, PAD = tiny.EOS, tiny.EOS  # verl pads with EOS where there is no pad token: ids prove nothing
COMPLETIONS, REWARDS = worked_groups.TWO_GROUPS, worked_groups.TWO_GROUPS_REWARDS
# A step of reward 0, a step that ends on a masked token, a completion without steps.
STEPS = [
    [(0, 1.0), (3, 0.0)],
    [(1, 2.0)],
    [(2, 0.5)],
    None,
    [(0, 0.25), (2, 3.0)],
    [(2, 1.0)],
    [(1, 1.0)],
    [(0, 4.0), (2, 1.5), (5, 1.0)],
]
HOLES = {(0, 1), (1, 1), (7, 2)}  # tool tokens
PROMPTS = ["0+1=", "11+1="]
GROUPS = [0] * 4 + [1] * 4
INTERLEAVED = [0, 4, 1, 5, 7, 2, 6, 3]


def env_mask() -> list[list[int]]:
    return [
        [int((i, t) not in HOLES) for t in range(len(row))] for i, row in enumerate(COMPLETIONS)
    ]


def trainer_credit(output_dir, settings, steps=None) -> torch.Tensor:
    """`(B, T)`: what `LambdaGRPOTrainer` hands to TRL's loss, in the order of `COMPLETIONS`."""

    def step_rewards(completions, **columns):
        return steps

    more = {} if steps is None else {"process_reward_funcs": step_rewards}
    trainer = tiny.trainer(
        output_dir,
        reward_funcs=lambda completions, **columns: REWARDS,
        rollout_func=tiny.scripted(COMPLETIONS, env_mask=env_mask()),
        settings=settings,
        **more,
    )
    trainer.model.train()
    rows = [{"prompt": PROMPTS[group]} for group in GROUPS]
    advantages = trainer._generate_and_score_completions(rows)["advantages"]
    if advantages.ndim == 1:
        advantages = advantages[:, None] * padded(env_mask(), 0)
    return advantages


def padded(rows, filler, *, left=False) -> torch.Tensor:
    width = max(map(len, rows))
    fill = [[filler] * (width - len(row)) for row in rows]
    both = zip(rows, fill, strict=True)
    return torch.tensor([f + list(r) if left else list(r) + f for r, f in both])


def verl_tensors(order=INTERLEAVED, token_rewards=None) -> dict[str, torch.Tensor]:
    """The tensors of verl's batch: outcome rewards on the last token, or `token_rewards` steps."""
    encode = tiny.tokenizer()
    prompts = [encode(PROMPTS[GROUPS[i]])["input_ids"] for i in order]
    responses = [COMPLETIONS[i] for i in order]
    rewards = torch.zeros(len(order), max(map(len, COMPLETIONS)))
    for row, i in enumerate(order):
        given = [(-1, REWARDS[i])] if token_rewards is None else token_rewards[i]
        for end, reward in given or ():
            rewards[row, end if end >= 0 else len(COMPLETIONS[i]) - 1] += reward
    return {
        "prompts": padded(prompts, PAD, left=True),
        "responses": padded(responses, PAD),
        "attention_mask": torch.cat(
            [
                padded([[1] * len(row) for row in prompts], 0, left=True),
                padded([[1] * len(row) for row in responses], 0),
            ],
            1,
        ),
        "response_mask": padded([env_mask()[i] for i in order], 0),
        "token_level_rewards": rewards,
    }


def uids(order=INTERLEAVED) -> np.ndarray:
    """Names of groups that do not sort: verl's are any objects."""
    names = [("prompt", 7), "9e1c"]
    array = np.empty(len(order), dtype=object)
    array[:] = [names[GROUPS[i]] for i in order]
    return array


def batch(order=INTERLEAVED, token_rewards=None, **more) -> SimpleNamespace:
    """What stands for a `DataProto` where verl is not installed."""
    return SimpleNamespace(
        batch=verl_tensors(order, token_rewards), non_tensor_batch={"uid": uids(order), **more}
    )


RECENT = {"trace_style": "recent"}
# (td_error, options, whether token ids are needed)
RULES = [
    ("group", {}, False),
    ("group", {"trace_style": "none"}, False),
    ("group", {"trace_style": "both", "normalize_trace": False, "trace_lambda": 0.9}, False),
    ("group", RECENT | {"advantage_floor": -0.1}, False),
    ("group", RECENT | {"trace_mode": "weight", "trace_lambda": 0.5}, False),
    ("group", RECENT | {"advantage_floor": NO_FLOOR}, False),
    ("terminal", RECENT | {"normalize_trace": False, "trace_lambda": 0.9}, False),
    ("process", RECENT | {"normalize_trace": False, "trace_lambda": 0.9}, False),
    ("group", RECENT | {"process_set_weighting": True}, True),
    ("terminal", RECENT | {"process_set_weighting": True, "trace_mode": "weight"}, True),
    ("process", {"process_set_weighting": True, "trace_style": "both"}, True),
    ("tree", RECENT | {"trace_lambda": 0.9}, True),
    ("tree", {"trace_style": "none", "process_set_weighting": True}, True),
]


def trainer_settings(td_error, options, scale) -> dict:
    """Settings of `LambdaGRPOConfig` for the options of a bridge; the rest is unset."""
    unset = dict.fromkeys(CREDIT_OPTIONS)
    return unset | {"td_error": td_error, "scale_rewards": scale} | options
