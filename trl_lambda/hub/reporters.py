"""Trackers of transformers that are told a run's settings without their secrets.

They write `args.to_dict()`, nested settings and all: TensorBoard's callback to a folder in
`output_dir`, which is pushed with the model, others to a server.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from .redaction import args_without_secrets

# Where they read the settings, or save them with a model.
READS_SETTINGS = ("setup", "on_train_begin", "on_train_end")


def tell_no_secrets(callbacks: list[TrainerCallback]) -> None:
    """Makes each tracker of transformers one that gets its arguments without secrets.

    It stays an instance of its class, so that it is found and removed by that; subclasses of users
    are left as they are.
    """
    for callback in callbacks:
        if type(callback) in INTEGRATION_TO_CALLBACK.values():
            callback.__class__ = _discreet(type(callback))


@cache
def _discreet(cls: type[TrainerCallback]) -> type[TrainerCallback]:
    made: type[TrainerCallback] = type(cls.__name__, (cls,), {})
    for name in READS_SETTINGS:
        if hasattr(cls, name):
            setattr(made, name, _with_clean_args(made, name))
    return made


def _with_clean_args(made: type, name: str) -> Any:
    def event(self: Any, args: Any, *rest: Any, **options: Any) -> Any:
        return getattr(super(made, self), name)(args_without_secrets(args), *rest, **options)

    return event
