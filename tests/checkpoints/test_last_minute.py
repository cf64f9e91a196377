"""What is written around our part of a checkpoint: by TRL after it, by transformers on a signal."""

import json

import pytest
import runs
import tiny
import torch
from transformers import TrainerCallback
from transformers.trainer_jit_checkpoint import CheckpointManager, JITCheckpointCallback

from trl_lambda.checkpoints.manifest import missing_part

pytestmark = pytest.mark.slow

ADAPTIVE = {"use_adaptive_entropy": True, "entropy_target": 5.0, "entropy_coef": 0.01}
CONTROLLER = "entropy_ctrl_state.json"


@pytest.mark.parametrize("spoil", ["missing", "torn", "stale"])
def test_the_entropy_controller_does_not_hang_on_the_file_written_last(spoil, tmp_path):
    """TRL writes it when the checkpoint counts as whole already: a kill takes it away."""
    whole = runs.run(tmp_path / "whole", ADAPTIVE)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    saved = json.loads((checkpoint / CONTROLLER).read_text())
    assert saved["entropy_coef"] != 0.01
    if spoil == "missing":
        (checkpoint / CONTROLLER).unlink()
    elif spoil == "torn":
        (checkpoint / CONTROLLER).write_text('{"entropy_co')
    else:
        stale = saved | {"entropy_coef": 0.5}
        (checkpoint / CONTROLLER).write_text(json.dumps(stale))
    assert missing_part(checkpoint) is None
    resumed = runs.run(tmp_path / "resumed", ADAPTIVE, checkpoint=checkpoint)
    runs.assert_same_end(resumed, whole)


def test_torn_with_no_copy_of_it_is_an_error(tmp_path):
    runs.run(tmp_path, ADAPTIVE | {"max_steps": 1})
    path = tmp_path / "checkpoint-1" / "generation_window_0.pt"
    window = torch.load(path)
    del window["entropy"]
    torch.save(window, path)
    (tmp_path / "checkpoint-1" / CONTROLLER).write_text("{")
    (tmp_path / "checkpoint-1" / "files.json").unlink()
    with pytest.raises(json.JSONDecodeError):
        runs.run(tmp_path, ADAPTIVE, checkpoint=True)


# -- checkpoints that a signal asks for ----------------------------------------------------------

ON_A_SIGNAL = {
    "enable_jit_checkpoint": True,
    "save_strategy": "no",
    "steps_per_generation": 4,
    "num_iterations": 2,
    "beta": 0.04,
    "sync_ref_model": True,
    "ref_model_sync_steps": 3,
    "ref_model_mixup_alpha": 1.0,
}


class Ask(TrainerCallback):
    """What the signal comes to three seconds later: a checkpoint is asked for, at an event."""

    def __init__(self, trainer, event, step):
        self._trainer, self._step = trainer, step
        setattr(self, event, self._ask)

    def _ask(self, args, state, control, **kwargs):
        if state.global_step == self._step:
            (callback,) = (
                c
                for c in self._trainer.callback_handler.callbacks
                if isinstance(c, JITCheckpointCallback)
            )
            callback.jit_manager.is_checkpoint_requested = True


# The event at which it is asked for, and the one at which transformers saves then.
EVENTS = {
    "at_the_end_of_a_step": ("on_optimizer_step", 2, 3),
    "at_the_end_of_a_pass": ("on_optimizer_step", 1, 2),
    "before_a_step": ("on_log", 2, 2),
    "amid_an_update": ("on_substep_end", 2, 2),
    "amid_the_first_update_of_a_window": ("on_substep_end", 4, 4),
}


@pytest.mark.parametrize("event", EVENTS)
def test_a_run_goes_on_from_it(event, tmp_path):
    name, step, saved = EVENTS[event]
    settings = ON_A_SIGNAL | ({"steps_per_generation": 2} if "pass" in event else {})
    whole = runs.run(tmp_path / "whole", settings)
    stopped = runs.build(tmp_path / "stopped", settings)
    stopped.add_callback(Ask(stopped, name, step))
    stopped.train()
    checkpoint = tmp_path / "stopped" / f"checkpoint-{saved}"
    assert missing_part(checkpoint) is None
    files = json.loads((checkpoint / "files.json").read_text())
    assert "checkpoint-is-incomplete.txt" not in files
    assert not (checkpoint / "checkpoint-is-incomplete.txt").exists()
    resumed = runs.build(tmp_path / "stopped", settings)
    inputs = tiny.capture_inputs(resumed)
    resumed.train(resume_from_checkpoint=True)
    assert len(inputs) == 2 * (6 - saved), "no update is left out"
    if event == "amid_the_first_update_of_a_window":
        return  # its completions are sampled anew
    # The log of the step itself comes after the save, so the checkpoint may lack it.
    logged = [
        [entry for entry in runs.losses(trainer) if entry["step"] > saved]
        for trainer in (resumed, whole)
    ]
    assert logged[0] == logged[1]
    assert len(logged[0]) == 6 - saved
    assert torch.equal(tiny.parameters(resumed), tiny.parameters(whole))


def test_one_that_was_cut_off_is_not_resumed_from(tmp_path, monkeypatch):
    """Killed when all was written but before the mark was taken away: nobody can tell."""
    runs.run(tmp_path, {"max_steps": 1, "save_steps": 1})
    trainer = runs.build(tmp_path, ON_A_SIGNAL)
    trainer.add_callback(Ask(trainer, "on_optimizer_step", 1))
    save = CheckpointManager.execute_jit_checkpoint

    def killed(manager):
        monkeypatch.setattr("os.remove", lambda path: (_ for _ in ()).throw(SystemExit))
        save(manager)

    monkeypatch.setattr(CheckpointManager, "execute_jit_checkpoint", killed)
    with pytest.raises(SystemExit):
        trainer.train()
    monkeypatch.undo()
    assert "cut off" in missing_part(tmp_path / "checkpoint-2")
    resumed = runs.build(tmp_path, {"max_steps": 2, "save_strategy": "no"})
    begun = []
    resumed.add_callback(runs.AtStepEnd(lambda: begun.append(resumed.state.global_step)))
    resumed.train(resume_from_checkpoint=True)
    assert begun == [2], "from checkpoint-1"
