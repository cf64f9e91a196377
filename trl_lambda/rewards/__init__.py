r"""Math rewards: what counts as the answer, whether it is right, in workers that can be killed.

    >>> from trl_lambda.rewards import grade
    >>> grade(r"Half of it: \boxed{\frac12}", "0.5")
    Grade(correct=True, reason='ok', extracted='\\frac12')

`math_reward` is the same as a TRL reward function. Importing this package imports neither torch nor
trl, and the worker processes import neither.

**Which endings count as an answer**

| Template | Ending | Example |
|---|---|---|
| Qwen-Math, MATH, most chat models | `\boxed{…}`, the last one | `\boxed{\frac{1}{2}}` |
| R1 (`<think>…</think>` first) | the last `<answer>` element | `<answer>5</answer>` |
| GSM8K | what follows the last `####` on its line | `#### 1,234` |

- Of `\boxed` and `<answer>` the one that starts last decides, so `<answer>\boxed{5}</answer>` is 5.
  `####` is looked at only where there is neither, since it is also a Markdown heading.
- If the last one does not close, or has more than 4096 characters, there is no answer; an earlier
  one never counts.
- After `</think>` only what follows counts; while a `<think>` is open, nothing does.
- A box in a box is that box; a box that holds a box and more is read as it stands, and fails.
- An answer without a mark ("the value is 5") is none.

**What is right** is decided by math-verify's parser and comparison, with exact numbers. This
folder's README has the policies, with examples that a test grades: decimals for fractions (six
significant digits), percentages, bases, units and plain words after a number, several quantities,
the case of letters, lettered choices, lists, ratios, times of day, and the known limits.

**Workers** are separate programs, so a script needs no `if __name__ == "__main__"`. They start when
first needed, as many as there are cores for this rank and at most 8;
`TRL_LAMBDA_REWARD_WORKERS` sets another number. In asyncio code, call
`await asyncio.to_thread(grade_many, …)`.
"""

from trl_lambda.rewards.extraction import extract_answer
from trl_lambda.rewards.grading import equivalent, equivalent_many, grade, grade_many
from trl_lambda.rewards.pool import GraderPool
from trl_lambda.rewards.trl_reward import math_reward
from trl_lambda.rewards.verdict import REASONS, Grade, Reason

__all__ = [
    "REASONS",
    "Grade",
    "GraderPool",
    "Reason",
    "equivalent",
    "equivalent_many",
    "extract_answer",
    "grade",
    "grade_many",
    "math_reward",
]
