"""The quickstart's task: differences modulo 5, each result written into its blank.

A problem is `4-1=?-3=?-0=?…#`, its solution `4-1=3-3=0-0=0…#0`: each result is the digit that the
next step starts from, and what follows `#` is the answer. The reward sees the answer alone. Of the
tokens of a solution only the results are uncertain, and the first that is wrong makes the answer
wrong: that is where credit belongs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from .small_model import EOS

CHARACTERS = "01234-=?#"
BASE = 5
STEPS = 10


def solution_tokens(steps: int) -> int:
    """Tokens of a solution: `4-1=3`, then `-3=0` for each further step, `#0`, and the end."""
    return 1 + 4 * steps + 2 + 1


SOLUTION_TOKENS = solution_tokens(STEPS)
PROMPT_TOKENS = 1 + 4 * STEPS + 1


@dataclass(frozen=True)
class Problem:
    """A digit and the digits to take from it, modulo `base`."""

    digits: tuple[int, ...]
    base: int = BASE

    @property
    def prompt(self) -> str:
        first, *others = self.digits
        return f"{first}{''.join(f'-{digit}=?' for digit in others)}#"

    @property
    def answer(self) -> str:
        first, *others = self.digits
        return str((first - sum(others)) % self.base)

    def solution(self, rng: random.Random, noise: float) -> str:
        """The steps and the answer; each result is a random digit with probability `noise`."""
        return written_steps(self.digits, lambda: rng.random() >= noise, rng, self.base)


def written_steps(
    digits: tuple[int, ...], is_right: Callable[[], bool], rng: random.Random, base: int
) -> str:
    """The steps of a problem and its answer; a result is a random digit unless `is_right()`.

    Later steps go on from the digit that was written: every step alone shows what is to be learnt,
    and the errors of all steps meet in the answer.
    """
    value, *others = digits
    written = str(value)
    for digit in others:
        value = (value - digit) % base if is_right() else rng.randrange(base)
        written += f"-{digit}={value}"
    return f"{written}#{value}"


def distinct_problems(
    rng: random.Random, steps: int = STEPS, base: int = BASE
) -> Iterator[Problem]:
    """Problems of so many steps, none twice: sets taken one after the other share none."""
    seen: set[Problem] = set()
    while len(seen) < base ** (steps + 1):
        problem = Problem(tuple(rng.randrange(base) for _ in range(steps + 1)), base)
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
    mask = [0] * PROMPT_TOKENS + [1] * SOLUTION_TOKENS  # one token per character
    return Dataset.from_dict({"input_ids": input_ids, "completion_mask": [mask] * len(texts)})
