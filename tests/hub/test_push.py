"""Pushes to a Hub on loopback, with the real client: what arrives, and what a failure leaves."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from huggingface_hub import ModelCard
from loopback_hub import TOKEN, Fault, wait_until
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from trl_lambda.hub import HubPushError
from trl_lambda.hub.push import Push

REPO = "somebody/tiny-grpo"
PUSHING = {"push_to_hub": True, "hub_model_id": REPO, "max_steps": 2}
SAVING = {"save_strategy": "steps", "save_steps": 1}


class Patience(TrainerCallback):
    """Lets each push in the background end, else the next save is not pushed."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_save(self, *args, **kwargs):
        self.trainer.push_in_progress.wait_until_done()


def trained(folder, settings=(), **kw):
    trainer = tiny.trainer(folder, settings=PUSHING | dict(settings), **kw)
    if "save_steps" in settings:
        trainer.add_callback(Patience(trainer))
    trainer.train()
    return trainer


def same(model, trainer) -> bool:
    own = trainer.model.state_dict()
    received = model.state_dict()
    assert received.keys() == own.keys()
    return all(torch.equal(received[name], own[name]) for name in own)


def adapter() -> LoraConfig:
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def test_a_full_model_arrives_with_its_card(hub, tmp_path):
    trainer = trained(tmp_path / "run", {"save_strategy": "no"})
    trainer.push_to_hub(dataset_name="openai/gsm8k")

    repo = hub.repos[REPO]
    assert repo.commits == ["End of training"]
    assert {"model.safetensors", "training_reward.png", "training_args.bin"} <= repo.as_lfs
    order = [
        "POST /api/repos/create",
        "POST /api/validate-yaml",
        f"POST /api/models/{REPO}/preupload/main",
        f"POST /{REPO}.git/info/lfs/objects/batch",
    ]
    positions = [hub.requests.index(request) for request in order]
    puts = [i for i, request in enumerate(hub.requests) if request.startswith("PUT /lfs/")]
    commit = hub.requests.index(f"POST /api/models/{REPO}/commit/main")
    assert positions == sorted(positions)
    assert positions[-1] < puts[0] < puts[-1] < commit
    assert len(puts) == len(repo.as_lfs)

    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert card.data.datasets == ["openai/gsm8k"]
    assert {"trl", "trl-lambda", "grpo", "grpo-lambda", "lambda-grpo"} <= set(card.data.tags)
    assert f'model="{REPO}"' in card.text
    assert repo.files["training_reward.png"].startswith(b"\x89PNG")

    files = hub.download(REPO, tmp_path / "received")
    assert same(AutoModelForCausalLM.from_pretrained(files), trainer)
    assert same(AutoModelForCausalLM.from_pretrained(REPO, token=False), trainer)
    text = "12+30="
    received = AutoTokenizer.from_pretrained(files)(text)["input_ids"]
    assert received == tiny.tokenizer()(text)["input_ids"]


def test_an_adapter_arrives_with_a_card_of_its_own(hub, tmp_path):
    trainer = trained(tmp_path / "run", peft_config=adapter())
    trainer.push_to_hub()

    repo = hub.repos[REPO]
    assert "model.safetensors" not in repo.files
    assert "adapter_model.safetensors" in repo.as_lfs
    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.library_name == "peft"
    assert "LoRA (r = 4, alpha = 8) adapter" in card.text
    assert "AutoPeftModelForCausalLM" in card.text
    assert "More Information Needed" not in card.text  # PEFT's own card

    trained_weights = {n: p for n, p in trainer.model.state_dict().items() if "lora_" in n}
    assert any(weights.any() for name, weights in trained_weights.items() if "lora_B" in name)
    for source in (hub.download(REPO, tmp_path / "received"), REPO):
        loaded = AutoPeftModelForCausalLM.from_pretrained(source).state_dict()
        assert all(torch.equal(loaded[name], trained_weights[name]) for name in trained_weights)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_checkpoints_arrive_while_training(hub, tmp_path, strategy):
    peft_config = adapter() if strategy == "checkpoint" else None
    trainer = trained(
        tmp_path / "run", SAVING | {"hub_strategy": strategy}, peft_config=peft_config
    )
    repo = hub.repos[REPO]
    assert {"Training in progress, step 1", "Training in progress, step 2"} <= set(repo.commits)
    folders = {
        "every_save": [""],
        "checkpoint": ["", "last-checkpoint/"],
        "all_checkpoints": ["", "checkpoint-1/", "checkpoint-2/"],
    }[strategy]
    cards = {name for name in repo.files if name.endswith("README.md")}
    assert cards == {f"{folder}README.md" for folder in folders}
    for folder in folders:
        text = repo.files[f"{folder}README.md"].decode()
        step = 1 if folder == "checkpoint-1/" else 2
        assert re.search(rf"\| Optimiser steps \| {step}\b", text)
        assert "trl-lambda" in ModelCard(text).data.tags
        assert ModelCard(text).data.library_name == ("peft" if peft_config else "transformers")
        assert f"{folder}training_reward.png" in repo.as_lfs
    files = hub.download(REPO, tmp_path / "received")
    if peft_config is None:
        assert same(AutoModelForCausalLM.from_pretrained(files / folders[-1]), trainer)
    assert trainer.push_watch.failed == 0


class OpenTheGate(TrainerCallback):
    """Holds the first push's bytes back until the fourth save."""

    def __init__(self, hub):
        self.hub = hub
        hub.gates["PUT"] = threading.Event()

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 1:  # its hashes are taken now, its bytes not yet sent
            wait_until(lambda: any(r.startswith("PUT ") for r in self.hub.requests), 600)
        if state.global_step == 4:
            self.hub.gates["PUT"].set()


@pytest.mark.slow
def test_saves_during_a_push_leave_its_files_alone(hub, tmp_path):
    """The plot's bytes are hashed first and sent later."""
    settings = PUSHING | SAVING | {"max_steps": 6}
    trainer = tiny.trainer(tmp_path / "run", settings=settings)
    trainer.add_callback(OpenTheGate(hub))
    trainer.train()
    assert trainer.push_watch.failed == 0
    commits = set(hub.repos[REPO].commits)
    assert "Training in progress, step 1" in commits
    assert not {f"Training in progress, step {step}" for step in (2, 3, 4)} & commits
    trainer.push_to_hub()
    assert "| Optimiser steps | 6 |" in hub.repos[REPO].files["README.md"].decode()


@pytest.mark.slow
def test_a_resumed_run_pushes_the_whole_story(hub, tmp_path):
    trained(tmp_path / "run", SAVING)
    resumed = tiny.trainer(tmp_path / "run", settings=PUSHING | SAVING | {"max_steps": 3})
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    resumed.push_to_hub()
    text = hub.repos[REPO].files["README.md"].decode()
    assert "| Optimiser steps | 3 |" in text
    first = next(e["reward"] for e in resumed.state.log_history if e.get("step") == 1)
    assert f"| `reward` | {first:.5g} |" in text


def test_the_token_is_in_nothing_that_is_pushed(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    settings = SAVING | {"hub_token": TOKEN, "hub_strategy": "all_checkpoints"}
    trainer = trained(tmp_path / "run", settings)
    trainer.push_to_hub()
    files = hub.repos[REPO].files
    assert {"training_args.bin", "checkpoint-1/training_args.bin"} <= files.keys()
    assert [name for name, content in files.items() if TOKEN.encode() in content] == []
    assert trainer.args.hub_token == TOKEN
    assert torch.load(tmp_path / "run" / "training_args.bin", weights_only=False).learning_rate


def run_command(text: str) -> list[str]:
    """Runs the line that a message ends with as a user would paste it; its words."""
    command = shlex.split(re.search(r"hf upload .*", text)[0])
    client = Path(sys.executable).with_name(command[0])
    subprocess.run([client, *command[1:]], check=True, capture_output=True, timeout=600)
    return command


CREATE, COMMIT = Fault("POST", "repos/create", status=500), Fault("POST", "/commit/", status=500)


@pytest.mark.parametrize("told", ["setting", "argument"])
def test_who_retries_a_failed_private_push_does_not_publish(hub, tmp_path, told):
    private = {"hub_private_repo": True} if told == "setting" else {}
    trainer = trained(tmp_path / "run", {"push_to_hub": False, "save_strategy": "no"} | private)
    hub.faults = [replace(CREATE)]
    with pytest.raises(HubPushError) as raised:
        trainer.push_to_hub(**({"private": True} if told == "argument" else {}))
    assert hub.repos == {}
    hub.faults.clear()
    assert "--private" in run_command(str(raised.value))
    assert hub.repos[REPO].private
    assert "model.safetensors" in hub.repos[REPO].files


def test_a_public_push_is_retried_as_one(hub, tmp_path):
    trainer = trained(tmp_path / "run", {"push_to_hub": False, "save_strategy": "no"})
    hub.faults = [replace(CREATE)]
    with pytest.raises(HubPushError) as raised:
        trainer.push_to_hub()
    hub.faults.clear()
    assert "--private" not in run_command(str(raised.value))
    assert not hub.repos[REPO].private


def test_the_line_before_training_keeps_the_repository_private(hub, tmp_path):
    hub.faults = [replace(CREATE)]
    with pytest.raises(HubPushError) as raised:
        tiny.trainer(tmp_path / "run", settings=PUSHING | {"hub_private_repo": True})
    assert "--private" in raised.value.command


def test_lines_of_background_pushes_keep_the_repository_private(hub, tmp_path, caplog):
    """It may have been deleted meanwhile: then the line makes it anew."""
    settings = SAVING | {"hub_private_repo": True, "hub_strategy": "checkpoint", "max_steps": 1}
    hub.faults = [replace(COMMIT)]
    with caplog.at_level(logging.ERROR):
        trainer = trained(tmp_path / "run", settings)
        wait_until(lambda: trainer.push_watch.failed == 2)
        trainer.push_to_hub(blocking=False)
        wait_until(lambda: trainer.push_watch.failed == 3)
    commands = re.findall(r"hf upload .*", caplog.text)
    assert len(commands) == 3
    assert all("--private" in command for command in commands)


def test_later_lines_know_that_the_first_push_was_private(hub, tmp_path, caplog):
    trainer = trained(tmp_path / "run", {"push_to_hub": False, "save_strategy": "no"})
    trainer.push_to_hub(private=True)
    assert hub.repos[REPO].private
    hub.faults = [replace(COMMIT)]
    with pytest.raises(HubPushError) as raised:
        trainer.push_to_hub()
    assert "--private" in raised.value.command
    with caplog.at_level(logging.ERROR):
        trainer.push_to_hub(blocking=False)
        wait_until(lambda: trainer.push_watch.failed == 1)
    assert "--private" in re.search(r"hf upload .*", caplog.text)[0]


FAULTS = {
    "no token": (Fault("POST", "preupload", status=401), "401", "hf auth login"),
    "server error": (Fault("POST", "/commit/", status=500), "500", "reached again"),
    "server error in PUT": (Fault("PUT", "/lfs/", status=500), "500", "reached again"),
    "cut in PUT": (Fault("PUT", "/lfs/"), "Error", "reached again"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_push_that_fails_leaves_the_model_and_says_how_to_retry(hub, tmp_path, fault):
    refused, answer, remedy = FAULTS[fault]
    trainer = trained(tmp_path / "a run")
    hub.faults = [refused]
    with pytest.raises(HubPushError) as raised:
        trainer.push_to_hub(commit_message="It's done")
    hub.faults.clear()
    message = str(raised.value)
    assert answer in message
    assert remedy in message
    assert "secretsignature" not in message
    assert str(tmp_path / "a run") in message
    assert "model.safetensors" in message
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path / "a run"), trainer)
    assert hub.repos[REPO].commits == []

    assert message.splitlines()[-1].strip() == raised.value.command
    run_command(message)
    assert hub.repos[REPO].commits == ["It's done"]
    files = hub.download(REPO, tmp_path / "received")
    assert same(AutoModelForCausalLM.from_pretrained(files), trainer)
    assert {name.split("/")[0] for name in hub.repos[REPO].files} & {"checkpoint-1"} == set()


def test_a_repository_that_cannot_be_made_costs_no_trained_model(hub, tmp_path):
    trainer = trained(tmp_path / "run", {"push_to_hub": False})
    hub.faults = [Fault("POST", "repos/create", status=401)]
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(HubPushError, match="401") as raised:
        trainer.push_to_hub()
    assert "nothing is trained" not in str(raised.value)
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path / "run"), trainer)
    assert (tmp_path / "run" / "README.md").exists()


def test_a_repository_that_cannot_be_made_is_known_before_training(hub, tmp_path):
    hub.faults = [Fault("POST", "repos/create", status=401)]
    with pytest.raises(HubPushError, match=r"(?s)401.*nothing is trained yet.*push_to_hub=False"):
        tiny.trainer(tmp_path / "run", settings=PUSHING)


@pytest.mark.slow
def test_pushes_that_fail_in_the_background_do_not_stop_training(hub, tmp_path, caplog):
    hub.faults = [Fault("PUT", "/lfs/", status=500)]
    with caplog.at_level(logging.ERROR):
        trainer = trained(tmp_path / "run", SAVING | {"hub_strategy": "checkpoint"})
        wait_until(lambda: trainer.push_watch.failed == 4)
    assert trainer.state.global_step == 2
    assert hub.repos[REPO].commits == []
    said = [r.getMessage() for r in caplog.records if "Pushing to" in r.getMessage()]
    assert len(said) == 4
    assert all("500" in text and "Training goes on" in text for text in said)
    commands = [re.search(r"hf upload .*", text)[0] for text in said]
    assert sum("last-checkpoint" in command for command in commands) == 2
    # And the Hub back again, all that was missed goes with the next push.
    hub.faults.clear()
    trainer.push_to_hub()
    files = hub.download(REPO, tmp_path / "received")
    assert same(AutoModelForCausalLM.from_pretrained(files), trainer)


def test_a_push_that_does_not_block_is_watched(hub, tmp_path, caplog):
    trainer = trained(tmp_path / "run")
    hub.faults = [Fault("POST", "/commit/", status=500)]
    with caplog.at_level(logging.ERROR):
        trainer.push_to_hub(blocking=False)
        wait_until(lambda: trainer.push_watch.failed == 1)
    assert "Training goes on" not in caplog.text
    assert "hf upload" in caplog.text


def test_no_message_repeats_a_secret():
    error = OSError("cannot reach http://me:planted@proxy:80/x?token=planted with key planted-key")
    said = str(Push(REPO, Path("run"), secrets=("planted-key",)).failed(error))
    assert "planted" not in said
    assert "cannot reach" in said


def test_a_save_that_fails_is_not_called_a_push(hub, tmp_path, monkeypatch):
    trainer = trained(tmp_path / "run")

    tried = []

    def full(*args, **kwargs):
        tried.append(args)
        raise OSError("No space left on device")

    monkeypatch.setattr(trainer.model, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left") as raised:
        trainer.push_to_hub()
    assert not isinstance(raised.value, HubPushError)
    assert len(tried) == 1


@pytest.mark.slow
def test_the_training_script_pushes(hub, tmp_path):
    """In a process of its own, which finds the Hub by its environment."""
    model = tiny.model()
    model.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    rows = [{"prompt": f"{i}+1=", "solution": str(i + 1)} for i in range(8)]
    data = tmp_path / "problems.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    root = Path(__file__).parents[2]
    options = f"--reward_funcs math --output_dir {tmp_path / 'run'} --push_to_hub --use_cpu"
    options += f" --hub_model_id {REPO} --max_steps 1 --max_completion_length 8 --bf16 false"
    options += " --per_device_train_batch_size 4 --num_generations 4 --report_to none"
    script = [sys.executable, root / "recipes" / "grpo_lambda.py"]
    sources = ["--model_name_or_path", tmp_path / "base", "--dataset_name", data]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [*script, *sources, *options.split()]
    subprocess.run(command, check=True, timeout=300, env=environment)
    text = hub.repos[REPO].files["README.md"].decode()
    assert str(tmp_path) not in text
    assert re.search(r"reward_funcs:\n- (math\n|trl_lambda\.rewards)", text)
    files = hub.download(REPO, tmp_path / "received")
    assert same(AutoModelForCausalLM.from_pretrained(files), _Loaded(tmp_path / "run"))


class _Loaded:
    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder)
