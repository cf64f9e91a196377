"""The quickstart's task: ten blanks, in each the digit that comes next.

A problem is `3>?,9>?,…`, its solution `3>4,9>0,…`: the text again, with the blanks filled in. The
reward sees only whether the whole solution is right. Ten of its tokens decide, and a wrong one
among them costs the reward whatever the others are: that is where credit belongs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from .small_model import EOS

DIGITS = "0123456789"
CHARACTERS = f"{DIGITS}>?,"
BLANKS = 10
Drawn = TypeVar("Drawn", bound=Hashable)
PROMPT_TOKENS = 4 * BLANKS  # one token per character
SOLUTION_TOKENS = PROMPT_TOKENS + 1  # and the end of the sequence


@dataclass(frozen=True)
class Problem:
    """The digits before the blanks."""

    digits: tuple[int, ...]

    @property
    def prompt(self) -> str:
        return "".join(f"{digit}>?," for digit in self.digits)

    @property
    def solution(self) -> str:
        return self._filled([(digit + 1) % len(DIGITS) for digit in self.digits])

    def noisy_solution(self, rng: random.Random, noise: float) -> str:
        """A solution in which each blank has any digit with probability `noise`."""
        return self._filled(
            [
                rng.randrange(len(DIGITS)) if rng.random() < noise else (digit + 1) % len(DIGITS)
                for digit in self.digits
            ]
        )

    def _filled(self, written: list[int]) -> str:
        return "".join(f"{d}>{w}," for d, w in zip(self.digits, written, strict=True))


def distinct(draw: Callable[[], Drawn], count: int) -> Iterator[Drawn]:
    """What `draw` gives, nothing twice, until all `count` that there are have come."""
    seen: set[Drawn] = set()
    while len(seen) < count:
        if (drawn := draw()) not in seen:
            seen.add(drawn)
            yield drawn


def distinct_problems(rng: random.Random) -> Iterator[Problem]:
    """Problems, none twice: sets taken from it one after the other share none."""
    size = len(DIGITS)
    return distinct(
        lambda: Problem(tuple(rng.randrange(size) for _ in range(BLANKS))), size**BLANKS
    )


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


def all_right(completions: list[str], solution: list[str], **columns) -> list[float]:
    """1 where a completion is the solution, else 0."""
    return [float(c == s) for c, s in zip(completions, solution, strict=True)]


def prompt_rows(problems: list[Problem]) -> Dataset:
    """`prompt` for the trainer, `solution` for the reward."""
    return Dataset.from_list([{"prompt": p.prompt, "solution": p.solution} for p in problems])


def demonstrations(
    problems: list[Problem], tokenizer: PreTrainedTokenizerFast, rng: random.Random, noise: float
) -> Dataset:
    """Tokenised prompts and noisy solutions; the mask says that only the solution is learnt."""
    texts = [p.prompt + p.noisy_solution(rng, noise) + EOS for p in problems]
    input_ids = tokenizer(texts)["input_ids"]
    mask = [0] * PROMPT_TOKENS + [1] * SOLUTION_TOKENS
    return Dataset.from_dict({"input_ids": input_ids, "completion_mask": [mask] * len(texts)})
