"""Samples of held-out problems, as in training: temperature 1, from the whole distribution.

N problems, K samples of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from trl_lambda.evaluation.metrics import pass_at_k
from trl_lambda.evaluation.transformers_generator import without_own_settings
from trl_lambda.rewards import extract_answer, grade_many

SEED = 0


@dataclass(frozen=True)
class Measurement:
    """What the samples of one measurement say; means over all of them.

    Attributes:
        accuracy: share of right samples.
        pass_at_k: chance that one of K samples of a problem is right, mean over problems.
        correct: right samples of each problem.
        length: tokens of a sample, the end included.
        format: share of samples with a marked answer.
        entropy: of the policy's next token, in nats, mean over all sampled tokens.
    """

    accuracy: float
    pass_at_k: float
    correct: tuple[int, ...]
    length: float
    format: float
    entropy: float


def measure(model, tokenizer, rows: list[dict], *, k: int, tokens: int, batch: int) -> Measurement:
    """Samples K completions of each problem; the caller's random state stays as it was.

    Args:
        rows: `prompt` (messages) and `answers` of each problem.
        tokens: at most so many of a completion.
        batch: completions that are sampled at a time.
    """
    asked = [row for row in rows for _ in range(k)]
    was_training = model.training
    model.eval()
    texts, lengths, entropies = [], [], []
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(SEED)
        for start in range(0, len(asked), batch):
            prompts = [row["prompt"] for row in asked[start : start + batch]]
            for ids, entropy in sample(model, tokenizer, prompts, tokens):
                texts.append(tokenizer.decode(ids, skip_special_tokens=True))
                lengths.append(len(ids))
                entropies.append(sum(entropy))
    model.train(was_training)
    grades = grade_many(texts, [row["answers"] for row in asked])
    right_NK = torch.tensor([float(g.correct) for g in grades]).view(len(rows), k)
    correct = right_NK.sum(1).int().tolist()
    return Measurement(
        accuracy=round(right_NK.mean().item(), 4),
        pass_at_k=round(float(pass_at_k(correct, k, k).mean()), 4),
        correct=tuple(correct),
        length=round(sum(lengths) / len(lengths), 2),
        format=round(sum(extract_answer(text) is not None for text in texts) / len(texts), 4),
        entropy=round(sum(entropies) / sum(lengths), 4),
    )


def sample(model, tokenizer, prompts: list, tokens: int) -> list[tuple[list[int], list[float]]]:
    """Ids of a completion of each prompt with its end, and the entropy before each of them.

    Prompts are padded on the left, whatever side the tokenizer pads: the model goes on at the end.
    """
    ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
    encoded = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
    encoded = encoded.to(model.device)
    entropies = Entropies()
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,  # generate() would keep the 50 most likely tokens, training keeps all
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with without_own_settings(model):
        generated = model.generate(
            **encoded,
            generation_config=config,
            logits_processor=LogitsProcessorList([entropies]),
        )
    width = encoded["input_ids"].shape[1]
    rows = [until(row, tokenizer.eos_token_id) for row in generated[:, width:].tolist()]
    entropy_BT = torch.stack(entropies.steps, 1)
    pairs = zip(rows, entropy_BT, strict=True)
    return [(ids, entropy_T[: len(ids)].tolist()) for ids, entropy_T in pairs]


class Entropies(LogitsProcessor):
    """Notes the entropy of each step's distributions, and changes nothing.

    Attributes:
        steps: (B,) of each step, in nats.
    """

    def __init__(self):
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids, scores):
        log_probs_BV = scores.float().log_softmax(-1)
        self.steps.append(-(log_probs_BV.exp() * log_probs_BV).sum(-1))
        return scores


def until(ids: list[int], end: int) -> list[int]:
    """Up to the first end, which is kept."""
    return ids[: ids.index(end) + 1] if end in ids else ids
