"""`train()` on a trainer that has trained before: nothing of that is left in the window."""

from types import SimpleNamespace

import pytest
import runs
import tiny
import torch
from transformers import TrainerCallback, set_seed

pytestmark = pytest.mark.slow

# Windows of 4 updates. SGD, since an optimizer's own state rightly stays.
SETTINGS = {
    "steps_per_generation": 4,
    "num_iterations": 2,
    "optim": "sgd",
    "learning_rate": 1.0,
    "save_strategy": "no",
    "log_completions": False,
}


class StopAt(TrainerCallback):
    """Raises at an event of a step, once."""

    def __init__(self, event: str, step: int, error: BaseException):
        self.step, self.error = step, error
        setattr(self, event, self._stop)

    def _stop(self, args, state, control, **kwargs):
        if state.global_step == self.step and self.error is not None:
            error, self.error = self.error, None
            raise error


class FailingReward:
    """Raises in its second call, after it has logged something."""

    __name__ = "failing"

    def __init__(self):
        self.calls = 0

    def __call__(self, completions, log_metric, log_extra, **columns):
        self.calls += 1
        rewards = tiny.letter_reward(completions)
        log_metric("letters", max(rewards) + 10 * (self.calls == 2))
        log_extra("call", [self.calls] * len(rewards))
        if self.calls == 2:
            raise RuntimeError("no reward today")
        return rewards


def assert_trains_as_a_new_trainer(trainer, tmp_path, settings=SETTINGS, **options):
    """From the weights that it has: the same logs, and the same weights at the end."""
    model = tiny.model()
    model.load_state_dict(trainer.model.state_dict())
    new = runs.build(tmp_path / "new", settings, model=model, **options)
    for each in (trainer, new):
        set_seed(3)
        each.train()
    runs.assert_same_end(trainer, new)


@pytest.mark.parametrize(
    ("event", "step"),
    [("on_substep_end", 1), ("on_substep_end", 4), ("on_step_end", 3), ("on_step_begin", 2)],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_interruption_inside_a_window(event, step, error, tmp_path):
    trainer = runs.build(tmp_path, SETTINGS)
    trainer.add_callback(StopAt(event, step, error()))
    with pytest.raises(error):
        trainer.train()
    assert trainer._step % 8
    assert_trains_as_a_new_trainer(trainer, tmp_path)


def test_after_an_error_while_completions_are_scored(tmp_path):
    trainer = runs.build(tmp_path, SETTINGS, reward_funcs=FailingReward())
    with pytest.raises(RuntimeError, match="no reward today"):
        trainer.train()
    again = FailingReward()
    again.calls = 2  # it raises no more
    assert_trains_as_a_new_trainer(trainer, tmp_path, reward_funcs=again)


def test_after_a_training_that_ended_inside_a_window(tmp_path):
    settings = SETTINGS | {"max_steps": 3}
    trainer = runs.run(tmp_path, settings)
    assert trainer._step == 6
    assert_trains_as_a_new_trainer(trainer, tmp_path, settings)


def test_every_completion_is_sampled_from_the_weights_of_its_window(tmp_path):
    """What went wrong: half of each later step trained on completions of older weights."""
    trainer = runs.build(tmp_path, SETTINGS)
    trainer.add_callback(StopAt("on_substep_end", 1, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    inputs, generated = tiny.capture_inputs(trainer), []
    score = trainer._generate_and_score_completions

    def scored(batch):
        generated.append((trainer.state.global_step, len(inputs)))
        return score(batch)

    trainer._generate_and_score_completions = scored
    trainer.train()
    assert generated == [(0, 0), (4, 8)]


def test_a_checkpoints_window_is_put_back_all_the_same(tmp_path):
    settings = SETTINGS | {"save_strategy": "steps"}
    whole = runs.run(tmp_path / "whole", settings)
    trainer = runs.build(tmp_path / "stopped", settings)
    trainer.add_callback(StopAt("on_substep_end", 4, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=tmp_path / "stopped" / "checkpoint-3")
    runs.assert_same_end(trainer, whole)


def test_the_window_of_an_earlier_training_is_not_mixed_with_a_checkpoints(tmp_path):
    """The checkpoint is at the end of a window, the trainer in the middle of one."""
    settings = SETTINGS | {"save_strategy": "steps"}
    whole = runs.run(tmp_path / "whole", settings)
    trainer = runs.run(tmp_path / "other", settings | {"max_steps": 3})
    trainer.args.max_steps = 6
    trainer.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-4")
    runs.assert_same_end(trainer, whole)


def engine(trainer):
    """TRL's attributes with use_vllm=True, which itself wants an engine; returns what was sent."""
    sent = []
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = SimpleNamespace(
        sync_weights=lambda: sent.append(tiny.parameters(trainer).clone())
    )
    return sent


def with_rollouts(tmp_path, settings, **options):
    rows = [[18, 18, tiny.EOS], [9, tiny.EOS], [18, 9, tiny.EOS], [7, tiny.EOS]]
    settings = SETTINGS | {"vllm_importance_sampling_correction": False} | settings
    return runs.build(tmp_path, settings, rollout_func=tiny.scripted(rows), **options)


def test_vllm_gets_the_weights_that_a_new_training_begins_with(tmp_path):
    """The one window of the first began at step 0, as does the second's."""
    trainer = with_rollouts(tmp_path, {"max_steps": 3})
    sent = engine(trainer)
    trainer.train()
    trained = tiny.parameters(trainer).clone()
    trainer.train()
    assert len(sent) == 2
    assert torch.equal(sent[1], trained)
    assert not torch.equal(sent[0], sent[1])


def test_vllm_gets_the_best_model_before_it_generates_again(tmp_path):
    settings = {
        "max_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "per_device_eval_batch_size": 4,
        "save_strategy": "steps",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_reward",
        "greater_is_better": True,
    }

    def falling(completions, trainer_state, **columns):
        return [text.count("a") - 100.0 * trainer_state.global_step for text in completions]

    data = tiny.prompts(1)
    trainer = with_rollouts(tmp_path, settings, eval_dataset=data, reward_funcs=falling)
    sent = engine(trainer)
    trainer.train()
    best = tiny.parameters(trainer).clone()
    trainer.evaluate()
    assert torch.equal(sent[-1], best)
    assert not torch.equal(sent[-2], best)
