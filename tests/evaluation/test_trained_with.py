"""What is said of a training that sampled or asked otherwise; its files are not trusted."""

import logging
import pickle
import zipfile
from types import SimpleNamespace

import pytest
import tiny
import torch
from trl import GRPOTrainer

from trl_lambda import LambdaGRPOTrainer
from trl_lambda.evaluation import Sampling
from trl_lambda.evaluation.trained_with import (
    config_settings,
    differences_from_training,
    training_settings,
)

SETTINGS = {"temperature": 0.9, "top_p": 0.8, "max_completion_length": 8}
SAME = Sampling(temperature=0.9, top_p=0.8, max_tokens=8, template="none")


@pytest.fixture(scope="module", params=[LambdaGRPOTrainer, GRPOTrainer])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param.__name__)
    trainer = tiny.trainer(folder, request.param, settings=SETTINGS)
    trainer.save_model()
    return folder


def test_a_run_that_sampled_alike(folder):
    assert differences_from_training(training_settings(folder), SAME) == []


def test_a_run_that_sampled_otherwise(folder):
    said = differences_from_training(training_settings(str(folder)), Sampling(template="none"))
    assert said == [
        "temperature was 0.9 in training; temperature is 0.6 here.",
        "top_p was 0.8 in training; top_p is 0.95 here.",
        "max_completion_length was 8 in training; max_tokens is 3000 here.",
    ]


def test_a_config_in_memory(tmp_path):
    trainer = tiny.trainer(tmp_path, settings=SETTINGS | {"generation_kwargs": {"top_p": 0.5}})
    said = differences_from_training(config_settings(trainer.args), SAME)
    assert said == ["top_p was 0.5 in training; top_p is 0.8 here."]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"top_k": 20}, "top_k was 20 in training; there is none here."),
        ({"top_k": 0, "min_p": None, "repetition_penalty": 1.0}, None),
        ({"min_p": 0.1}, "min_p was 0.1 in training; there is none here."),
        ({"repetition_penalty": 1.1}, "repetition_penalty was 1.1 in training"),
        ({"template": "r1"}, "template was 'r1' in training; it is 'none' here."),
        ({"template": "none", "system_prompt": "x"}, "system_prompt was 'x' in training"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs was {'a': 1} in training"),
        ({"chat_template_kwargs": {}}, None),
        ({}, None),
    ],
)
def test_what_is_compared(settings, said):
    found = differences_from_training(settings, SAME)
    assert found == [] if said is None else (len(found) == 1 and said in found[0])


def test_a_system_prompt_that_training_had_not():
    sampling = Sampling(template="chat", system_prompt="x", temperature=0.9)
    found = differences_from_training({"template": "chat"}, sampling)
    assert found == ["system_prompt was None in training; it is 'x' here."]


@pytest.mark.parametrize("source", [None, "Qwen/Qwen2.5-0.5B", "/nowhere"])
def test_nothing_is_known_of_other_models(source):
    assert training_settings(source) == {}
    assert differences_from_training({}, Sampling(template="none")) == []


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_runs_nothing(tmp_path):
    """Where torch.load would run whatever it says."""
    flag = tmp_path / "flag"
    arguments = SimpleNamespace(temperature=0.5, bomb=Bomb(str(flag)), odd={1: [2], "s": {3}})
    torch.save(arguments, tmp_path / "training_args.bin")
    assert training_settings(tmp_path)["temperature"] == 0.5
    assert not flag.exists()
    torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert flag.exists()  # so the test could have failed


@pytest.mark.parametrize("name", ["training_config.yaml", "training_args.bin"])
@pytest.mark.parametrize("data", [b"", b"\xff\xfe{", b"- a\n- b", b"!!python/object:os.x {}"])
def test_damaged_files_are_named_and_passed_over(name, data, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="trl_lambda")
    (tmp_path / name).write_bytes(data)
    assert training_settings(tmp_path) == {}
    if data not in (b"", b"- a\n- b"):
        assert f"{name} cannot be read" in caplog.text


def test_a_pickle_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "training_args.bin", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps([1, 2]))
    assert training_settings(tmp_path) == {}
