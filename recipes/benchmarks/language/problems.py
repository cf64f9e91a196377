"""Word problems of our own making: three steps each, written out, with a whole number at the end.

A problem is a story with four numbers. Two problems with the same story and numbers count as one,
whatever the names in them, so that what is held out was never seen under another name.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SEED = 0
# What the results are measured on, demonstrations, what learning rates are chosen by, prompts.
PARTS = {"held_out": 256, "warm_start": 800, "validation": 256, "training": 1600}

NAMES = (
    *("Mia", "Tom", "Ana", "Ben", "Zoe", "Max", "Eva", "Leo"),
    *("Ida", "Sam", "Lea", "Jim", "Amy", "Dan", "Kim", "Joe"),
)
THINGS = (
    *("pens", "cards", "eggs", "books", "coins"),
    *("shells", "apples", "stamps", "balls", "plums"),
)

Numbers = tuple[int, int, int, int]
Steps = tuple[int, int, int]


@dataclass(frozen=True)
class Problem:
    """A question, its worked solution, which ends in `#### answer`, and the answer."""

    question: str
    solution: str
    answer: str


@dataclass(frozen=True)
class Story:
    """A kind of problem.

    Attributes:
        ranges: from which to which each of the numbers a, b, c, d is drawn.
        steps: the results x, y, z of the three steps; z is the answer.
    """

    question: str
    solution: str
    ranges: tuple[tuple[int, int], ...]
    steps: Callable[[int, int, int, int], Steps]


def _boxes(a: int, b: int, c: int, d: int) -> Steps:
    return (x := b * c), (y := a + x), y - d


def _wages(a: int, b: int, c: int, d: int) -> Steps:
    return (x := a * b), (y := x - c), y + d


def _bus(a: int, b: int, c: int, d: int) -> Steps:
    return (x := a - b), (y := x + c), y * d


def _farm(a: int, b: int, c: int, d: int) -> Steps:
    return (x := a * b), (y := x + a), y - c - d


def _pages(a: int, b: int, c: int, d: int) -> Steps:
    return (x := a + b), (y := x * c), y - d


def _bakery(a: int, b: int, c: int, d: int) -> Steps:
    return (x := a * b), (y := c * d), x + y


STORIES = (
    Story(
        "{name} has {a} {things} and buys {b} boxes of {c} {things}. Then {name} gives away {d}. "
        "How many {things} are left?",
        "The boxes hold {b} * {c} = {x} {things}. With the first ones there are {a} + {x} = {y}. "
        "After the gift {y} - {d} = {z} are left.",
        ((3, 20), (2, 4), (2, 5), (1, 6)),
        _boxes,
    ),
    Story(
        "{name} earns {a} dollars an hour and works {b} hours. {name} spends {c} dollars and finds "
        "{d}. How many dollars does {name} have?",
        "{name} earns {a} * {b} = {x} dollars. After spending there are {x} - {c} = {y}. "
        "With the find it is {y} + {d} = {z}.",
        ((2, 7), (2, 5), (1, 3), (1, 12)),
        _wages,
    ),
    Story(
        "A bus with {a} people stops. {b} get off and {c} get on. Then each pays {d} dollars. "
        "How many dollars is that?",
        "First {a} - {b} = {x} people stay. Then {x} + {c} = {y} are on the bus. "
        "They pay {y} * {d} = {z} dollars.",
        ((8, 18), (1, 5), (1, 5), (2, 4)),
        _bus,
    ),
    Story(
        "A farm has {a} cows and {b} times as many hens. {name} sells {c} animals and then {d} "
        "more. How many animals are left?",
        "There are {a} * {b} = {x} hens. That makes {x} + {a} = {y} animals. "
        "After the sales {y} - {c} - {d} = {z} are left.",
        ((3, 7), (2, 4), (1, 4), (1, 4)),
        _farm,
    ),
    Story(
        "{name} reads {a} pages on Monday and {b} on Tuesday. The book has {c} times as many, but "
        "{d} of them are empty. How many pages of the book are printed?",
        "On both days it is {a} + {b} = {x} pages. The book has {x} * {c} = {y}. "
        "Without the empty ones {y} - {d} = {z} are printed.",
        ((2, 9), (1, 8), (2, 3), (1, 5)),
        _pages,
    ),
    Story(
        "A baker fills {a} trays with {b} rolls and {c} trays with {d} cakes. "
        "How many pieces are on all trays?",
        "The first trays hold {a} * {b} = {x} rolls. The others hold {c} * {d} = {y} cakes. "
        "In all there are {x} + {y} = {z} pieces.",
        ((2, 5), (2, 6), (2, 4), (2, 5)),
        _bakery,
    ),
)


def stream(seed: int = SEED) -> Iterator[Problem]:
    """Problems, no story with the same numbers twice; there are some 4000.

    A story comes as often as it has numbers, so that the last problems are like the first.
    """
    rng, seen = random.Random(seed), set()
    sizes = [math.prod(last - first + 1 for first, last in s.ranges) for s in STORIES]
    while len(seen) < sum(sizes):
        (index,) = rng.choices(range(len(STORIES)), sizes)
        numbers: Numbers = tuple(rng.randint(*limits) for limits in STORIES[index].ranges)
        words = {"name": rng.choice(NAMES), "things": rng.choice(THINGS)}
        if (index, numbers) not in seen:
            seen.add((index, numbers))
            yield written(STORIES[index], numbers, words)


def written(story: Story, numbers: Numbers, words: dict[str, str]) -> Problem:
    values = dict(zip("abcdxyz", (*numbers, *story.steps(*numbers)), strict=True)) | words
    answer = str(values["z"])
    solution = f"{story.solution.format(**values)}\n#### {answer}"
    return Problem(story.question.format(**values), solution, answer)


def part(name: str) -> list[Problem]:
    """One of the parts that have no problem in common; see `PARTS`."""
    first = 0
    for other, count in PARTS.items():
        if other == name:
            return list(itertools.islice(stream(), first, first + count))
        first += count
    raise ValueError(f"part: {name!r}, expected one of {', '.join(PARTS)}.")
