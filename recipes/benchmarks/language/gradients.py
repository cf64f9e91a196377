"""The gradient of each method on real completions, at the same weights and samples.

A warm-started model answers training problems; each arm sees the same completions in a single step
with the learning rate 0. What comes out is the norm of its gradient as a multiple of GRPO's, the
cosine between the two, and the gain of tokens: what the trace multiplies a token's gradient by.

B completions, T completion positions.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer
from trl_lambda.atomic_write import replace_json
from trl_lambda.functional import lambda_return
from trl_lambda.rewards import grade_many
from trl_lambda.rule import resolve

from ..learning.table import count, table
from ..quiet import QUIET
from . import arms
from .model import known_as
from .sampling import sample
from .tasks import Task

MARK = "<!-- gradient -->"
TRACED = "grpo + trace_style=recent + floor"
ARMS = (
    *("grpo", "grpo + floor", "grpo + trace_style=recent", TRACED, "dr_grpo", "lambda_grpo"),
    *("tempo", "grpo_lambda", f"{TRACED} + trace_lambda=0.9", "grpo + trace_style=both + floor"),
)
REFERENCE = "grpo"
MOST_PROMPTS = 10  # for each group that is wanted


class Gradient(TrainerCallback):
    """Keeps the gradient of a step; transformers has clipped its length, not its direction.

    Attributes:
        parts: of each parameter that is trained, in order.
    """

    def __init__(self):
        self.parts: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.parts = [p.grad.detach().clone() for p in model.parameters() if p.grad is not None]


def sampled(start: str, task: Task, index: int, *, groups: int, size: int) -> dict[str, Any]:
    """A batch: `rows`, and for each the `rewards`, `completion_ids` and `entropies` of its group.

    The groups are the first ones that have right and wrong completions: all others have no
    advantage, and no method that starts from it has a gradient there. Batches of another index
    are of other problems.

    Raises:
        SystemExit: there are too few of them.
    """
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(start)
    batch: dict[str, Any] = {"asked": 0, "rows": [], "rewards": [], "completion_ids": []}
    batch["entropies"] = []
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(index)
        most = MOST_PROMPTS * groups
        for row in task.part("training")[index * most : (index + 1) * most]:
            batch["asked"] += 1
            found = sample(model, tokenizer, [row["prompt"]] * size, task.tokens)
            ids, entropies = (list(part) for part in zip(*found, strict=True))
            texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
            rewards = [float(g.correct) for g in grade_many(texts, [row["answers"]] * size)]
            if 0 < sum(rewards) < size:
                batch["rows"].append(row)
                batch["rewards"].append(rewards)
                batch["completion_ids"].append(ids)
                batch["entropies"].append(entropies)
            if len(batch["rows"]) == groups:
                return batch
    raise SystemExit(
        f"{start}: {len(batch['rows'])} of {batch['asked']} groups have right and wrong "
        f"completions; {groups} are needed."
    )


def measured(
    batch: dict[str, Any], arm: str, tokens: int, model, tokenizer
) -> tuple[float, list[torch.Tensor]]:
    """Norm of the arm's gradient, and its direction."""
    rows, size = batch["rows"], len(batch["rewards"][0])
    by_prompt = {
        json.dumps(row["prompt"]): iter(zip(ids, rewards, strict=True))
        for row, ids, rewards in zip(rows, batch["completion_ids"], batch["rewards"], strict=True)
    }
    rewards: list[float] = []

    def rollout(prompts, trainer):
        drawn = [next(by_prompt[json.dumps(prompt)]) for prompt in prompts]
        rewards.extend(reward for _, reward in drawn)
        prompt_ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)
        return {
            "prompt_ids": prompt_ids["input_ids"],
            "completion_ids": [ids for ids, _ in drawn],
            "logprobs": None,
        }

    gradient = Gradient()
    with tempfile.TemporaryDirectory() as folder:
        trainer = LambdaGRPOTrainer(
            model,
            lambda completions, **columns: list(rewards),
            LambdaGRPOConfig(**config(folder, len(rows), size, tokens) | arms.settings(arm)),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            rollout_func=rollout,
            callbacks=[gradient],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.state.log_history[0]["grad_norm"], gradient.parts


def config(folder: str, groups: int, size: int, tokens: int) -> dict[str, Any]:
    return QUIET | {
        "output_dir": folder,
        "learning_rate": 0.0,
        "optim": "sgd",  # no state: the weights stay, and Adam's moments would take two models
        "max_steps": 1,
        "logging_steps": 1,
        "num_generations": size,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": groups,
        "max_completion_length": tokens,
    }


def cosine(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    def dot(x, y):
        return sum(torch.dot(u.flatten(), v.flatten()).item() for u, v in zip(x, y, strict=True))

    return dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5


def gains(arm: str, entropies: list[list[float]]) -> dict[str, float]:
    """What the trace multiplies the gradient of tokens by, where the TD error is constant.

    That is its column sum, a matter of lengths alone; the entropies say which tokens decide.

    Args:
        entropies: of the policy before each token of each completion.

    Returns:
        Mean gain of `first` and `last` tokens, and the mean over all tokens weighted by their
        entropy, `uncertain`: below 1 where the trace takes from the tokens that decide.
    """
    rule = resolve(arms.settings(arm)).credit
    lengths = torch.tensor([len(row) for row in entropies])
    mask_BT = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    gains_BT = mask_BT.double()
    if rule.traced:
        gains_BT = lambda_return(
            gains_BT,
            mask_BT,
            decay=rule.decay,
            style=rule.trace_style,
            normalize=rule.normalize_trace,
        )
    last_B = gains_BT[torch.arange(len(lengths)), lengths - 1]
    entropy = torch.tensor([one for row in entropies for one in row])
    return {
        "first": gains_BT[:, 0].mean().item(),
        "last": last_B.mean().item(),
        "uncertain": ((gains_BT[mask_BT] * entropy).sum() / entropy.sum()).item(),
    }


def measure_all(
    start: str, task: Task, names: list[str], path: Path, *, batches: int, groups: int, size: int
) -> dict[str, Any]:
    """All arms on several batches; kept in the file after each arm, and taken up again there.

    Raises:
        SystemExit: the file has gradients of another model, or of groups of another size.
    """
    made = {"model": known_as(start), "groups": groups, "size": size}
    data = json.loads(path.read_text()) if path.exists() else {"made": made, "batches": []}
    if data["made"] != made:
        raise SystemExit(
            f"{path} has gradients of {data['made']}, and asked for are those of {made}: give "
            "another file, or move this one away."
        )
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    for index in range(batches):
        if index == len(data["batches"]):
            batch = sampled(start, task, index, groups=groups, size=size)
            data["batches"].append(batch | {"arms": {}})
            replace_json(path, data)
        for _ in measure_batch(data["batches"][index], names, task.tokens, model, tokenizer):
            replace_json(path, data)
    return data


def measure_batch(
    batch: dict[str, Any], names: list[str], tokens: int, model, tokenizer
) -> Iterator[str]:
    """Fills in the arms that the batch lacks; yields the name of each when it is there."""
    done = batch["arms"]
    todo = [name for name in dict.fromkeys((REFERENCE, *names)) if name not in done]
    if todo and todo[0] != REFERENCE:
        todo.insert(0, REFERENCE)  # for its direction
    reference: list[torch.Tensor] = []
    for name in todo:
        norm, parts = measured(batch, name, tokens, model, tokenizer)
        reference = reference or parts
        done[name] = {
            "norm": norm,
            "ratio": norm / done.get(REFERENCE, {"norm": norm})["norm"],
            "cosine": cosine(parts, reference),
            "gains": gains(name, [row for group in batch["entropies"] for row in group]),
        }
        yield name


def rows(data: dict[str, Any]) -> list[list[str]]:
    """A row for each arm that all batches have: ratios, cosines, then mean gains."""
    batches = data["batches"]
    arms_of_all = [n for n in batches[0]["arms"] if all(n in b["arms"] for b in batches)]
    made = []
    for name in arms_of_all:
        found = [batch["arms"][name] for batch in batches]
        each = [", ".join(f"{f[key]:.2f}" for f in found) for key in ("ratio", "cosine")]
        kinds = ("first", "last", "uncertain")
        means = [sum(f["gains"][kind] for f in found) / len(found) for kind in kinds]
        made.append([name, *each, *(f"{mean:.2f}" for mean in means)])
    return made


COLUMNS = ("arm", "norm, × GRPO's", "cosine with GRPO's", "gain: first token", "last", "by entropy")


def markdown(data: dict[str, Any]) -> str:
    """The table, with what was measured; from the JSON alone."""
    batches = data["batches"]
    lengths = [len(row) for b in batches for group in b["entropies"] for row in group]
    rewards = [r for b in batches for group in b["rewards"] for r in group]
    prompts = sum(len(b["rows"]) for b in batches)
    model = data["made"]["model"].partition(",")[0]
    head = (
        f"{count(len(lengths), 'completion')} of {count(prompts, 'prompt')} by the model `{model}` "
        f"in {count(len(batches), 'batch', 'batches')}, {min(lengths)} to {max(lengths)} tokens "
        f"long, {sum(rewards) / len(rewards):.0%} of them right; the prompts "
        f"are the first of {sum(b['asked'] for b in batches)} whose completions were neither all "
        "right nor all wrong. A number for each batch, within which all rows have the same weights "
        "and samples. A gain is what the trace multiplies a token's gradient by; *by entropy* is "
        "its mean over tokens weighted by the policy's entropy before them."
    )
    body = [[f"`{name}`", *cells] for name, *cells in rows(data)]
    return head + "\n\n" + table(list(COLUMNS), body) + "\n"
