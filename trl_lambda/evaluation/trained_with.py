"""How a run's training sampled and asked, read from its folder and compared with an evaluation.

Our trainer writes `training_config.yaml` beside every model it saves; TRL's own leaves a pickle of
its arguments, `training_args.bin`. A pickle can run code when it is loaded: this one is read
without making any object of the types that it names, so that a folder from elsewhere does nothing.
"""

import logging
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from trl_lambda.evaluation.generate import Sampling

logger = logging.getLogger(__name__)

CONFIG_FILE = "training_config.yaml"
ARGUMENTS_FILE = "training_args.bin"
# Settings of training that evaluation has no option for, each with the value that does nothing.
WITHOUT = {"top_k": (0, None, -1), "min_p": (0.0, None), "repetition_penalty": (1.0, None)}
# An evaluation's setting and the training's of the same meaning.
SAMPLED = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_completion_length"}
PROMPTED = ("template", "conversational", "system_prompt", "chat_template_kwargs")


def training_settings(folder: str | Path | None) -> dict[str, Any]:
    """The settings of the training whose model a folder holds; empty where none are known.

    Args:
        folder: A run's folder, one of its checkpoints, or anything else, such as a Hub id.
    """
    if folder is None:
        return {}
    for name, read in ((CONFIG_FILE, _read_yaml), (ARGUMENTS_FILE, _read_pickle)):
        path = Path(folder) / name
        if path.is_file():
            found = _read(path, read)
            return found | dict(found.get("generation_kwargs") or {})
    return {}


def differences_from_training(settings: Mapping[str, Any], sampling: Sampling) -> list[str]:
    """The differences between an evaluation and the training, a sentence each.

    Args:
        settings: From `training_settings`, or a config's `vars`; what it lacks is not compared.
        sampling: How the evaluation samples, its template set.
    """
    if "template" in settings:  # whoever wrote it down left out what had its default
        settings = {"conversational": False, "system_prompt": None, **settings}
    said = []
    for ours, theirs in SAMPLED.items():
        now = getattr(sampling, ours)
        if settings.get(theirs) is not None and settings[theirs] != now:
            said.append(f"{theirs} was {settings[theirs]} in training; {ours} is {now} here.")
    for name, neutral in WITHOUT.items():
        if settings.get(name) not in neutral:
            said.append(f"{name} was {settings[name]} in training; there is none here.")
    for name in PROMPTED:
        before, now = settings.get(name), getattr(sampling, name)
        # A template `chat` is conversational by itself.
        same = name == "conversational" and sampling.is_chat
        if name in settings and not same and (before or None) != (now or None):
            said.append(f"{name} was {before!r} in training; it is {now!r} here.")
    return said


def _read(path: Path, read: Any) -> dict[str, Any]:
    try:
        found = read(path)
    except Exception as error:  # anybody may have made the file
        logger.warning("%s cannot be read: %s: %s", path, type(error).__name__, error)
        return {}
    return dict(found) if isinstance(found, Mapping) else {}


def _read_yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text("utf-8"))


def _read_pickle(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        [name] = [one for one in archive.namelist() if one.endswith("/data.pkl")]
        with archive.open(name) as file:
            return vars(_Unpickler(file).load()).get("state")


class _Husk:
    """Stands for an object of any type: keeps its state and does nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Takes an entry of what was a mapping."""

    def append(self, value: Any) -> None:
        """Takes an entry of what was a list."""

    add = append  # or a set


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Husk]:
        return _Husk

    def persistent_load(self, pid: Any) -> _Husk:
        return _Husk()


def config_settings(config: Any) -> dict[str, Any]:
    """A training's config as `differences_from_training` takes it."""
    found = {one.name: getattr(config, one.name) for one in fields(config)}
    return found | dict(found.get("generation_kwargs") or {})
