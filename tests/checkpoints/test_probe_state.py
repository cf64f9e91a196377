"""The answer probe's calibration in checkpoints, and on another data set."""

import logging
import shutil

import pytest
import runs
import tiny
import torch
from runs import assert_same_end

from trl_lambda.probe import calibration

pytestmark = pytest.mark.slow

SETTINGS = {
    "td_error": "probe",
    "trace_per": "step",
    "trace_lambda": 0.8,
    "answer_column": "gold",
    "step_ends": 2,
    "probe_text": "#",
    "num_generations": 2,
}
WINDOWS = {
    "each_step": {},
    "inside_a_window": {"steps_per_generation": 4, "num_iterations": 2},
    "windows_in_a_step": {"gradient_accumulation_steps": 4, "steps_per_generation": 2},
}


@pytest.fixture(autouse=True)
def in_use_at_once(monkeypatch):
    """Values are in use after the first batch, whatever they are worth."""
    monkeypatch.setattr(calibration, "MIN_GROUPS", 2)
    used = property(lambda self: self.gain[0] > 0)
    monkeypatch.setattr(calibration.Calibration, "predicts", used)


@pytest.mark.parametrize("windows", WINDOWS)
def test_a_run_goes_on_with_its_calibration_to_the_bit(tmp_path, windows):
    settings = SETTINGS | WINDOWS[windows]
    whole = runs.run(tmp_path / "whole", settings)
    assert any(entry.get("probe/in_use") == 1 for entry in whole.state.log_history)
    for step in (1, 2, 3, 5):
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        resumed = runs.run(tmp_path / f"from_{step}", settings, checkpoint=str(checkpoint))
        assert_same_end(resumed, whole)
        ours, theirs = (one._probe.calibration.state() for one in (resumed, whole))
        assert all(torch.equal(torch.as_tensor(ours[n]), torch.as_tensor(theirs[n])) for n in ours)


def test_a_checkpoint_holds_what_the_completed_updates_have_seen(tmp_path):
    """A batch of an update that is not complete will be generated again."""
    trainer = runs.build(tmp_path, SETTINGS)
    trainer.train()
    done = trainer._place.credit_state["probe"]["calibration"]["groups"]
    rows = [{"prompt": "1+1=", "gold": "2"}] * 8
    trainer.model.train()
    trainer._generate_and_score_completions(rows)
    assert trainer._window()["credit_state"]["probe"]["calibration"]["groups"] == done
    assert trainer._probe.calibration.groups > done


def resumed_from(checkpoint, folder, caplog, **options):
    trainer = runs.build(folder, SETTINGS | options.pop("settings", {}), **options)
    begun = []
    trainer.add_callback(tiny_callback(lambda: begun.append(trainer._probe.calibration.groups)))
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    return begun[0]


def tiny_callback(call):
    from transformers import TrainerCallback

    class AtFirstStep(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            call()

    return AtFirstStep()


SAID = "no calibration of this answer probe on this data set"


@pytest.fixture
def checkpoint(tmp_path):
    runs.run(tmp_path / "first", SETTINGS | {"max_steps": 4})
    return tmp_path / "first" / "checkpoint-3"


def test_it_starts_anew_on_another_data_set_or_with_another_probe(tmp_path, checkpoint, caplog):
    assert resumed_from(checkpoint, tmp_path / "same", caplog) > 0
    assert SAID not in caplog.text
    other = {"train_dataset": tiny.prompts(16)}
    assert resumed_from(checkpoint, tmp_path / "other", caplog, **other) == 0
    assert SAID in caplog.text
    caplog.clear()
    text = {"settings": {"probe_text": "= "}}
    assert resumed_from(checkpoint, tmp_path / "text", caplog, **text) == 0
    assert SAID in caplog.text


def test_a_checkpoint_of_before_has_none(tmp_path, checkpoint, caplog):
    copied = shutil.copytree(checkpoint, tmp_path / "old" / checkpoint.name)
    path = copied / "generation_window_0.pt"
    window = torch.load(path, weights_only=True)
    del window["credit_state"]
    torch.save(window, path)
    (copied / "files.json").unlink()
    assert resumed_from(copied, tmp_path / "new", caplog) == 0
    assert SAID in caplog.text


def test_another_data_set_in_the_same_trainer(tmp_path):
    trainer = runs.build(tmp_path, SETTINGS | {"max_steps": 2, "save_strategy": "no"})
    trainer.train()
    seen = trainer._probe.calibration.groups
    trainer.train()
    assert trainer._probe.calibration.groups > seen
    trainer.train_dataset = tiny.prompts(16)
    trainer.train()
    assert trainer._probe.calibration.groups == seen
