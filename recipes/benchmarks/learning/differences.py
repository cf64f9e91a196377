"""The task `chain`: differences modulo 10 with every step written out.

A problem is `6-6-0-4-8=`, its solution `6-6=0-0=0-4=6-8=8#8`: each result is the digit the next
step starts from, and what follows `#` is the answer. Written steps make the task learnable for
some hundred thousand weights, and make it matter which of the tokens went wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quickstart_parts.blanks import distinct

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
    count = STEPS + 1
    return distinct(lambda: Problem(tuple(rng.randrange(10) for _ in range(count))), 10**count)
