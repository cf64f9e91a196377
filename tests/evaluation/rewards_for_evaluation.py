"""A reward function that is found by its dotted path."""


def nearness(completions, aim, **columns):
    """How near a completion's length is to what the row wants."""
    return [-abs(len(text) - one) / 10 for text, one in zip(completions, aim, strict=True)]
