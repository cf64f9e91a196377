"""Where the rows to train on come from."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from datasets import IterableDataset
from trl import DatasetMixtureConfig, ScriptArguments


@pytest.fixture(scope="module")
def prompt_data():
    """The recipe's module, whose folder is on the path as when a recipe is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "recipes"))
        yield importlib.import_module("prompt_data")


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{i}+1="}) + "\n" for i in range(10)))
    return str(path)


def test_a_slice_of_a_local_file(prompt_data, file):
    rows = prompt_data.load_split(
        ScriptArguments(dataset_name=file), DatasetMixtureConfig(), "train[:30%]", "--split"
    )
    assert rows["problem"][:] == ["0+1=", "1+1=", "2+1="]


def test_a_mixture_and_its_test_split(prompt_data, file):
    one = {"path": "json", "data_files": file}
    mixture = DatasetMixtureConfig(datasets=[one, dict(one)], test_split_size=0.25)
    train, test = (
        prompt_data.load_split(ScriptArguments(), mixture, split, "--split")
        for split in ("train", "test")
    )
    assert (len(train), len(test)) == (15, 5)
    with pytest.raises(ValueError, match="--split dev: the mixture has train, test"):
        prompt_data.load_split(ScriptArguments(), mixture, "dev", "--split")


def test_a_streamed_file(prompt_data, file):
    script = ScriptArguments(dataset_name=file, dataset_streaming=True)
    rows = prompt_data.load_split(script, DatasetMixtureConfig(), "train", "--split")
    assert isinstance(rows, IterableDataset)
    assert next(iter(rows)) == {"problem": "0+1="}


@pytest.mark.parametrize(
    ("script", "mixture", "said"),
    [
        ({"dataset_name": "x"}, {"datasets": [{"path": "y"}]}, "keep one of them"),
        ({"dataset_name": "x"}, {"streaming": True}, "--dataset_streaming"),
        ({"dataset_name": "x"}, {"test_split_size": 0.1}, "--dataset_test_split"),
    ],
)
def test_options_that_nothing_would_read(prompt_data, script, mixture, said):
    with pytest.raises(ValueError, match=said):
        prompt_data.load_split(
            ScriptArguments(**script), DatasetMixtureConfig(**mixture), "train", "--split"
        )
