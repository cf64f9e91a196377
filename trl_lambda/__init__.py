"""Credit for single tokens in TRL's GRPO, without a critic.

The public names are loaded on first use, so that `trl_lambda.functional` needs torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import LambdaGRPOConfig
    from .td_errors import CreditBatch
    from .trainer import LambdaGRPOTrainer

__version__ = "0.1.0.dev0"
__all__ = ["CreditBatch", "LambdaGRPOConfig", "LambdaGRPOTrainer", "__version__"]

_HOMES = {
    "CreditBatch": ".td_errors",
    "LambdaGRPOConfig": ".config",
    "LambdaGRPOTrainer": ".trainer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
