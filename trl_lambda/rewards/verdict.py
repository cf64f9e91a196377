"""The verdict of a grading."""

from dataclasses import dataclass
from typing import Literal, get_args

Reason = Literal["ok", "wrong", "no_answer", "unparseable_answer", "unparseable_gold", "timeout"]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one response.

    Attributes:
        correct: Whether the answer equals one of the golds; the same as `reason == "ok"`.
        reason: `ok`; `wrong`: read, and unequal; `no_answer`: the response ends in no marked
            answer; `unparseable_answer`: marked, but not mathematics the parser reads;
            `unparseable_gold`: the gold cannot be read, so nothing can be said; `timeout`: the
            comparison was stopped.
        extracted: The text taken for the answer, `None` where there was none.
    """

    correct: bool
    reason: Reason
    extracted: str | None
