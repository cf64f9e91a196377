"""Settings without their secrets, at any depth: for the card, and for what is pickled."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from .secrets import (
    PLACEHOLDER,
    holds_secret,
    is_secret_name,
    is_surely_secret_name,
    redacted,
    secret_parts,
    shows_secret,
)

SHORTEST_KNOWN = 8  # characters; what is shorter stands in too many words to be looked for
SEQUENCES = (list, tuple, set, frozenset)


class Secret:
    """Stands in settings where a value is a secret, or holds some.

    Attributes:
        texts: the secrets.
        public: the value with placeholders; None where the secret is all of it.
    """

    def __init__(self, texts: Iterable[str], public: str | None = None):
        self.texts, self.public = tuple(texts), public


def marked(value: Any, known: Iterable[str] = (), *, name: str = "") -> Any:
    """A copy of settings in which each secret is a `Secret`.

    Args:
        value: dicts, lists, tuples, sets and dataclasses are looked into, at any depth.
        known: texts that are secrets wherever they stand.
        name: the value stands under it.
    """
    if value is None or isinstance(value, bool | Secret):
        return value
    if is_surely_secret_name(name) or (is_secret_name(name) and any(_texts(value))):
        return Secret(_texts(value))
    if isinstance(value, str):
        return _marked_text(value, known)
    if isinstance(value, Mapping):
        return _marked_mapping(value, known)
    if isinstance(value, SEQUENCES):
        return _marked_sequence(value, known)
    if _is_dataclass(value):
        return _with_fields(value, lambda part, name: marked(part, known, name=name))
    if isinstance(value, bytes | bytearray) and shows_secret(bytes(value), known):
        return Secret(())
    return value


def public(value: Any) -> Any:
    """The result of `marked`, with a text or None in the place of each `Secret`."""
    if isinstance(value, Secret):
        return value.public
    if isinstance(value, Mapping):
        return {key: public(part) for key, part in value.items()}
    if isinstance(value, SEQUENCES):
        return _like(value, [public(part) for part in value])
    return _with_fields(value, lambda part, _: public(part)) if _is_dataclass(value) else value


def secrets_in(marked_value: Any) -> list[Secret]:
    """The marks that `marked` has left."""
    return [leaf for leaf in _leaves(marked_value) if isinstance(leaf, Secret)]


def known_secrets(*settings: Any) -> tuple[str, ...]:
    """The secrets that stand in settings, for `known`; without those that are too short."""
    found = {text for each in settings for mark in secrets_in(marked(each)) for text in mark.texts}
    found |= {text.partition(":")[2] for text in found}  # user:password of a URL
    return tuple(sorted(text for text in found if len(text) >= SHORTEST_KNOWN))


def without_secrets(settings: Any, known: Iterable[str] = ()) -> Any:
    """A shallow copy of an object, with attributes in which no secret is.

    An attribute without secrets stays the same object. One that cannot be looked into is None in
    the copy if a secret shows in its pickle.
    """
    result = copy.copy(settings)
    for name, value in vars(settings).items():
        mark = marked(value, known, name=name)
        if secrets_in(mark):
            object.__setattr__(result, name, public(mark))
        if shows_secret(_pickled(vars(result)[name]), known):
            object.__setattr__(result, name, None)
    return result


class SecretText(str):
    """A text that can be used, and pickles as None."""

    def __reduce__(self) -> tuple:
        return type(None), ()

    def __deepcopy__(self, memo: dict) -> SecretText:
        return self


def args_without_secrets(args: Any, known: Iterable[str] = ()) -> Any:
    """A copy of a `TrainingArguments` to write down; a push can still read its `hub_token`."""
    result = without_secrets(args, {*known, *known_secrets(vars(args))})
    result.hub_token = None if args.hub_token is None else SecretText(args.hub_token)
    return result


def _marked_text(text: str, known: Iterable[str]) -> Any:
    spans = secret_parts(text, known)
    if not spans:
        return text
    shown = redacted(text, known)
    return Secret((text[a:b] for a, b in spans), None if shown == PLACEHOLDER else shown)


def _marked_mapping(value: Mapping, known: Iterable[str]) -> dict:
    told = _told_name(value)
    result: dict[Any, Any] = {}
    for key, part in value.items():
        if isinstance(key, str) and holds_secret(key, known):
            texts = [key[a:b] for a, b in secret_parts(key, known)]
            result[redacted(key, known)] = Secret([*texts, *_texts(part)])
        elif told is not None and part is told:
            result[key] = part
        else:
            name = told if told is not None and key == "value" else str(key)
            result[key] = marked(part, known, name=name)
    return result


def _told_name(value: Mapping) -> str | None:
    """Entries as Kubernetes has them: {"name": "WANDB_API_KEY", "value": "…"}."""
    names = (value[key] for key in ("name", "key") if isinstance(value.get(key), str))
    return next((name for name in names if "value" in value and not holds_secret(name)), None)


def _marked_sequence(value: Any, known: Iterable[str]) -> Any:
    parts, before = [], ""
    for part in sorted(value, key=str) if isinstance(value, set | frozenset) else value:
        # ("x-api-key", "…"), ["--password", "…"]; but "key", "value" are modules of a model
        parts.append(marked(part, known, name=before if is_surely_secret_name(before) else ""))
        before = part if isinstance(part, str) and re.fullmatch(r"-{0,2}[\w.-]+:?", part) else ""
    return _like(value, parts)


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:  # whoever saves it will hear of it
        return b""


def _is_dataclass(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _like(value: Any, parts: list) -> Any:
    """`parts` in a list, tuple or set of the type of `value`."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*parts)
    return type(value)(parts)


def _with_fields(value: Any, change: Callable[[Any, str], Any]) -> Any:
    """A copy of a dataclass with its fields changed; `change` gets a value and its name."""
    result = copy.copy(value)
    for name in (f.name for f in fields(value) if hasattr(value, f.name)):
        object.__setattr__(result, name, change(getattr(value, name), name))
    return result


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        parts: Iterable = value.values()
    elif isinstance(value, SEQUENCES):
        parts = value
    elif _is_dataclass(value):
        parts = (getattr(value, f.name, None) for f in fields(value))
    else:
        yield value
        return
    for part in parts:
        yield from _leaves(part)


def _texts(value: Any) -> Iterator[str]:
    for leaf in _leaves(value):
        if isinstance(leaf, str):
            yield str(leaf)
        elif isinstance(leaf, bytes | bytearray):
            yield bytes(leaf).decode("latin-1")
