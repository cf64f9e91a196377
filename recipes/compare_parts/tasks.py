"""The tasks of compare.py: small, and different in where the token sits that decides.

early   `A3B1C4D0=` → `2` and a long tail that is always the same: the first token decides
late    the same tail first, then the `2`: the last token decides
chain   the quickstart's: four dependent steps, the reward sees the answer alone
search  sixteen paths of four left-or-right tokens; the one that is worth most lies among bad ones
long    three decisions in 260 tokens

Rewards are verifiable, from the text alone. `early`, `late` and `long` ask for tagged operands
plus 1, modulo 5; what fills the space between decisions is one fixed text in which no character
comes twice, so that a tiny model writes it almost without error, and keeps it when it learns.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quickstart_parts.arithmetic import (
    CHARACTERS,
    SOLUTION_TOKENS,
    STEPS,
    answer_reward,
    distinct_problems,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TAGS = "ABCD"
BASE = 5

Steps = list[tuple[int, float]]


@dataclass(frozen=True)
class Problem:
    """A prompt, and the completion or answer that is right."""

    prompt: str
    gold: str


@dataclass(frozen=True)
class Task:
    """What is to be learnt, from which start, with how much.

    Attributes:
        problems: a stream of distinct problems from a random generator.
        demonstrate: a completion of a problem for the warm start, with its deliberate errors.
        reward: of a completion, for the gold.
        steps: (index of the token that ends a step, its reward); None where steps would give the
            answer away. One character is one token.
        right: probability that a demonstrated decision is right; what `demonstrate` gets.
        length: characters after which the environment ends a completion; None for no such end.
        exact: the gold is the only right completion, so that accuracy is its probability, and no
            sampling is needed to measure it.
        characters: the vocabulary; one token each.
        tokens: of the longest completion, the end included.
        groups, completions: prompts a generation, and completions of each.
        updates: optimiser steps on each generation (`num_iterations`).
        generations: of a full run.
        learning_rates: those that are tried, ascending.
    """

    name: str
    decisive: str
    problems: Callable[[random.Random], Iterator[Problem]]
    demonstrate: Callable[[Problem, random.Random, float], str]
    reward: Callable[[str, str], float]
    steps: Callable[[str, str], Steps] | None
    right: float
    exact: bool
    characters: str
    tokens: int
    generations: int
    learning_rates: tuple[float, ...]
    length: Callable[[str, str], int] | None = None
    groups: int = 4
    completions: int = 8
    updates: int = 2
    held_out: int = 128
    warm_start_steps: int = 1500
    warm_start_batch: int = 64
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


def spread(parts: list[str]) -> Callable[[random.Random], Iterator[Problem]]:
    """Problems whose gold is `parts` with a decision after each but the last.

    The i-th decision is the i-th operand plus 1, modulo 5.
    """

    def problems(rng: random.Random) -> Iterator[Problem]:
        for operands in tagged_operands(rng):
            decisions = [(operand + 1) % BASE for operand in operands]
            gold = "".join(f"{part}{d}" for part, d in zip(parts[:-1], decisions, strict=False))
            yield Problem(tagged_prompt(operands), gold + parts[-1])

    return problems


def off_by_one(problem: Problem, rng: random.Random, right: float) -> str:
    """Each decision right, one too large, or anything; all else as it should be.

    Half of what is not right is one too large: with `right` under a third the most likely digit is
    a wrong one, and the reward has to turn it.
    """

    def written(character: str) -> str:
        if not character.isdigit() or (chance := rng.random()) < right:
            return character
        if chance < right + (1 - right) / 2:
            return str((int(character) + 1) % BASE)
        return str(rng.randrange(BASE))

    return "".join(map(written, problem.gold))


def same_text(completion: str, gold: str) -> float:
    return float(completion == gold)


def length_until_lost(completion: str, gold: str) -> int:
    """Characters up to the first that is not the gold's, digits apart; that one counts.

    There the environment ends a completion: nothing can be won any more. Without this one slip is
    followed by dozens of characters that the model was never shown, whose punishment, far larger
    than the credit of any decision, undoes the fixed text too: every method then breaks.
    """
    for i, (written, right) in enumerate(zip(completion, gold, strict=False)):
        if written != right and not (written.isdigit() and right.isdigit()):
            return i + 1
    return len(completion)


def right_digits(completion: str, gold: str) -> Steps:
    """Each digit of the gold is a step; a completion may end before."""
    return [
        (i, float(completion[i] == digit))
        for i, digit in enumerate(gold[: len(completion)])
        if digit.isdigit()
    ]


def chain_problems(rng: random.Random) -> Iterator[Problem]:
    for problem in distinct_problems(rng):
        yield Problem(problem.prompt, problem.answer)


def chain_demonstration(problem: Problem, rng: random.Random, right: float) -> str:
    """The quickstart's: a written result is any digit with probability 1 - `right`."""
    value, *others = map(int, problem.prompt[:-1].split("-"))
    written = str(value)
    for digit in others:
        value = (value - digit) % 10 if rng.random() < right else rng.randrange(10)
        written += f"-{digit}={value}"
    return f"{written}#{value}"


def chain_reward(completion: str, gold: str) -> float:
    return answer_reward([completion], [gold])[0]


def chain_steps(completion: str, gold: str) -> Steps:
    """Whether each written result follows from the digits before it, and the answer from the last.

    `a-b=c-d=e…#x`: steps end at the results and at the answer; a character out of place ends the
    list with a step of 0.
    """
    steps: Steps = []
    ends = [4 * k for k in range(1, STEPS + 1)]
    for end in ends:
        before, piece = completion[end - 4 : end - 3], completion[end - 3 : end + 1]
        well_formed = len(piece) == 4 and piece[0] == "-" and piece[2] == "="
        if not (well_formed and all(c.isdigit() for c in (before, piece[1], piece[3]))):
            return [*steps, (min(end, max(len(completion) - 1, 0)), 0.0)] if completion else steps
        steps.append((end, float((int(before) - int(piece[1])) % 10 == int(piece[3]))))
    answer = completion[ends[-1] + 1 : ends[-1] + 3]
    if len(answer) == 2:
        steps.append((ends[-1] + 2, float(answer == "#" + completion[ends[-1]])))
    return steps


# The left/right tree of the λ-GRPO paper (arXiv 2509.21154, section 4.3): depth 4, groups of 16,
# +1 for the target, -1 where the first token is the target's, +0.7 elsewhere; 250 steps, one
# update each; what counts is how often the target is sampled. The paper trains GPT-2 small at 1e-5.
DEPTH = 4
LEAF = 6
SHARED = 1
SIBLING, OTHER = -1.0, 0.7


def search_problems(rng: random.Random) -> Iterator[Problem]:
    """One prompt for ever: what is searched does not depend on it."""
    return itertools.repeat(Problem("=", tree_path(LEAF)))


def tree_path(leaf: int) -> str:
    """The names of the nodes from below the root to a leaf; each node has a name of its own."""
    nodes = [(leaf + 2**DEPTH) >> rest for rest in range(DEPTH - 1, -1, -1)]  # a heap: 2, 3 | 4 …
    return "".join((LETTERS + TAGS)[node - 2] for node in nodes)


def search_demonstration(problem: Problem, rng: random.Random, right: float) -> str:
    return tree_path(rng.randrange(2**DEPTH))


def search_reward(completion: str, gold: str) -> float:
    if completion == gold:
        return 1.0
    return SIBLING if completion[:SHARED] == gold[:SHARED] else OTHER


TAIL = filler(25)
LONG = filler(255)
TAGGED = "01234=" + TAGS

TASKS = {
    task.name: task
    for task in (
        Task(
            name="early",
            decisive="first of 26 tokens",
            problems=spread(["", TAIL]),
            demonstrate=off_by_one,
            reward=same_text,
            steps=right_digits,
            length=length_until_lost,
            right=0.2,
            exact=True,
            characters=TAGGED + TAIL,
            tokens=27,
            generations=50,
            learning_rates=(3e-4, 6e-4, 1.2e-3),
        ),
        Task(
            name="late",
            decisive="last of 26 tokens",
            problems=spread([TAIL, ""]),
            demonstrate=off_by_one,
            reward=same_text,
            steps=right_digits,
            length=length_until_lost,
            right=0.2,
            exact=True,
            characters=TAGGED + TAIL,
            tokens=27,
            generations=50,
            learning_rates=(3e-4, 6e-4, 1.2e-3),
        ),
        Task(
            name="chain",
            decisive="four dependent steps in 20 tokens",
            problems=chain_problems,
            demonstrate=chain_demonstration,
            reward=chain_reward,
            steps=chain_steps,
            right=0.75,
            exact=False,
            characters=CHARACTERS,
            tokens=SOLUTION_TOKENS,
            generations=60,
            learning_rates=(1.5e-4, 3e-4, 6e-4),
            held_out=512,
            warm_start_steps=3000,
        ),
        Task(
            name="search",
            decisive="all of 4 tokens; one path of 16",
            problems=search_problems,
            demonstrate=search_demonstration,
            reward=search_reward,
            steps=None,
            right=0.0,
            exact=True,
            characters="=" + LETTERS + TAGS,
            tokens=DEPTH + 1,
            generations=250,
            learning_rates=(3e-4, 1e-3, 3e-3),
            groups=1,
            completions=16,
            updates=1,
            held_out=1,
            warm_start_steps=200,
        ),
        Task(
            name="long",
            decisive="three decisions in 258 tokens",
            problems=spread([LONG[:85], LONG[85:170], LONG[170:], ""]),
            demonstrate=off_by_one,
            reward=same_text,
            steps=right_digits,
            length=length_until_lost,
            right=0.5,
            exact=True,
            characters=TAGGED + LONG,
            tokens=259,
            generations=40,
            learning_rates=(1e-4, 2e-4, 4e-4),
            groups=2,
            held_out=64,
            warm_start_steps=4000,
            warm_start_batch=16,
        ),
    )
}
