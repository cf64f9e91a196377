"""What a model can be asked about a prefix of its own solution, and how much of it is the gold.

All questions of one prefix are answered by the log-probabilities of a few given texts behind it:

    answer      the gold answer, after the line that the task's answers stand on
    boxed       the same after the package's own probe text
    next step   the next step of the reference solution, as it is written there
    result      the number that this step ends with, after the reference has written the rest of it
    reference   all that is left of the reference solution

The last three take the policy's steps for those of the reference: after k steps of its own they ask
for step k + 1. Where the reference has none they are not asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from trl_lambda.methods import BOXED_PROBE
from trl_lambda.probe.asking import ProbeTokens

ANSWER_PROBE = "\n#### "
QUESTIONS = {
    "answer": "`#### ` and the gold answer",
    "boxed": "`Final answer: \\boxed{` and the gold answer",
    "next step": "the reference's next step",
    "result": "the number that step ends with",
    "reference": "the rest of the reference solution",
}
# What stands before the result of a step: the last = of it, or the mark of the answer.
_BEFORE_RESULT = re.compile(r".*(?:=|####)\s*", re.DOTALL)
_RESULT = re.compile(r"[-\d.,/]*\d")
_SENTENCE_END = re.compile(r"(?<=\.)(?=\s)")
_LINE_END = re.compile(r"(?<=\n)")


@dataclass(frozen=True)
class Chunk:
    """Tokens to be scored behind a prefix, and which of them answer which question.

    Attributes:
        ids: of the tokens.
        parts: for each question the indices of its gold's tokens.
    """

    ids: list[int]
    parts: dict[str, list[int]] = field(default_factory=dict)


def reference_steps(solution: str, by: str) -> list[str]:
    """The steps of a worked solution; together they are the solution.

    Args:
        by: `sentences` or `newline`, as the segments of completions.
    """
    ends = {"sentences": _SENTENCE_END, "newline": _LINE_END}[by]
    return [piece for piece in ends.split(solution) if piece]


def result_span(step: str) -> tuple[int, int] | None:
    """Where in a step the number stands that it ends with; None where it says none."""
    before = _BEFORE_RESULT.match(step)
    found = _RESULT.match(step, before.end()) if before else None
    return found.span() if found else None


class Questions:
    """Texts to be scored, as tokens.

    Args:
        tokenizer: the policy's, a fast one: it has to say which characters a token stands for.
    """

    def __init__(self, tokenizer):
        self._tokenizer, self._probes = tokenizer, ProbeTokens(tokenizer)

    def after(self, steps: list[str], gold: str, k: int) -> list[Chunk]:
        """What is asked after k steps.

        Args:
            steps: of the reference; none where there is no reference.
            gold: the answer.
        """
        chunks = [
            self._probe("answer", ANSWER_PROBE, gold),
            self._probe("boxed", BOXED_PROBE, gold),
        ]
        return [*chunks, self._rest(steps, k)] if k < len(steps) else chunks

    def _probe(self, question: str, probe: str, gold: str) -> Chunk:
        ids, scored = self._probes.encoded(probe, gold)
        return Chunk(ids, {question: list(range(len(ids) - scored, len(ids)))})

    def _rest(self, steps: list[str], k: int) -> Chunk:
        encoded = self._tokenizer(
            "".join(steps[k:]), add_special_tokens=False, return_offsets_mapping=True
        )
        spans = encoded["offset_mapping"]
        parts = {
            "next step": _within(spans, (0, len(steps[k]))),
            "reference": list(range(len(spans))),
        }
        if result := result_span(steps[k]):
            parts["result"] = _within(spans, result)
        return Chunk(list(encoded["input_ids"]), parts)


def _within(spans: list[tuple[int, int]], wanted: tuple[int, int]) -> list[int]:
    """Indices of the tokens that stand for one of the characters."""
    return [i for i, (start, end) in enumerate(spans) if start < wanted[1] and end > wanted[0]]
