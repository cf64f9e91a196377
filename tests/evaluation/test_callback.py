"""Evaluation while training: what is logged, what is kept, and that training does not notice."""

import json
import logging
from dataclasses import replace

import pytest
import tiny
import torch
from scripted_generator import sums
from transformers import TrainerCallback
from trl import GRPOTrainer

from trl_lambda import LambdaGRPOTrainer
from trl_lambda.evaluation import EvaluationCallback, Sampling, read_records
from trl_lambda.evaluation import callback as callback_module

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=6, template="none")


class Tracker(TrainerCallback):
    """What every tracker gets: the logs, by step."""

    def __init__(self):
        self.logs: list[tuple[int, dict]] = []

    def on_log(self, args, state, control, logs, **kwargs):
        self.logs.append((state.global_step, dict(logs)))

    def evaluations(self) -> list[tuple[int, dict]]:
        return [(step, logs) for step, logs in self.logs if "eval_sums/avg@3" in logs]


def trainer(folder, *, evaluated=True, cls=LambdaGRPOTrainer, settings=None, **options):
    made = tiny.trainer(folder, cls, settings={"max_steps": 4, **(settings or {})})
    tracker = Tracker()
    made.add_callback(tracker)
    if evaluated:
        options = {"every": 2, "k": 3, "sampling": SAMPLING, "batch_size": 4} | options
        made.add_callback(EvaluationCallback(made, sums(5), **options))
    return made, tracker


@pytest.mark.parametrize("cls", [LambdaGRPOTrainer, GRPOTrainer])
def test_training_does_not_notice(cls, tmp_path):
    settings = {"logging_steps": 3}
    plain, plain_logs = trainer(tmp_path / "a", cls=cls, evaluated=False, settings=settings)
    plain.train()
    made, made_logs = trainer(tmp_path / "b", cls=cls, settings=settings, keep_best="avg@3")
    made.train()
    assert torch.equal(tiny.parameters(plain), tiny.parameters(made))
    assert made.model.training
    training = [
        {
            name: value
            for name, value in logs.items()
            if "time" not in name and "per_second" not in name and "runtime" not in name
        }
        for _, logs in made_logs.logs
        if "eval_sums/avg@3" not in logs
    ]
    for ours, (_, theirs) in zip(training, plain_logs.logs, strict=True):
        assert ours == {name: theirs[name] for name in ours}
        assert set(theirs) - set(ours) <= {n for n in theirs if "time" in n or "per_second" in n}


def test_checkpointing_goes_on_as_it_was_asked_for(tmp_path):
    asked = {"use_reentrant": True, "preserve_rng_state": False}
    settings = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": asked}
    made, _ = trainer(tmp_path, evaluated=False, settings=settings)
    made.model.gradient_checkpointing_enable(asked)
    with callback_module._generator(made, 4, 0):
        assert not made.model.is_gradient_checkpointing
    assert made.model.is_gradient_checkpointing
    assert made.model.model.layers[0]._gradient_checkpointing_func.keywords == asked


def test_it_logs_before_training_and_every_n_steps(tmp_path):
    made, tracker = trainer(tmp_path)
    made.train()
    assert [step for step, _ in tracker.evaluations()] == [0, 2, 4]
    for step, logs in tracker.evaluations():
        path = tmp_path / "evaluation" / "sums" / f"step-{step}.jsonl"
        summary = json.loads(path.with_suffix(".json").read_text())
        records = read_records(path)
        assert [one.key for one in records] == [(i, j) for i in range(5) for j in range(3)]
        low, high = summary["metrics"]["pass@3"]["interval"]
        assert {name: value for name, value in logs.items() if name != "epoch"} == {
            "eval_sums/avg@3": sum(one.correct for one in records) / 15,
            "eval_sums/avg@3/low": summary["metrics"]["avg@3"]["interval"][0],
            "eval_sums/avg@3/high": summary["metrics"]["avg@3"]["interval"][1],
            "eval_sums/pass@2": summary["metrics"]["pass@2"]["value"],
            "eval_sums/pass@2/low": summary["metrics"]["pass@2"]["interval"][0],
            "eval_sums/pass@2/high": summary["metrics"]["pass@2"]["interval"][1],
            "eval_sums/pass@3": summary["metrics"]["pass@3"]["value"],
            "eval_sums/pass@3/low": low,
            "eval_sums/pass@3/high": high,
            "eval_sums/truncated": summary["truncated"],
            "eval_sums/format": summary["format"],
            "eval_sums/mean_tokens": summary["tokens"]["mean"],
        }
        assert summary["settings"]["temperature"] == 1.0
        assert summary["settings"]["generator"]["step"] == step
    assert "eval_sums/avg@3" in made.state.log_history[0]


def test_it_evaluates_the_policy_of_the_step(tmp_path):
    """The records of a step are those of the weights saved at that step."""
    made, _ = trainer(tmp_path, settings={"save_strategy": "steps", "save_steps": 2})
    made.train()
    seen = []
    for step in (2, 4):
        model = type(made.model).from_pretrained(tmp_path / f"checkpoint-{step}").eval()
        generator = callback_module.TransformersGenerator(model, tiny.tokenizer(), batch_size=4)
        keys = [(i, j) for i in range(5) for j in range(3)]
        expected = []
        for start in range(0, 15, 4):
            expected += callback_module.run_batch(
                keys[start : start + 4], sums(5), generator, SAMPLING
            )
        assert read_records(tmp_path / "evaluation" / "sums" / f"step-{step}.jsonl") == expected
        seen.append(expected)
    assert seen[0] != seen[1]


def script_values(monkeypatch, values: list[float]) -> None:
    """The next evaluations have these values."""
    order = iter(values)
    inner = callback_module.summarize

    def summarize(*arguments, **options):
        summary = inner(*arguments, **options)
        summary["metrics"]["avg@3"]["value"] = next(order)
        return summary

    monkeypatch.setattr(callback_module, "summarize", summarize)


def test_the_best_checkpoint_is_kept_the_earlier_of_equals(tmp_path, monkeypatch):
    script_values(monkeypatch, [0.1, 0.5, 0.2, 0.5, 0.4])
    made, _ = trainer(
        tmp_path, every=1, keep_best="avg@3", settings={"save_strategy": "steps", "save_steps": 1}
    )
    made.train()
    kept = json.loads((tmp_path / "best" / "evaluation.json").read_text())
    assert (kept["step"], kept["metrics"]["avg@3"]["value"]) == (1, 0.5)
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("best", "checkpoint-1")
    ]
    assert weights[0] == weights[1]


class Folders(TrainerCallback):
    """Whether there is a best model when training begins, and after each step."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def on_step_begin(self, *args, **kwargs):
        self.seen.append((self.folder / "best").exists())


def test_the_untrained_model_is_not_kept(tmp_path, monkeypatch, caplog):
    """Also where no trained one comes up to it."""
    script_values(monkeypatch, [0.9, 0.3, 0.4])
    made, tracker = trainer(tmp_path, keep_best="avg@3")
    made.add_callback(folders := Folders(tmp_path))
    made.train()
    assert [step for step, _ in tracker.evaluations()] == [0, 2, 4]
    assert folders.seen == [False, False, True, True]
    kept = json.loads((tmp_path / "best" / "evaluation.json").read_text())
    assert (kept["step"], kept["metrics"]["avg@3"]["value"]) == (4, 0.4)
    said = [record.getMessage() for record in caplog.records if "keep_best" in record.getMessage()]
    assert ["step 2" in said[0], "step 4" in said[1], "0.9" in said[1]] == [True] * 3


def test_the_best_may_equal_the_untrained(tmp_path, monkeypatch, caplog):
    script_values(monkeypatch, [0.5, 0.5, 0.2])
    made, _ = trainer(tmp_path, keep_best="avg@3")
    made.train()
    assert json.loads((tmp_path / "best" / "evaluation.json").read_text())["step"] == 2
    assert "keep_best" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("value", "kept_step"), [(0.6, 2), (0.8, 4)])
def test_a_resumed_training_remembers_the_best(value, kept_step, tmp_path, monkeypatch):
    script_values(monkeypatch, [0.1, 0.7, value])
    settings = {"save_strategy": "steps", "save_steps": 2}
    first, _ = trainer(tmp_path, keep_best="avg@3", settings=settings | {"max_steps": 2})
    first.train()
    again, tracker = trainer(tmp_path, keep_best="avg@3", settings=settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [step for step, _ in tracker.evaluations()] == [4]
    kept = json.loads((tmp_path / "best" / "evaluation.json").read_text())
    assert kept["step"] == kept_step


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("more", {"keep_best": "pass@3"}, r"best, by pass@3 of more and by avg@3 of sums; give"),
        ("sums", {}, "problem set named 'sums'"),
        ("more", {}, None),
    ],
)
def test_two_callbacks_do_not_write_to_one_place(name, options, said, tmp_path):
    made, _ = trainer(tmp_path, keep_best="avg@3", settings={"max_steps": 2})
    other = EvaluationCallback(
        made, replace(sums(2), name=name), every=2, k=3, sampling=SAMPLING, **options
    )
    made.add_callback(other)
    if said is None:
        made.train()
        written = sorted(path.name for path in (tmp_path / "evaluation").iterdir())
        assert written == ["more", "sums"]
        return
    with pytest.raises(ValueError, match=said):
        made.train()
    assert not (tmp_path / "evaluation").exists()


def test_nothing_is_kept_unless_asked(tmp_path):
    made, _ = trainer(tmp_path)
    made.train()
    assert not (tmp_path / "best").exists()


def test_other_rewards(tmp_path):
    def length(completions, **columns):
        return [len(text) / 3 for text in completions]

    made, tracker = trainer(
        tmp_path, rewards={"length": length}, keep_best="length avg@3", settings={"max_steps": 2}
    )
    made.train()
    logs = [logs for _, logs in tracker.logs if "eval_sums/length avg@3" in logs]
    assert len(logs) == 2
    assert "eval_sums/length avg@3/low" in logs[0]
    assert "eval_sums/format" not in logs[0]
    kept = json.loads((tmp_path / "best" / "evaluation.json").read_text())
    assert kept["settings"]["rewards"] == ["length"]


def test_it_says_once_what_the_training_does_otherwise(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="trl_lambda")
    trainer(tmp_path, settings={"temperature": 0.7, "max_completion_length": 6})
    said = [record.getMessage() for record in caplog.records if "in training" in record.message]
    assert said == ["sums: temperature was 0.7 in training; temperature is 1.0 here."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0, expected at least 1 step"),
        ({"keep_best": "pass@4"}, "'pass@4', expected one of avg@3, pass@2, pass@3"),
        ({"sampling": Sampling(temperature=0)}, "temperature is 0 and k is 3"),
        ({"sampling": Sampling(system_prompt="x")}, "plain texts have no roles"),
        ({"rewards": {}}, "rewards is empty"),
        (
            {"rewards": {"r": lambda completions, **columns: []}, "keep_best": "pass@3"},
            "'pass@3', expected one of r avg@3",
        ),
    ],
)
def test_options_that_make_no_sense(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **options)


def test_fsdp_is_refused(tmp_path):
    made, _ = trainer(tmp_path, evaluated=False)
    made.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="cannot generate under FSDP"):
        EvaluationCallback(made, sums(2), every=1)
