"""Users' subclasses: rewards that they change, names of their own, models with adapters inside."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from accelerate.utils import gather
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from trl_lambda import LambdaGRPOTrainer

COMPLETIONS = [[5, 6, 7, tiny.EOS], [5, 6, 8, tiny.EOS], [5, 9, tiny.EOS], [4, 6, tiny.EOS]]
SHAPED = [3.0, 0.0, 1.0, 2.0]
TREE = {"td_error": "tree", "trace_lambda": 0.0, "normalize_trace": False}


def nothing(completions, **columns):
    return [0.0] * len(completions)


class WithoutSuper(LambdaGRPOTrainer):
    """As TRL's documentation has people compute rewards that look at all completions."""

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = torch.tensor(SHAPED * (len(prompts) // 4))[:, None]
        return gather(rewards.to(self.accelerator.device))


class Reshaping(LambdaGRPOTrainer):
    def _calculate_rewards(self, *args):
        rewards = super()._calculate_rewards(*args)
        return rewards + torch.tensor(SHAPED * (len(rewards) // 4))[:, None]


def build(folder, cls=LambdaGRPOTrainer, **settings):
    return tiny.trainer(
        folder,
        cls,
        reward_funcs=settings.pop("reward_funcs", nothing),
        rollout_func=tiny.scripted(COMPLETIONS),
        settings={"max_steps": 1, "credit_log_steps": 1, **settings},
    )


def shaped(completions, **columns):
    return SHAPED * (len(completions) // 4)


@pytest.mark.parametrize("method", [{}, TREE], ids=str)
@pytest.mark.parametrize("cls", [WithoutSuper, Reshaping])
def test_credit_metrics_and_record_come_from_the_rewards_of_the_subclass(tmp_path, cls, method):
    """They equal those of a run whose reward function gives these rewards by itself."""
    runs = [
        build(tmp_path / "subclass", cls, **method),
        build(tmp_path / "function", reward_funcs=shaped, **method),
    ]
    seen = [tiny.capture_inputs(trainer) for trainer in runs]
    for trainer in runs:
        trainer.train()
    (ours,), (expected,) = seen
    assert ours["advantages"].any()
    for inputs in (ours, expected):  # TRL shuffles a batch; the row numbers tell how
        order = inputs["credit_row"].argsort()
        inputs["advantages"] = inputs["advantages"][order]
    torch.testing.assert_close(ours["advantages"], expected["advantages"])
    torch.testing.assert_close(tiny.parameters(runs[0]), tiny.parameters(runs[1]))
    assert runs[0].state.log_history[0]["groups/zero_variance"] == 0.0
    path = tmp_path / "subclass" / "credit_log" / "records-00000.jsonl"
    groups = [json.loads(line) for line in path.read_text().splitlines()]
    recorded = [row["reward"] for row in groups[0]["completions"]]
    assert recorded == SHAPED


def test_rewards_of_one_trainer_alone_hold_for_every_batch(tmp_path):
    """`trainer._calculate_rewards = …`, as notebooks replace a method."""
    trainer = build(tmp_path, max_steps=3, **TREE)
    calls = []

    def mine(inputs, prompts, completions, completion_ids_list):
        calls.append(len(prompts))
        return WithoutSuper._calculate_rewards(
            trainer, inputs, prompts, completions, completion_ids_list
        )

    trainer._calculate_rewards = mine
    trainer.train()
    assert len(calls) == 3
    assert trainer._calculate_rewards is mine
    logged = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    assert logged == [pytest.approx(sum(SHAPED) / 4)] * 3


class WithNamesOfItsOwn(LambdaGRPOTrainer):
    """Names that users give to attributes and methods."""

    def __init__(self, *args, **kwargs):
        self.mode = "curriculum"
        self.loss_plan = ["warm up", "train"]
        self.rule = self.observer = self.recorder = self.method = 7
        super().__init__(*args, **kwargs)

    def credit(self):
        return "mine"

    def batch_plan(self):
        return "mine"

    def log_metric(self, name):
        return "mine"

    log_mean = observe_loss = plan_loss = log_metric


def trained(folder, cls, settings):
    trainer = tiny.trainer(folder, cls, settings=settings)
    trainer.train()
    return trainer


def test_names_of_a_subclass_stay_its_own_and_change_nothing(tmp_path):
    settings = {"max_steps": 2, "trace_mode": "ratio", "beta": 0.04}
    own, plain = (
        trained(tmp_path / cls.__name__, cls, settings)
        for cls in (WithNamesOfItsOwn, LambdaGRPOTrainer)
    )
    tiny.assert_same_run(own, plain)
    assert (own.mode, own.rule, own.loss_plan) == ("curriculum", 7, ["warm up", "train"])
    assert own.credit() == own.batch_plan() == own.log_metric("x") == "mine"


def test_a_model_with_an_adapter_of_transformers_is_saved_with_its_card(tmp_path, monkeypatch):
    """`add_adapter` puts LoRA into the model, which stays no `PeftModel`."""
    # transformers may ask for a PEFT that is newer than the one there; what it calls is the same.
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.18.0")
    model = tiny.model()
    model.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer = tiny.trainer(tmp_path, model=model, settings=settings)
    trainer.train()
    trainer.save_model()
    assert "LoRA (r = 2, alpha = 4)" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "checkpoint-1" / "adapter_model.safetensors").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    trained = {n: p for n, p in trainer.model.state_dict().items() if "lora_" in n}
    assert trained
    assert all(torch.equal(loaded[name], weight) for name, weight in trained.items())
