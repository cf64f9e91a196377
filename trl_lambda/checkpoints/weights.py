"""All weights of a checkpoint come back, whatever names they were saved under, or resuming ends.

transformers saves some models (with vision, mixtures of experts, ...) under other names, or in
other pieces, than the model has them. Its trainer loads by the model's own names and only logs what
it did not find, so such a run would go on from its initial weights. Here `from_pretrained`, which
undoes what `save_pretrained` did, reads those; and every parameter must have been found.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    is_peft_available,
)

SHOWN = 5  # names in an error


def load_renamed_weights(model: nn.Module, folder: Path) -> bool:
    """Loads whole weights that the model has under other names or in other shapes, in place.

    Returns:
        False, and nothing is loaded, where `folder` has no whole weights, or has all of them just
        as the model has them: transformers loads those.

    Raises:
        ValueError: parameters that `folder` has no values for, by name.
    """
    shapes = _saved_shapes(folder)
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    as_they_are = [name for name, shape in shapes.items() if own.get(name) == shape]
    renamed = _unfound(model, as_they_are)
    if not shapes or not renamed:
        return False
    try:
        values = _converted(model, folder)
    except Exception as error:
        raise ValueError(f"{_refusal(folder, renamed)} {type(model).__name__}: {error}") from error
    # A layer that was added to the model by hand is not in what its class alone reads.
    values |= _read(folder, [name for name in as_they_are if name not in values])
    if lacking := _unfound(model, values):
        raise ValueError(_refusal(folder, lacking))
    model.load_state_dict(values, strict=False)
    return True


def check_adapter(model: Any, folder: Path) -> None:
    """Raises ValueError if a PEFT model has parameters that `folder` had no values for."""
    from peft import get_peft_model_state_dict

    name = model.active_adapters[0]
    files = [
        path / file
        for path in (folder / name, folder)
        for file in (ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME)
    ]
    found = next(filter(Path.is_file, files), None)
    # Without the embeddings: whether they are saved may be asked of the Hub.
    own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    saved = set() if found is None else set(_shapes_in(found))
    if lacking := [parameter for parameter in own if parameter not in saved]:
        raise ValueError(_refusal(folder, lacking))
    if whole := _files(folder):
        raise ValueError(
            f"{folder} has {whole[0].name} beside the adapter: transformers reads that in the "
            "adapter's place, and the adapter would stay as it was before training. Move the "
            "whole weights out of the checkpoint."
        )


def is_adapter(model: Any) -> bool:
    if not is_peft_available():
        return False
    from peft import PeftMixedModel, PeftModel

    return isinstance(model, PeftModel | PeftMixedModel)


def _converted(model: Any, folder: Path) -> dict[str, Tensor]:
    """The model's own names and shapes, as its class reads them from `folder`."""
    dtypes = {value.dtype for value in model.parameters() if value.is_floating_point()}
    loaded, report = type(model).from_pretrained(
        folder,
        config=copy.deepcopy(model.config),
        # The widest: each value is exact there, and rounded again only to what it was before.
        dtype=functools.reduce(torch.promote_types, dtypes),
        output_loading_info=True,
    )
    missing = set(report["missing_keys"])
    return {name: value for name, value in loaded.state_dict().items() if name not in missing}


def _unfound(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Names in the model's state that are not among `names`, nor tied to one that is.

    Not those that the model never saves, because it computes them.
    """
    state = model.state_dict(keep_vars=True)
    found = {id(state[name]) for name in names if name in state}
    computed = getattr(model, "_keys_to_ignore_on_save", None) or ()
    return [n for n, value in state.items() if id(value) not in found and n not in computed]


def _saved_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all whole weights in a folder; empty where there are none."""
    return {name: shape for path in _files(folder) for name, shape in _shapes_in(path).items()}


def _files(folder: Path) -> list[Path]:
    for name in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME):
        if (folder / name).is_file():
            return [folder / name]
    for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        if (folder / name).is_file():
            shards = json.loads((folder / name).read_bytes())["weight_map"].values()
            return [folder / shard for shard in sorted(set(shards))]
    return []


def _shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    saved = torch.load(path, map_location="meta", weights_only=True)
    return {name: tuple(value.shape) for name, value in saved.items()}


def _read(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    wanted, values = set(names), {}
    for path in _files(folder) if wanted else ():
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                there = wanted.intersection(file.keys())
                values |= {name: file.get_tensor(name) for name in there}
        else:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            values |= {name: saved[name] for name in wanted.intersection(saved)}
    return values


def _refusal(folder: Path, lacking: list[str]) -> str:
    shown = ", ".join(lacking[:SHOWN]) + (", ..." if len(lacking) > SHOWN else "")
    return (
        f"{folder} lacks {len(lacking)} of the model's weights ({shown}): they would stay as they "
        "were before training. Load it into the model that it was saved from (the same "
        "class, the same adapter), or start without it."
    )
