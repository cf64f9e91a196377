"""The tasks of the benchmark: small, and different in where the token sits that decides.

early   `A3B1C4D0=` → `4` and a long tail that is always the same: the first token decides
late    the same text first, then the `4`: the last token decides
chain   four dependent steps written out, the reward sees the answer alone
search  sixteen paths of four left-or-right tokens; the one that is worth most lies among bad ones
long    three decisions in 260 tokens

`long, one update` is `long` as branching rollouts are measured on it: more prompts a generation and
one update on each, so that a run's cost is what it generates. `short` is the same with 48 tokens,
for runs of half a minute.

Rewards are verifiable, and look at the answer alone. `early`, `late` and `long` ask for tagged
operands plus 1, modulo 5; between decisions stands one fixed text in which no character comes
twice, so that a tiny model writes it almost without error. It earns nothing and costs nothing: it
is there to be told apart from what decides.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .differences import (
    CHARACTERS,
    SOLUTION_TOKENS,
    STEPS,
    answer_reward,
    distinct_problems,
    written_steps,
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
        name: of what is to be learnt; tasks with one name start from one model.
        problems: a stream of distinct problems from a random generator.
        demonstrate: a completion of a problem for the warm start, with its deliberate errors.
        reward: of a completion, for the gold.
        steps: (index of the token that ends a step, its reward); None where steps would give the
            answer away. One character is one token.
        right: probability that a demonstrated decision is right; what `demonstrate` gets.
        exact: the gold is the only right completion, so that accuracy is its probability, and no
            sampling is needed to measure it.
        characters: the vocabulary; one token each.
        tokens: of the longest completion, the end included.
        groups, completions: prompts a generation, and completions of each.
        updates: optimiser steps on each generation (`num_iterations`).
        generations: of a full run.
        held_out: problems that accuracy is measured on, in none of which the policy is trained.
        measured: samples of each of them in a measurement.
        measurements: along a run, beside the one before it.
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
    groups: int = 4
    completions: int = 8
    updates: int = 2
    held_out: int = 128
    measured: int = 1
    measurements: int = 10
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


def tagged_problems(decisions: int) -> Callable[[random.Random], Iterator[Problem]]:
    """Problems that ask for so many digits: the i-th operand plus 1, modulo 5."""

    def problems(rng: random.Random) -> Iterator[Problem]:
        for operands in tagged_operands(rng):
            digits = [(operand + 1) % BASE for operand in operands[:decisions]]
            yield Problem(tagged_prompt(operands), "".join(map(str, digits)))

    return problems


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
        digits = [written(digit, rng, right) for digit in problem.gold]
        return "".join(f"{part}{d}" for part, d in zip(parts[:-1], digits, strict=True)) + parts[-1]

    return demonstrate


def first_digits(completion: str, gold: str) -> float:
    """Whether the first digits of the completion are the gold; what follows them is free."""
    return float("".join(filter(str.isdigit, completion)).startswith(gold))


def right_digits(completion: str, gold: str) -> Steps:
    """Each digit of a completion is a step, as far as the gold has digits."""
    places = [i for i, character in enumerate(completion) if character.isdigit()]
    pairs = zip(places, gold, strict=False)
    return [(i, float(completion[i] == digit)) for i, digit in pairs]


def chain_problems(rng: random.Random) -> Iterator[Problem]:
    for problem in distinct_problems(rng):
        yield Problem(problem.prompt, problem.answer)


def chain_demonstration(problem: Problem, rng: random.Random, right: float) -> str:
    """A written result is any digit with probability 1 - `right`."""
    digits = tuple(map(int, problem.prompt[:-1].split("-")))
    return written_steps(digits, lambda: rng.random() < right, rng)


def chain_reward(completion: str, gold: str) -> float:
    return answer_reward(completion, gold)


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


# Tasks whose runs do not measure what their name says, and why; no mean over tasks has them.
RETIRED = {
    "late": (
        "its reward looks at the first digits alone, so policies drop the text before them, and "
        "the last of 26 tokens becomes one of the first: 61 steps of GRPO took 15 tokens a "
        "completion"
    )
}

TAIL = filler(25)
LONG = filler(255)
TAGGED = "01234=" + TAGS

EARLY = Task(
    name="early",
    decisive="first of 26 tokens",
    problems=tagged_problems(1),
    demonstrate=off_by_one(["", TAIL]),
    reward=first_digits,
    steps=right_digits,
    right=0.2,
    exact=False,
    measured=4,
    characters=TAGGED + TAIL,
    tokens=27,
    generations=50,
    learning_rates=(1.5e-3, 3e-3, 6e-3),
)
LATE = replace(
    EARLY,
    name="late",
    decisive="last of 26 tokens",
    demonstrate=off_by_one([TAIL, ""]),
    learning_rates=(5e-4, 1e-3, 2e-3),
)

TASKS = {
    task.name: task
    for task in (
        EARLY,
        LATE,
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
            learning_rates=(5e-4, 1e-3, 2e-3),
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
            problems=tagged_problems(3),
            demonstrate=off_by_one([LONG[:85], LONG[85:170], LONG[170:], ""]),
            reward=first_digits,
            steps=right_digits,
            right=0.5,
            exact=False,
            characters=TAGGED + LONG,
            tokens=259,
            generations=40,
            learning_rates=(2.5e-4, 5e-4, 1e-3),
            groups=2,
            held_out=64,
            warm_start_steps=4000,
            warm_start_batch=16,
        ),
    )
}
BRANCHED = "long, one update"
TASKS[BRANCHED] = replace(
    TASKS["long"],
    generations=60,
    learning_rates=(1.4e-3, 2e-3, 3e-3),
    groups=4,
    updates=1,
    measured=2,
    measurements=12,
)
SHORT = "short"
TASKS[SHORT] = replace(
    TASKS[BRANCHED],
    name=SHORT,
    decisive="three decisions in 48 tokens",
    demonstrate=off_by_one([LONG[:15], LONG[15:30], LONG[30:45], ""]),
    characters=TAGGED + LONG[:45],
    tokens=49,
    learning_rates=(3.5e-4, 5e-4, 7e-4, 1e-3),
    warm_start_steps=1500,
    warm_start_batch=32,
)
