"""Branched groups against independent samples: generated tokens and seconds, by engine.

A model of random weights that never ends a completion, so that all have one length and forks stand
where they are told to. Half of a group of eight are roots. A branched group has two waves, one
after the other: it samples fewer tokens, in more steps. Which of the two counts depends on how full
the engine is, so seconds are shown beside tokens and not made of them.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from quickstart_parts.small_model import character_tokenizer, small_qwen2
from rich.progress import track

from trl_lambda.rollout import BranchRule, branch
from trl_lambda.rollout.waves import Engine

from .measuring import seconds

GROUP = 8
LENGTHS = (256, 1024)
FRACTIONS = (0.5, 0.75)
PROMPT = 64  # tokens
CHARACTERS = "0123456789"

Turn = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, tokens) -> so many tokens more of each."""


def rows(groups: int, repeats: int) -> list[dict]:
    """One row for each engine, length and place of the forks."""
    engines = {"Transformers": transformers_turn}
    if importlib.util.find_spec("vllm") is not None:
        engines["vLLM"] = vllm_turn
    table = []
    for name, make in engines.items():
        with tempfile.TemporaryDirectory() as folder:
            turn = make(folder)
            cells = [(length, share) for length in LENGTHS for share in FRACTIONS]
            for length, share in track(cells, description=f"rollouts with {name}"):
                table.append({"engine": name} | compare(turn, groups, length, share, repeats))
    return table


def compare(turn: Turn, groups: int, length: int, share: float, repeats: int) -> dict:
    """Medians over `repeats` pairs, the two in turn."""
    times: dict[str, list[float]] = {"independent": [], "branched": []}
    tokens = {}
    for attempt in range(repeats + 1):  # the first one warms up
        # New prompts each time: an engine would remember those of the last.
        generator = torch.Generator().manual_seed(attempt)
        drawn = torch.randint(2, 12, (groups, PROMPT), generator=generator).tolist()
        prompts = [prompt for prompt in drawn for _ in range(GROUP)]

        def independent(prompts=prompts):
            tokens["independent"] = sum(map(len, turn(prompts, length)))

        def branched(prompts=prompts):
            tokens["branched"] = generated(turn, prompts, length, share)

        for name, function in (("independent", independent), ("branched", branched)):
            times[name].append(seconds(function))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {
        "length": length,
        "fork at": share,
        "completions": groups * GROUP,
        "tokens": tokens["branched"],
        "tokens, independent": tokens["independent"],
        "seconds": medians["branched"],
        "seconds, independent": medians["independent"],
    }


def generated(turn: Turn, prompts: list[list[int]], length: int, share: float) -> int:
    """Generates branched groups; how many tokens were sampled."""

    def generate(
        prompts: list[list[int]], spent: list[int], copies: int
    ) -> tuple[list[list[int]], None]:
        return turn(prompts, length - min(spent)), None

    def ask(*texts: Any) -> Any:
        raise AssertionError("forks at a fraction need no policy")

    engine = Engine(
        generate=generate,
        score=ask,
        doubt=ask,
        end_ids=frozenset(),
        ends_line=lambda token: False,
        budget=length,
    )
    rule = BranchRule(None, "even", "fraction", share, surprise=1.0, levels=1)
    return branch(engine, rule, rule.sizes(GROUP), prompts, 0).counts().generated


def small_model() -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = character_tokenizer(CHARACTERS)
    return small_qwen2(tokenizer, hidden_size=256, layers=4, positions=2048), tokenizer


def transformers_turn(folder: str) -> Turn:
    model, tokenizer = small_model()
    model.to(torch.accelerator.current_accelerator() or "cpu").eval()

    def turn(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        batch = torch.tensor(prompts, device=model.device)
        sampled = model.generate(
            input_ids=batch,
            attention_mask=torch.ones_like(batch),
            do_sample=True,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
        return sampled[:, batch.shape[1] :].tolist()

    return turn


def vllm_turn(folder: str) -> Turn:
    from vllm import LLM, SamplingParams

    model, tokenizer = small_model()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    llm = LLM(folder, max_model_len=2048, gpu_memory_utilization=0.2)

    def turn(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        sampling = SamplingParams(max_tokens=tokens, ignore_eos=True)
        outputs = llm.generate(asked, sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return turn
