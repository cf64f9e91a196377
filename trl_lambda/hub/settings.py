"""The settings of a run as YAML that `recipes/grpo_lambda.py --config` reads back.

Nothing secret and nothing of the machine: no tokens, no local paths, no addresses of servers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

import torch
import yaml

from .markdown import is_repo_id, one_line
from .redaction import Secret, marked
from .secrets import holds_secret, is_secret_name, redacted

# Where a run happened and where its model went, not what was run: who reads the settings back must
# not push over the model they come from. generation_batch_size follows from steps_per_generation
# and the batch size, and the two together are refused when they are read back.
OF_THE_MACHINE = (
    "output_dir",
    "logging_dir",
    "resume_from_checkpoint",
    "local_rank",
    "push_to_hub",
    "hub_model_id",
    "hub_strategy",
    "hub_revision",
    "hub_private_repo",
    "hub_always_push",
    "log_completions_hub_repo",
    "generation_batch_size",
    "vllm_server_base_url",
    "vllm_server_host",
    "vllm_server_port",
    "vllm_group_port",
)
LONGEST_SHOWN = 2000  # characters of one value in the card; the file has it whole
_PATH = re.compile(r"(~|\.{1,2})?[/\\]\S*|[A-Za-z]:[/\\]\S*|file:\S*")


@dataclass
class Settings:
    """The settings of a run that may be shown.

    Attributes:
        values: by name, in YAML's types.
        left_out: names (dotted where nested) of secrets, paths and objects that are not shown.
    """

    values: dict[str, Any]
    left_out: list[str] = field(default_factory=list)

    def as_yaml(self) -> str:
        return _dump(self.values) + self._note()

    def shown_in_card(self, always: list[str], config_class: type) -> str:
        """YAML of what differs from the defaults, and of `always`; overlong values left out."""
        defaults = default_values(config_class)
        shown, long = {}, []
        for name, value in self.values.items():
            unset = value is None or name not in always
            if unset and name in defaults and defaults[name] == value:
                continue
            if len(_dump(value)) > LONGEST_SHOWN:
                long.append(f"# {name}: too long to show here; the file has it.")
            else:
                shown[name] = value
        return "\n".join([_dump(shown).rstrip(), *long]) + "\n" + self._note()

    def _note(self) -> str:
        if not self.left_out:
            return ""
        return f"# Left out (secrets, local paths, objects): {', '.join(sorted(self.left_out))}\n"


def run_settings(config: Any, script: Mapping[str, Any], secrets: tuple[str, ...] = ()) -> Settings:
    """The settings of a config and of the script around it, fit to be published.

    Args:
        config: a `TrainingArguments`.
        script: settings that the config has no field for, such as `dataset_name`.
        secrets: texts that no value may contain.
    """
    own = {f.name: getattr(config, f.name) for f in fields(config) if f.init}
    settings = Settings({})
    for name, value in marked({**script, **own}, secrets).items():
        kept = _publishable(name, value, settings.left_out)
        if kept is not _LEFT_OUT:
            settings.values[name] = kept
    # A name may be a secret itself, or break out of the comment that it stands in.
    settings.left_out = [one_line(redacted(name, secrets), 100) for name in settings.left_out]
    return settings


def script_settings(*arguments: Any) -> dict[str, Any]:
    """Fields of a script's dataclasses that differ from their defaults, for `card_settings`."""
    found: dict[str, Any] = {}
    for argument in arguments:
        defaults = default_values(type(argument))
        values = {f.name: getattr(argument, f.name) for f in fields(argument)}
        found |= {n: v for n, v in values.items() if n not in defaults or defaults[n] != v}
    return found


def default_values(dataclass_type: type) -> dict[str, Any]:
    """Defaults by field name; fields that have none are not in it."""
    found = {}
    for f in fields(dataclass_type):
        if f.default is not MISSING:
            found[f.name] = f.default.value if isinstance(f.default, Enum) else f.default
        elif f.default_factory is not MISSING:
            found[f.name] = f.default_factory()
    return found


_LEFT_OUT = object()


def _publishable(path: str, value: Any, left_out: list[str]) -> Any:
    """`value` in YAML's types; `_LEFT_OUT` where it may not be shown, then named in `left_out`."""
    if path in OF_THE_MACHINE:
        return _LEFT_OUT
    value = _simpler(value)
    name = path.rsplit(".", 1)[-1]
    if value is None:
        return _LEFT_OUT if is_secret_name(name) else None
    if isinstance(value, Mapping):
        items = {str(k): _publishable(f"{path}.{k}", v, left_out) for k, v in value.items()}
        return {k: v for k, v in items.items() if v is not _LEFT_OUT}
    if isinstance(value, list | tuple | set | frozenset):
        ordered = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        parts = [_publishable(f"{path}.{i}", v, left_out) for i, v in enumerate(ordered)]
        return [part for part in parts if part is not _LEFT_OUT]
    if isinstance(value, Secret) or not isinstance(value, str | bool | int | float):
        left_out.append(path)
        return _LEFT_OUT
    if isinstance(value, str) and is_local_path(name, value):
        left_out.append(path)
        return _LEFT_OUT
    return value


def _simpler(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if is_dataclass(value) and not isinstance(value, type):
        # One in which nothing was set means what None does.
        unset = len(default_values(type(value))) == len(fields(value)) and value == type(value)()
        return None if unset else asdict(value)
    if type(value) is not str and isinstance(value, str):
        return str(value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def is_local_path(name: str, value: str) -> bool:
    """Whether a text is a path on this machine, by its form or because it is there."""
    if len(value) > 4096 or "\n" in value:
        return False
    if _PATH.fullmatch(value):
        return True
    words = ("path", "dir", "file", "files", "folder", "name")
    names_a_source = name.rsplit("_", 1)[-1] in words
    return (names_a_source or "/" in value or os.sep in value) and os.path.exists(value)


def lora_settings(peft_config: Any) -> dict[str, Any]:
    """A LoRA adapter as the fields of TRL's `ModelConfig`; empty for other adapters."""
    if str(getattr(peft_config, "peft_type", "")).rsplit(".", 1)[-1] != "LORA":
        return {}
    modules = peft_config.target_modules
    return {
        "use_peft": True,
        "lora_r": peft_config.r,
        "lora_alpha": peft_config.lora_alpha,
        "lora_dropout": peft_config.lora_dropout,
        "lora_target_modules": [modules] if isinstance(modules, str) else sorted(modules or []),
        "lora_modules_to_save": peft_config.modules_to_save,
        "use_rslora": peft_config.use_rslora,
        "use_dora": peft_config.use_dora,
    }


def function_path(func: Any) -> str | None:
    """The dotted path at which a function can be imported; None where there is none."""
    module, name = getattr(func, "__module__", None), getattr(func, "__qualname__", "<")
    if not module or module == "__main__" or "<" in name:
        return None
    return f"{module}.{name}"


def public_name(name: str | None) -> str | None:
    """A model's or data set's name on the Hub; None for what is on this machine only."""
    shown = is_repo_id(name) and not os.path.exists(name) and not holds_secret(name)
    return name if shown else None


def _dump(value: Any) -> str:
    # ASCII alone: an invisible or bidi character in a value is shown by its number.
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=False, width=88)
