"""Reward functions by short name or dotted path."""

from collections.abc import Callable

from ..td_errors import imported_function

# Paths, not functions: only what is asked for is imported.
SHORT_NAMES = {
    "math": "trl_lambda.rewards.math_reward",
    "accuracy_reward": "trl.rewards.accuracy_reward",
    "reasoning_accuracy_reward": "trl.rewards.reasoning_accuracy_reward",
    "think_format_reward": "trl.rewards.think_format_reward",
}


def find_functions(names: list[str] | None, option: str, *, short_names: dict) -> list[Callable]:
    """The functions that the option names, in its order.

    Args:
        names: short names or dotted paths; modules in the working directory are found as well.
        option: for the messages.
        short_names: the paths behind short names.

    Raises:
        ValueError: a name that is neither, or a path at which there is no callable.
    """
    return [_find(name, option, short_names) for name in names or ()]


def _find(name: str, option: str, short_names: dict[str, str]) -> Callable:
    path = short_names.get(name, name)
    if "." not in path:
        known = f"one of {', '.join(short_names)}, or " if short_names else ""
        raise ValueError(
            f"{option} {name}: not a name that is known here. Give {known}the dotted path of a "
            "function, package.module.function."
        )
    return imported_function(path, f"{option} {name}")
