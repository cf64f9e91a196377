"""Where the rows to train on come from."""

from __future__ import annotations

import json

import pytest
from datasets import IterableDataset
from trl import DatasetMixtureConfig, ScriptArguments

from trl_lambda.data.sources import load_split


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{i}+1="}) + "\n" for i in range(10)))
    return str(path)


def test_a_slice_of_a_local_file(file):
    rows = load_split(
        ScriptArguments(dataset_name=file), DatasetMixtureConfig(), "train[:30%]", "--split"
    )
    assert rows["problem"][:] == ["0+1=", "1+1=", "2+1="]


def test_a_mixture_and_its_test_split(file):
    one = {"path": "json", "data_files": file}
    mixture = DatasetMixtureConfig(datasets=[one, dict(one)], test_split_size=0.25)
    train, test = (
        load_split(ScriptArguments(), mixture, split, "--split") for split in ("train", "test")
    )
    assert (len(train), len(test)) == (15, 5)
    with pytest.raises(ValueError, match="--split dev: the mixture has train, test"):
        load_split(ScriptArguments(), mixture, "dev", "--split")


def test_a_streamed_file(file):
    script = ScriptArguments(dataset_name=file, dataset_streaming=True)
    rows = load_split(script, DatasetMixtureConfig(), "train", "--split")
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
def test_options_that_nothing_would_read(script, mixture, said):
    with pytest.raises(ValueError, match=said):
        load_split(ScriptArguments(**script), DatasetMixtureConfig(**mixture), "train", "--split")
