"""The quickstart's task: differences modulo 10 with every step written out, and who learns it.

A problem is `6-6-0-4-8=`, its solution `6-6=0-0=0-4=6-8=8#8`: each result is the digit the next
step starts from, and what follows `#` is the answer. Written steps make the task learnable for
some hundred thousand weights, and make it matter which of the tokens went wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, EOS = "<pad>", "<eos>"
CHARACTERS = "0123456789-=#"
STEPS = 4
# "6-6=0", then "-0=0" for each further step, "#8", and the end of the sequence.
SOLUTION_TOKENS = 1 + 4 * STEPS + 2 + 1


@dataclass(frozen=True)
class Problem:
    """A digit and the `STEPS` digits to take from it, modulo 10."""

    digits: tuple[int, ...]

    @property
    def prompt(self) -> str:
        return "-".join(map(str, self.digits)) + "="

    @property
    def answer(self) -> str:
        first, *others = self.digits
        return str((first - sum(others)) % 10)

    def solution(self, rng: random.Random, noise: float) -> str:
        """The steps and the answer; each result is a random digit with probability `noise`.

        Later steps go on from the digit that was written: every step alone shows what is to be
        learnt, and the errors of all steps meet in the answer.
        """
        value, *others = self.digits
        written = str(value)
        for digit in others:
            value = (value - digit) % 10 if rng.random() >= noise else rng.randrange(10)
            written += f"-{digit}={value}"
        return f"{written}#{value}"


def distinct_problems(rng: random.Random) -> Iterator[Problem]:
    """Problems, none twice: sets taken from it one after the other share none."""
    seen: set[Problem] = set()
    while len(seen) < 10 ** (STEPS + 1):
        problem = Problem(tuple(rng.randrange(10) for _ in range(STEPS + 1)))
        if problem not in seen:
            seen.add(problem)
            yield problem


def answer_reward(completions: list[str], answer: list[str], **columns) -> list[float]:
    """1 where what follows the first `#` is the answer, else 0."""
    return [
        float(completion.partition("#")[2] == expected)
        for completion, expected in zip(completions, answer, strict=True)
    ]


def prompt_rows(problems: list[Problem]) -> Dataset:
    """`prompt` for the trainer, `answer` for the reward."""
    return Dataset.from_list([{"prompt": p.prompt, "answer": p.answer} for p in problems])


def demonstrations(
    problems: list[Problem], tokenizer: PreTrainedTokenizerFast, rng: random.Random, noise: float
) -> Dataset:
    """Tokenised prompts and noisy solutions; the mask says that only the solution is learnt."""
    texts = [p.prompt + p.solution(rng, noise) + EOS for p in problems]
    input_ids = tokenizer(texts)["input_ids"]
    prompt_tokens = 2 * (STEPS + 1)  # one token per character: each digit with its sign
    mask = [0] * prompt_tokens + [1] * SOLUTION_TOKENS
    return Dataset.from_dict({"input_ids": input_ids, "completion_mask": [mask] * len(texts)})


def character_tokenizer(characters: str = CHARACTERS) -> PreTrainedTokenizerFast:
    """One token per character; padded on the left, as generation needs."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, *characters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=EOS, padding_side="left"
    )


def small_qwen2(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 of 0.1 million random weights; seed torch before the call."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            # Positions up to 30 only: with Qwen2's 1e6 the heads hardly tell them apart, and
            # learning to copy the operands takes several times as long.
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
