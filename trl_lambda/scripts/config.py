"""The trainer's config as the training script takes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import LambdaGRPOConfig


@dataclass
class ScriptConfig(LambdaGRPOConfig):
    """`LambdaGRPOConfig` for prepared data: `--answer_column` names the column of the raw ones.

    The golds become the column `answers`, which an answer probe finds by itself.
    """

    answer_column: str | None = field(default=None, init=False)
