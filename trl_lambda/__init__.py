"""Credit for single tokens in TRL's GRPO, without a critic."""

__version__ = "0.1.0.dev0"
