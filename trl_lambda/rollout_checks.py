"""What comes back from users' functions: step rewards, rollouts, images that were added."""

from __future__ import annotations

import functools
import operator
from typing import Any

from .functional.td_errors import StepRewards


def images_added(inputs: list[dict[str, Any]], output: dict[str, Any]) -> bool:
    """Whether the model saw images that the data set does not hold: a tool's, an environment's."""
    return "num_images" in output and output["num_images"] != list(map(_image_count, inputs))


def _image_count(row: dict[str, Any]) -> int:
    """Images of a data set's row: in its column, or in the blocks of its messages."""
    prompt = row.get("prompt")
    messages = prompt if isinstance(prompt, list) else []
    blocks = [block for m in messages if isinstance(m["content"], list) for block in m["content"]]
    in_blocks = sum(block.get("image") is not None for block in blocks)
    if "images" in row:
        return in_blocks + len(row["images"] or ())
    return in_blocks + (row.get("image") is not None)


def without_empty_completions(rollout_func):
    """TRL dies of an IndexError at a completion without tokens; this says which one it was."""

    @functools.wraps(rollout_func)
    def checked(prompts, *args, **kwargs):
        output = rollout_func(prompts, *args, **kwargs)
        for row, ids in enumerate(output.get("completion_ids", ())):
            if len(ids) == 0:
                raise ValueError(
                    f"rollout_func returned an empty completion for row {row} of {len(prompts)}; "
                    "every completion needs at least one token (EOS, say)."
                )
        return output

    return checked


def as_steps(entry: Any, row: int, function_name: str) -> StepRewards | None:
    """One completion's steps as a list of (int, float); whatever iterable of pairs they were."""
    if entry is None:
        return None
    try:
        return [(operator.index(end), float(reward)) for end, reward in entry]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The process reward function {function_name!r} returned {entry!r} for completion "
            f"{row}; expected a list of (index of the token that ends the step, reward), or None "
            "to abstain."
        ) from error
