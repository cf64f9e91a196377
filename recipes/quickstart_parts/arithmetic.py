"""The quickstart's task: differences modulo 10 with every step written out.

A problem is `6-6-0-4-8=`, its solution `6-6=0-0=0-4=6-8=8#8`: each result is the digit the next
step starts from, and what follows `#` is the answer. Written steps make the task learnable for
some hundred thousand weights, and make it matter which of the tokens went wrong.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from .small_model import EOS

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
        """The steps and the answer; each result is a random digit with probability `noise`."""
        return written_steps(self.digits, lambda: rng.random() >= noise, rng)


def written_steps(digits: tuple[int, ...], is_right: Callable[[], bool], rng: random.Random) -> str:
    """The steps of a problem and its answer; a result is a random digit unless `is_right()`.

    Later steps go on from the digit that was written: every step alone shows what is to be learnt,
    and the errors of all steps meet in the answer.
    """
    value, *others = digits
    written = str(value)
    for digit in others:
        value = (value - digit) % 10 if is_right() else rng.randrange(10)
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


@dataclass(frozen=True)
class Data:
    """Problems of three uses, none in two of them."""

    held_out: list[Problem]
    prompts: list[Problem]
    demonstrated: list[Problem]

    @classmethod
    def draw(cls, held_out: int, prompts: int, demonstrated: int, *, seed: int) -> Data:
        """So many problems of each use."""
        stream = distinct_problems(random.Random(seed))
        counts = (held_out, prompts, demonstrated)
        return cls(*(list(itertools.islice(stream, count)) for count in counts))


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
