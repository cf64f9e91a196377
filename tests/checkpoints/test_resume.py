"""A run that goes on from any of its checkpoints ends as if it had never stopped."""

import logging
import shutil

import pytest
import runs
import tiny
from datasets import Dataset
from peft import LoraConfig
from runs import assert_same_end

pytestmark = pytest.mark.slow

# Windows of the tests: 4 updates (2 generated batches' worth of micro-batches, twice), 1 and 3.
CASES = {
    "inside_a_window": {"steps_per_generation": 4, "num_iterations": 2, "beta": 0.04},
    "generates_each_step": {},
    "window_of_three": {"gradient_accumulation_steps": 1, "steps_per_generation": 3},
    "moving_reference": {
        "beta": 0.04,
        "num_iterations": 2,
        "sync_ref_model": True,
        "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 0.7,
    },
    "adaptive_entropy": {"use_adaptive_entropy": True, "entropy_target": 5.0, "entropy_coef": 0.01},
    # 8 prompts, 4 an update: the third epoch is over after 6 steps.
    "many_epochs": {"num_generations": 2, "td_error": "tree"},
}


def run(output_dir, case, checkpoint=None, **options):
    settings = CASES[case] | options.pop("settings", {})
    return runs.run(output_dir, settings, checkpoint=checkpoint, **options)


def assert_resumes_everywhere(tmp_path, case, **options):
    whole = run(tmp_path / "whole", case, **options)
    for step in (1, 2, 3, 5):
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        resumed = run(tmp_path / f"from_{step}", case, str(checkpoint), **options)
        assert_same_end(resumed, whole)


@pytest.mark.parametrize("case", CASES)
def test_remaining_steps_are_those_of_a_run_that_never_stopped(case, tmp_path):
    assert_resumes_everywhere(tmp_path, case)


def test_the_same_with_an_adapter_and_its_moving_reference(tmp_path):
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    assert_resumes_everywhere(tmp_path, "moving_reference", peft_config=config)


def test_the_same_on_a_stream(tmp_path):
    def rows():
        yield from ({"prompt": f"{i % 10}+1="} for i in range(40))

    stream = Dataset.from_generator(rows).to_iterable_dataset()
    assert_resumes_everywhere(tmp_path, "inside_a_window", train_dataset=stream)


def test_the_data_are_not_those_of_the_first_epoch_again(tmp_path):
    """What the case `many_epochs` rests on: prompts in another order in each epoch."""
    seen = []

    def reward(prompts, completions, **columns):
        seen.append(prompts)
        return tiny.letter_reward(completions)

    run(tmp_path, "many_epochs", reward_funcs=reward)
    first, second = seen[0] + seen[1], seen[2] + seen[3]
    assert sorted(first) == sorted(second)
    assert first != second


def test_true_takes_the_newest_whole_checkpoint_and_names_the_others(tmp_path, caplog):
    whole = run(tmp_path, "inside_a_window")
    shutil.rmtree(tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-5" / "trainer_state.json").unlink()
    weights = tmp_path / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING):
        resumed = run(tmp_path, "inside_a_window", True)
    assert "checkpoint-5 is incomplete (trainer_state.json is missing)" in caplog.text
    assert "checkpoint-4 is incomplete (model.safetensors has" in caplog.text
    assert_same_end(resumed, whole)


def test_a_checkpoint_that_is_not_whole_is_refused_by_name(tmp_path):
    run(tmp_path, "generates_each_step")
    (tmp_path / "checkpoint-5" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"optimizer.pt is missing.*checkpoint-6"):
        run(tmp_path, "generates_each_step", str(tmp_path / "checkpoint-5"))


def test_true_without_any_whole_checkpoint(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(ValueError, match=r"no complete checkpoint in .*there: checkpoint-3"):
        run(tmp_path, "generates_each_step", True)
