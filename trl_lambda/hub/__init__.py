"""Pushes to the Hub: the model card, its citations, and failures that lose nothing."""

from .hub_trainer import HubTrainer
from .push import HubPushError
from .settings import script_settings

__all__ = ["HubPushError", "HubTrainer", "script_settings"]
