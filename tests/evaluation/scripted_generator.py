"""Generators whose success is known, and small problem sets, without a model."""

import random
from collections.abc import Callable, Sequence

from trl_lambda.evaluation import Completion, Problem, ProblemSet, Request, Sampling
from trl_lambda.evaluation.problem_sets import fingerprint

# Temperature above 0 and the problem as the prompt, which the scripts look up.
PLAIN = Sampling(template="none")


class ScriptedGenerator:
    """Writes what `script` says to a prompt and a stream of random numbers of the sample's own."""

    tokenizer = None

    def __init__(self, script: Callable[[str, random.Random], str], *, batch_size: int = 64):
        self.script = script
        self.batch_size = batch_size
        self.settings = {"engine": "script", "batch_size": batch_size}
        self.asked: list[Request] = []

    def check(self, prompts: Sequence[str], sampling: Sampling) -> None:
        assert prompts

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.asked += requests
        texts = [self.script(one.prompt, random.Random(one.seed)) for one in requests]
        return [
            Completion(
                text,
                min(len(text), sampling.max_tokens),
                len(text) >= sampling.max_tokens,
                tuple(range(min(len(text), sampling.max_tokens))),
            )
            for text in texts
        ]


def right_with(chances: dict[str, float], golds: dict[str, str]) -> Callable:
    """A script that is right with a chance of the problem's own."""

    def script(prompt: str, stream: random.Random) -> str:
        right = stream.random() < chances[prompt]
        return rf"So it is \boxed{{{golds[prompt] if right else 'x_{wrong}'}}}."

    return script


def problem_set(problems: Sequence[tuple[str, Sequence[str]]], name: str = "small") -> ProblemSet:
    rows = tuple(Problem(text, tuple(answers)) for text, answers in problems)
    return ProblemSet(name, "made by hand", rows, fingerprint(rows), "none", 4)


def sums(count: int) -> ProblemSet:
    """0+0=, 1+1=, …"""
    return problem_set([(f"{i}+{i}=", [str(2 * i)]) for i in range(count)], "sums")


def right_sums(prompt: str, stream: random.Random) -> str:
    """Right for two samples of three."""
    first = int(prompt[: prompt.rindex("+")].split()[-1])
    return rf"\boxed{{{2 * first + (stream.random() < 1 / 3)}}}"
