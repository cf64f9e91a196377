"""Rewards that tests name by dotted path."""

not_a_function = 3


def mentions_answer(completions, answers, **columns) -> list[float]:
    """Uses the data set's column, as a real reward does; the length makes rewards vary."""
    return [
        float(any(answer in text for answer in accepted)) + 0.01 * len(text)
        for text, accepted in zip(completions, answers, strict=True)
    ]


def last_token_step(completion_ids, **columns) -> list[list[tuple[int, float]]]:
    """One step per completion, rewarded by its length."""
    return [[(len(ids) - 1, float(len(ids)))] for ids in completion_ids]


def brevity(completions, **columns) -> list[float]:
    return [-float(len(text)) for text in completions]


def mean_token(completion_ids, **columns) -> list[float]:
    """Varied in every group, and the same for texts and for messages."""
    return [sum(ids) / max(len(ids), 1) for ids in completion_ids]
