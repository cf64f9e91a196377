"""The tasks of the benchmark: small, and different in where the tokens sit that decide.

first   a digit, then a fixed text of 30 tokens: the first token decides
last    the same text, then the digit: the last token decides
chain   four dependent steps written out in 19 tokens: each result decides the steps after it

A completion earns 1 where it is the gold, token for token, and 0 otherwise: who drops the fixed
text earns nothing, so that what decides stays where the name says. Because one completion alone is
right, accuracy is its probability, and no sampling is needed to measure it. Digits are asked for in
the prompt, one tagged operand each: the operand plus 1, modulo 5. The fixed text has no character
twice, so that a tiny model writes it almost without error.

`short` is what branching rollouts are measured on in `--compare branching`: noisier, faster, and a
reward that looks at the digits alone. `tiny` is there for `--smoke`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .differences import CHARACTERS, SOLUTION_TOKENS, STEPS, distinct_problems, written_steps

TAGS = "ABCD"
BASE = 5


@dataclass(frozen=True)
class Problem:
    """A prompt, the completion or digits that are right, and the answer that a probe asks for."""

    prompt: str
    gold: str
    answer: str = ""


@dataclass(frozen=True)
class Task:
    """What is to be learnt, from which start, with how much.

    Attributes:
        name: its key in `TASKS`.
        decisive: where the tokens sit that decide, in words.
        decisions: their positions in a completion. One character is one token.
        problems: a stream of distinct problems from a random generator.
        demonstrate: a completion of a problem for the warm start, with its deliberate errors.
        reward: of a completion, for the gold.
        right: probability that a demonstrated decision is right; what `demonstrate` gets.
        exact: the gold is the only right completion, so that accuracy is its probability, and no
            sampling is needed to measure it.
        answered: the prompt's answer is asked for by a probe.
        characters: the vocabulary; one token each.
        tokens: of the longest completion, the end included.
        groups, completions: prompts a generation, and completions of each.
        generations: of a full run; each trains one update.
        schedule: of the learning rate, after the warm-up.
        max_grad_norm: a longer gradient is scaled to this norm.
        held_out: problems that accuracy is measured on, in none of which the policy is trained.
        measured: samples of each of them in a measurement that samples.
        measurements: along a run, beside the one before it.
        learning_rates: those that are tried first, ascending.
    """

    name: str
    decisive: str
    decisions: tuple[int, ...]
    problems: Callable[[random.Random], Iterator[Problem]]
    demonstrate: Callable[[Problem, random.Random, float], str]
    reward: Callable[[str, str], float]
    right: float
    characters: str
    tokens: int
    generations: int
    learning_rates: tuple[float, ...]
    exact: bool = True
    answered: bool = False
    groups: int = 8
    completions: int = 8
    schedule: str = "linear"
    max_grad_norm: float = 0.1
    held_out: int = 128
    measured: int = 1
    measurements: int = 12
    warm_start_steps: int = 1500
    warm_start_batch: int = 32
    warm_start_rate: float = 3e-3

    def settings(self) -> dict:
        """All numbers of the task, for the record and the key of a run."""
        return {k: v for k, v in vars(self).items() if not callable(v)}


def filler(length: int) -> str:
    """Characters none of which comes twice; the same for all."""
    return "".join(chr(0x4E00 + i) for i in range(length))


def tagged_operands(rng: random.Random) -> Iterator[tuple[int, ...]]:
    operands = list(itertools.product(range(BASE), repeat=len(TAGS)))
    rng.shuffle(operands)
    return iter(operands)


def tagged_prompt(operands: tuple[int, ...]) -> str:
    return "".join(f"{tag}{digit}" for tag, digit in zip(TAGS, operands, strict=True)) + "="


def tagged_problems(parts: list[str]) -> Callable[[random.Random], Iterator[Problem]]:
    """Problems whose gold is `parts` with a digit after each but the last.

    The i-th digit is the i-th operand plus 1, modulo 5.
    """

    def problems(rng: random.Random) -> Iterator[Problem]:
        for operands in tagged_operands(rng):
            digits = [str((operand + 1) % BASE) for operand in operands[: len(parts) - 1]]
            yield Problem(tagged_prompt(operands), between(parts, digits))

    return problems


def between(parts: list[str], digits: list[str]) -> str:
    return "".join(f"{part}{d}" for part, d in zip(parts[:-1], digits, strict=True)) + parts[-1]


def off_by_one(parts: list[str]) -> Callable[[Problem, random.Random, float], str]:
    """Demonstrations: `parts` with a digit after each but the last.

    A digit is right, one too large, or any. Half of what is not right is one too large: with
    `right` under a third the most likely digit is a wrong one, and the reward has to turn it.
    """

    def written(digit: str, rng: random.Random, right: float) -> str:
        if (chance := rng.random()) < right:
            return digit
        if chance < right + (1 - right) / 2:
            return str((int(digit) + 1) % BASE)
        return str(rng.randrange(BASE))

    def demonstrate(problem: Problem, rng: random.Random, right: float) -> str:
        return between(parts, [written(c, rng, right) for c in problem.gold if c.isdigit()])

    return demonstrate


def equal(completion: str, gold: str) -> float:
    return float(completion == gold)


def first_digits(completion: str, gold: str) -> float:
    """Whether the completion's first digits are the gold's; all else is free."""
    wanted = "".join(filter(str.isdigit, gold))
    return float("".join(filter(str.isdigit, completion)).startswith(wanted))


def chain_problems(rng: random.Random) -> Iterator[Problem]:
    for problem in distinct_problems(rng):
        gold = written_steps(problem.digits, lambda: True, rng)
        yield Problem(problem.prompt, gold, problem.answer)


def chain_demonstration(problem: Problem, rng: random.Random, right: float) -> str:
    """A written result is any digit with probability 1 - `right`."""
    digits = tuple(map(int, problem.prompt[:-1].split("-")))
    return written_steps(digits, lambda: rng.random() < right, rng)


def tagged_task(name: str, decisive: str, parts: list[str], **settings) -> Task:
    ends = itertools.accumulate(len(part) + 1 for part in parts[:-1])
    text = "".join(parts)
    return Task(
        name=name,
        decisive=decisive,
        decisions=tuple(end - 1 for end in ends),
        problems=tagged_problems(parts),
        demonstrate=off_by_one(parts),
        characters="01234=" + TAGS + text,
        tokens=len(text) + len(parts),  # a digit for each part but the last, and the end
        **{"reward": equal} | settings,
    )


TEXT = filler(45)
TASKS = {
    task.name: task
    for task in (
        tagged_task(
            "first",
            "first of 31 tokens",
            ["", TEXT[:30]],
            right=0.2,
            generations=40,
            learning_rates=(7e-4, 1e-3, 1.4e-3),
        ),
        tagged_task(
            "last",
            "last of 31 tokens",
            [TEXT[:30], ""],
            right=0.2,
            generations=40,
            learning_rates=(2e-3, 2.8e-3, 4e-3),
        ),
        Task(
            name="chain",
            decisive="four dependent results in 19 tokens",
            decisions=tuple(4 * step for step in range(1, STEPS + 1)),
            problems=chain_problems,
            demonstrate=chain_demonstration,
            reward=equal,
            right=0.75,
            answered=True,
            characters=CHARACTERS,
            tokens=SOLUTION_TOKENS,
            generations=50,
            learning_rates=(2e-3, 2.8e-3, 4e-3),
            held_out=256,
            warm_start_steps=3000,
            warm_start_batch=64,
        ),
    )
}
SHORT = "short"
TASKS[SHORT] = tagged_task(
    SHORT,
    "three of 48 tokens",
    [TEXT[:15], TEXT[15:30], TEXT[30:], ""],
    right=0.5,
    generations=60,
    learning_rates=(3.5e-4, 5e-4, 7e-4, 1e-3),
    reward=first_digits,
    exact=False,
    groups=4,
    schedule="constant_with_warmup",
    max_grad_norm=1.0,
    measured=2,
)
# For runs that only have to run.
TINY = "tiny"
TASKS[TINY] = tagged_task(
    TINY,
    "first of 5 tokens",
    ["", TEXT[:4]],
    right=0.5,
    generations=5,
    learning_rates=(1e-3,),
    warm_start_steps=100,
)
