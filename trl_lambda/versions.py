"""The versions that a record of a run names."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from . import __version__

# The packages whose versions decide the numbers of a training.
TRAINING = ("torch", "transformers", "accelerate", "trl")


def installed_versions(*packages: str) -> dict[str, str | None]:
    """Python's, ours and those of `packages` (default: `TRAINING`); None where one is absent."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "trl_lambda": __version__,
    }
    for package in packages or TRAINING:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
