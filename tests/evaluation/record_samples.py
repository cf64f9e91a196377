"""Records by hand."""

from trl_lambda.evaluation import Record


def record(problem: int, sample: int, **changes) -> Record:
    fields = {
        "problem_index": problem,
        "sample_index": sample,
        "seed": 1,
        "problem": f"{problem}?",
        "answers": ("2",),
        "prompt": f"{problem}?",
        "completion": r"\boxed{2}",
        "num_tokens": 9,
        "truncated": False,
        "correct": True,
        "reason": "ok",
        "extracted": "2",
    }
    return Record(**(fields | changes))
