"""Secrets planted in all places of a run: none of them is in any byte that the Hub gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from datasets import Dataset
from loopback_hub import TOKEN, Repo
from pushed_bytes import places
from test_push import SAVING, Patience
from transformers.integrations import TensorBoardCallback
from trl import GRPOConfig

from trl_lambda import LambdaGRPOConfig
from trl_lambda.hub.secrets import PLACEHOLDER

pytestmark = pytest.mark.slow

REPO = "somebody/tiny-grpo"
PLANTED = {
    "hub_token": TOKEN,
    "token": "planted-token-of-the-model",
    "header": "planted-x-api-key-header",
    "wandb_key": "planted-key-of-a-tracker",
    "bearer": "planted.bearer/0123456789",
    "url": "planted-password-in-a-url",
    "run_name": "sk-planted0run0name",
    "report_to": "sk-proj-planted0report0to",
    "reward": "sk-planted_0reward",
    "column": "ghp_planted0123456789planted0123456789",
    "aws_id": "AKIAPLANTED012345678",
    "aws_key": "planted/aws/secret/key",
    "dataset_name": "sk-planted0dataset0name",
    "dataset_config": "hf_planted0123456789dataset",
    "system_prompt": "github_pat_planted0123456789",
    "env": "planted-entry-of-an-environment",
    "env_list": "planted-assignment",
    "argv": "planted-argument",
    "tag": "glpat-planted0123456789",
    "deep": "planted-deep-down",
    "later": "planted-after-construction",
    "environment": "planted-variable",
    "pair": "planted-pair",
}


def reward(completions, **columns):
    return tiny.letter_reward(completions)


reward.__name__ = f"judge_{PLANTED['reward']}"


def planted_config() -> dict:
    p = PLANTED
    return {
        "hub_token": p["hub_token"],
        "model_init_kwargs": {
            "token": p["token"],
            "dtype": "float32",
            "headers": {"x-api-key": p["header"], "accept": "text/plain"},
        },
        "generation_kwargs": {"wandb_key": p["wandb_key"], "repetition_penalty": 1.1},
        "chat_template_kwargs": {"note": f"Authorization: Bearer {p['bearer']}", "thinking": False},
        "vllm_server_base_url": f"http://me:{p['url']}@10.0.0.7:8000",
        "run_name": f"run {p['run_name']} of {p['url']}",
        "lr_scheduler_kwargs": {},
    }


def planted_script() -> dict:
    p = PLANTED
    return {
        "dataset_name": p["dataset_name"],
        "dataset_config": p["dataset_config"],
        "system_prompt": f"Say {p['system_prompt']} and {p['aws_id']} and {p['environment']}.",
        "env": {"OPENAI_API_KEY": p["env"], "AWS_SECRET_ACCESS_KEY": p["aws_key"], "HOME": "home"},
        "docker": [f"WANDB_API_KEY={p['env_list']}", "A=b"],
        "argv": ["--api-key", p["argv"], "--n", "3"],
        "nested": [{"a": [{"auth": {"password": p["deep"]}}]}],
        "pairs": [("Authorization", p["pair"])],
    }


@pytest.fixture
def pushed(hub, tmp_path, monkeypatch):
    """A run with secrets in all places, its checkpoints and its model pushed."""
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("PLANTED_SERVICE_KEY", PLANTED["environment"])
    settings = SAVING | planted_config() | {"push_to_hub": True, "hub_model_id": REPO}
    settings |= {"max_steps": 2, "hub_strategy": "all_checkpoints", "credit_log_steps": 1}
    settings |= {"log_completions": True}
    data = tiny.prompts().add_column(PLANTED["column"], [0] * 8)
    trainer = tiny.trainer(
        tmp_path / "run", settings=settings, reward_funcs=reward, train_dataset=data
    )
    trainer.args.report_to = ["none", PLANTED["report_to"]]
    trainer.args.password_of_mine = PLANTED["later"]
    trainer.card_settings = planted_script()
    trainer.add_callback(Patience(trainer))
    trainer.train()
    trainer.save_model(str(tmp_path / "run" / "best"))
    trainer.push_to_hub(tags=["mine", PLANTED["tag"]])
    return trainer


def test_no_byte_that_is_pushed_has_a_secret_and_nothing_else_is_lost(hub, pushed, tmp_path):
    files = hub.repos[REPO].files
    listed = {name.split("/")[-1] for name in files}
    assert {
        "README.md",
        "training_config.yaml",
        "training_args.bin",
        "trainer_state.json",
    } <= listed
    assert {"meta.json", "logs.jsonl", "records-00000.jsonl", "model.safetensors"} <= listed
    assert {"checkpoint-1/training_args.bin", "best/training_args.bin"} <= files.keys()
    assert any(name.endswith(".parquet") for name in files)
    found = {name: places(hub, secret) for name, secret in PLANTED.items()}
    assert {name: where for name, where in found.items() if where} == {}
    check_training_arguments(pushed.args, hub.download(REPO, tmp_path / "received"))


def check_training_arguments(args, files: Path) -> None:
    """The files have all else, and the run has kept its own, secrets and all."""
    settings = planted_config()
    for name in ("training_args.bin", "checkpoint-2/training_args.bin", "best/training_args.bin"):
        read = torch.load(files / name, weights_only=False)
        assert type(read) is type(args)
        assert vars(read).keys() == vars(args).keys()
        assert read.model_init_kwargs == {
            "token": None,
            "dtype": "float32",
            "headers": {"x-api-key": None, "accept": "text/plain"},
        }
        assert read.generation_kwargs == {"wandb_key": None, "repetition_penalty": 1.1}
        assert read.chat_template_kwargs["thinking"] is False
        assert read.vllm_server_base_url == f"http://{PLACEHOLDER}@10.0.0.7:8000"
        assert read.run_name == f"run {PLACEHOLDER} of {PLACEHOLDER}"
        assert (read.hub_token, read.password_of_mine) == (None, None)
        changed = {"hub_token", "password_of_mine", "report_to", *settings}
        same = {n: v for n, v in vars(args).items() if n not in changed}
        assert {n: str(vars(read)[n]) for n in same} == {n: str(v) for n, v in same.items()}
    assert {name: getattr(args, name) for name in settings} == settings
    assert args.password_of_mine == PLANTED["later"]


class Writer:
    """Stands for TensorBoard's, which is not installed: writes what it is told to its folder."""

    def __init__(self, log_dir):
        self.file = Path(log_dir) / "events"
        self.file.parent.mkdir(parents=True)

    def add_text(self, name, text, step=None):
        with self.file.open("a") as file:
            file.write(f"{name}: {text}\n")

    def add_scalar(self, name, value, step=None):
        self.add_text(name, value, step)

    def flush(self):
        """All is written."""

    close = flush


def tensorboard() -> TensorBoardCallback:
    callback = TensorBoardCallback.__new__(TensorBoardCallback)
    callback._SummaryWriter, callback.tb_writer, callback.logging_dir = Writer, None, None
    return callback


@pytest.mark.parametrize("config_class", [GRPOConfig, LambdaGRPOConfig])
@pytest.mark.parametrize("late", [True, False])
def test_what_tensorboard_writes_is_pushed_without_secrets(hub, tmp_path, late, config_class):
    settings = planted_config() | {"hub_model_id": REPO, "max_steps": 1}
    callbacks = None if late else [tensorboard()]
    trainer = tiny.trainer(
        tmp_path / "run", config_class=config_class, settings=settings, callbacks=callbacks
    )
    if late:
        trainer.add_callback(tensorboard())
    trainer.train()
    trainer.push_to_hub()
    (events,) = (c for name, c in hub.repos[REPO].files.items() if name.endswith("events"))
    assert b'"repetition_penalty": 1.1' in events
    assert {
        name: places(hub, secret) for name, secret in PLANTED.items() if places(hub, secret)
    } == {}
    trainer.remove_callback(TensorBoardCallback)
    assert "TensorBoard" not in trainer.callback_handler.callback_list


def test_a_run_resumes_with_the_token_of_this_machine(hub, tmp_path):
    """The token opens the model here, and is in nothing that goes out."""
    folder = tmp_path / "base"
    tiny.model().save_pretrained(folder)
    token = PLANTED["token"]
    settings = SAVING | {"push_to_hub": True, "hub_model_id": REPO, "beta": 0.1}
    settings |= {"hub_strategy": "all_checkpoints", "max_steps": 1, "hub_token": TOKEN}
    settings |= {"model_init_kwargs": {"token": token, "dtype": "float32"}}
    first = tiny.trainer(tmp_path / "run", model=str(folder), settings=settings)
    first.add_callback(Patience(first))
    first.train()
    resumed = tiny.trainer(
        tmp_path / "run", model=str(folder), settings=settings | {"max_steps": 2}
    )
    resumed.add_callback(Patience(resumed))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    resumed.push_to_hub()
    assert resumed.args.model_init_kwargs["token"] == token
    assert resumed.state.global_step == 2
    assert "checkpoint-2/training_args.bin" in hub.repos[REPO].files
    assert places(hub, token) == []


def test_the_search_finds_what_is_there(hub, tmp_path):
    """Else the tests above could not fail."""
    torch.save({"a": ["planted"]}, tmp_path / "a.bin")
    Dataset.from_list([{"planted": 1}] * 500).to_parquet(tmp_path / "a.parquet")
    files = {path.name: path.read_bytes() for path in tmp_path.glob("a.*")}
    hub.repos[REPO] = Repo(files=files | {"a.json": json.dumps({"planted": 1}).encode()})
    found = {name.split("/")[2] for name in places(hub, "planted")}
    assert found == {"a.bin", "a.parquet", "a.json"}
