"""A window goes on under the settings it was scored with; under others it is generated anew."""

import enum
import logging
import shutil
from dataclasses import fields

import numpy as np
import pytest
import runs
import tiny
import torch
from trl import GRPOConfig

from trl_lambda import LambdaGRPOConfig
from trl_lambda.checkpoints.window import SAMPLING, SCORING, WITH_VLLM, changes, plain
from trl_lambda.config import method_of
from trl_lambda.methods import OPTIONS

# A window of 4 updates; the checkpoints of steps 1, 2, 3 and 5 are inside one.
SETTINGS = {
    "steps_per_generation": 4,
    "num_iterations": 2,
    "beta": 0.04,
    "td_error": "group",
    "max_steps": 5,
}
CHANGES = [
    {"td_error": "tree"},
    {"trace_style": "none"},
    {"trace_mode": "weight"},
    {"trace_mode": "ratio"},
    {"trace_lambda": 0.5},
    {"normalize_trace": False},
    {"advantage_floor": -0.2},
    {"process_set_weighting": False},
    {"loss_type": "dapo"},
    {"scale_rewards": "group"},
    {"beta": 0.0},
    {"beta": 0.02},
    {"temperature": 0.8},
    {"top_k": 5},
    {"max_completion_length": 6},
    {"mask_truncated_completions": True},
    {"generation_kwargs": {"suppress_tokens": [9]}},
    {"reward_weights": [2.0]},
    {"num_iterations": 1},
    {"num_generations": 2},
]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A checkpoint in the middle of a window."""
    folder = tmp_path_factory.mktemp("stopped")
    runs.run(folder, SETTINGS | {"save_steps": 3})
    return folder / "checkpoint-3"


def generated_in(trainer) -> list[int]:
    """Steps at which it generates; filled as it trains."""
    steps, score = [], trainer._generate_and_score_completions

    def scored(batch):
        steps.append(trainer.state.global_step)
        return score(batch)

    trainer._generate_and_score_completions = scored
    return steps


def without_window(checkpoint, folder):
    copied = shutil.copytree(checkpoint, folder / checkpoint.name)
    (copied / "generation_window_0.pt").unlink()
    (copied / "files.json").unlink()
    return copied


def test_nothing_changed_nothing_is_said(stopped, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        resumed = runs.build(tmp_path, SETTINGS)
        steps = generated_in(resumed)
        resumed.train(resume_from_checkpoint=stopped)
    assert steps == [4]
    assert "Resuming" not in caplog.text


@pytest.mark.parametrize("changed", CHANGES, ids=str)
def test_a_changed_setting_is_named_and_its_credit_is_new(changed, stopped, tmp_path, caplog):
    settings = SETTINGS | {"save_strategy": "no"} | changed
    with caplog.at_level(logging.WARNING):
        resumed = runs.build(tmp_path / "resumed", settings)
        steps = generated_in(resumed)
        resumed.train(resume_from_checkpoint=stopped)
    assert steps[0] == 3
    ((name, value),) = changed.items()
    before = tiny.config(LambdaGRPOConfig, tmp_path, **SETTINGS)
    # What an unset option of the method comes to, or TRL's setting.
    was = method_of(before).values().get(name)
    was = getattr(before, name) if was is None else was
    assert f"other settings ({name} {was} → {value})" in caplog.text
    assert "new completions are generated at once" in caplog.text
    # To the bit as where the checkpoint never had a window.
    without = runs.build(tmp_path / "without", settings)
    without.train(resume_from_checkpoint=without_window(stopped, tmp_path))
    runs.assert_same_end(resumed, without)


def test_a_kl_term_that_was_not_there_is_no_key_error(tmp_path, caplog):
    settings = SETTINGS | {"beta": 0.0, "max_steps": 4}
    runs.run(tmp_path, settings | {"save_steps": 3})
    with caplog.at_level(logging.WARNING):
        resumed = runs.run(
            tmp_path, settings | {"beta": 0.04}, checkpoint=tmp_path / "checkpoint-3"
        )
    assert "beta 0.0 → 0.04" in caplog.text
    assert resumed.state.log_history[-2]["kl"] >= 0


def test_reward_functions_and_the_reference_count(stopped, tmp_path, caplog):
    def another_reward(completions, **columns):
        return tiny.letter_reward(completions)

    with caplog.at_level(logging.WARNING):
        runs.run(
            tmp_path,
            SETTINGS | {"sync_ref_model": False},
            checkpoint=stopped,
            reward_funcs=[another_reward, tiny.letter_reward],
        )
    assert "['letter_reward'] → ['another_reward', 'letter_reward']" in caplog.text


def test_vllms_settings_count_with_vllm_alone(tmp_path):
    trainer = runs.build(tmp_path, SETTINGS)
    shape = trainer._shape_of_window()
    trainer.args.vllm_importance_sampling_mode = "token_mask"
    assert changes(shape, trainer._shape_of_window()) == []
    trainer.args.use_vllm = True
    changed = changes(shape, trainer._shape_of_window())
    assert "use_vllm False → True" in changed
    assert "vllm_importance_sampling_mode unknown → token_mask" in changed


def test_what_decides_credit_comes_from_the_trainer(stopped, tmp_path, caplog):
    """The hook for subclasses."""

    class WithAnOption(type(runs.build(tmp_path))):
        def _credit_settings(self):
            return super()._credit_settings() | {"my_option": ("a", 1)}

    with caplog.at_level(logging.WARNING):
        runs.run(tmp_path, SETTINGS, checkpoint=stopped, cls=WithAnOption)
    assert "(my_option unknown → ['a', 1])" in caplog.text


def test_every_option_of_the_method_is_in_the_shape(tmp_path):
    shape = runs.build(tmp_path, SETTINGS)._shape_of_window()
    assert {"method", *OPTIONS} <= set(shape)


def test_the_names_are_trls():
    assert {*SAMPLING, *SCORING, *WITH_VLLM} <= {field.name for field in fields(GRPOConfig)}


class Level(enum.Enum):
    HIGH = "high"


def test_values_in_pythons_own_types():
    given = {
        "numbers": (np.float64(0.5), np.int64(2), torch.tensor([1.0, 2.0])),
        "level": Level.HIGH,
        1: {"b", "a"},
        "function": test_the_names_are_trls,
        "none": None,
    }
    assert plain(given) == {
        "numbers": [0.5, 2, [1.0, 2.0]],
        "level": "high",
        "1": ["'a'", "'b'"],
        "function": "<builtins.function>",
        "none": None,
    }


def test_what_only_one_side_knows_is_a_change():
    assert changes({"a": 1, "b": 2}, {"a": 1, "b": 2}) == []
    assert changes({"a": 1, "b": 2}, {"a": 1.5, "c": None}) == [
        "a 1 → 1.5",
        "b 2 → unknown",
        "c unknown → None",
    ]


def test_a_window_holds_no_more_than_its_own_rows(stopped):
    """A slice must not be saved with the tensor that it was cut from."""
    window = torch.load(stopped / "generation_window_0.pt")
    for batch in window["batches"]:
        ids = batch["completion_ids"]
        assert ids.untyped_storage().nbytes() == ids.numel() * ids.element_size()


def test_at_its_end_a_window_holds_nothing(tmp_path):
    runs.run(tmp_path, SETTINGS | {"max_steps": 4, "save_steps": 4})
    assert torch.load(tmp_path / "checkpoint-4" / "generation_window_0.pt")["batches"] is None
