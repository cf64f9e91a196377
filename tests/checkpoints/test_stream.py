"""A stream that is shorter than the run: it resumes in the pass, and at the row, where it was."""

import json
import logging

import pytest
import runs
import tiny
import torch
from datasets import IterableDataset
from runs import AtStepEnd

from trl_lambda.checkpoints.manifest import write_manifest

pytestmark = pytest.mark.slow

SETTINGS = {"max_steps": 8, "num_generations": 4, "td_error": "tree"}
# Prompts in a pass, and settings: how many updates that makes.
CASES = {
    "three_updates": (6, {}),
    "window_of_four": (4, {"steps_per_generation": 4, "num_iterations": 2}),
    # The 7th prompt makes no whole batch, and is left out of each pass.
    "in_order_and_an_odd_one_out": (7, {"shuffle_dataset": False}),
    # Three micro-batches a pass, two an update: transformers carries one over.
    "an_odd_micro_batch": (3, {"steps_per_generation": 1}),
    "window_across_updates": (6, {"steps_per_generation": 3}),
}


def stream(prompts: int) -> IterableDataset:
    def rows():
        yield from ({"prompt": f"{i % 10}+{i // 10}="} for i in range(prompts))

    return IterableDataset.from_generator(rows)


def watched(output_dir, prompts, settings, **options):
    """(trainer, the prompts of its generated batches); the latter fills as it trains."""
    seen = []

    def reward(prompts, completions, **columns):
        seen.append(prompts)
        return tiny.letter_reward(completions)

    trainer = runs.build(
        output_dir,
        SETTINGS | settings,
        reward_funcs=reward,
        train_dataset=stream(prompts),
        **options,
    )
    return trainer, seen


@pytest.mark.parametrize("case", CASES)
def test_from_every_step_it_ends_as_a_run_that_never_stopped(case, tmp_path):
    prompts, settings = CASES[case]
    whole, seen = watched(tmp_path / "whole", prompts, settings)
    whole.train()
    assert whole.state.epoch > 1, "more than one pass"
    for step in (2, 3, 5, 7):
        unsaved = settings | {"save_strategy": "no"}
        resumed, again = watched(tmp_path / f"from_{step}", prompts, unsaved)
        resumed.train(resume_from_checkpoint=tmp_path / "whole" / f"checkpoint-{step}")
        runs.assert_same_end(resumed, whole)
        assert again == seen[len(seen) - len(again) :]


def test_passes_are_shuffled_each_in_its_own_way(tmp_path):
    """What the cases rest on."""
    trainer, seen = watched(tmp_path, 6, {"save_strategy": "no"})
    trainer.train()
    first, second = [*seen[0], *seen[1], *seen[2]], [*seen[3], *seen[4], *seen[5]]
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_checkpoint_at_the_end_of_a_pass(tmp_path):
    """Saved, and evaluated, when the pass is over: neither is done once more."""
    settings = {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "per_device_eval_batch_size": 4,
    }
    whole, _ = watched(tmp_path / "whole", 6, settings, eval_dataset=tiny.prompts(1))
    whole.train()
    saved = sorted((tmp_path / "whole").glob("checkpoint-*"))
    assert [path.name for path in saved] == ["checkpoint-3", "checkpoint-6", "checkpoint-8"]
    for checkpoint in saved[:2]:
        folder = tmp_path / f"from_{checkpoint.name}"
        resumed, _ = watched(folder, 6, settings, eval_dataset=tiny.prompts(1))
        resumed.train(resume_from_checkpoint=checkpoint)
        runs.assert_same_end(resumed, whole)
        evaluated = [e["step"] for e in resumed.state.log_history if "eval_loss" in e]
        assert evaluated == [3, 6, 8]


def test_a_gradient_that_waits_for_the_next_pass_is_in_no_checkpoint(tmp_path, caplog):
    prompts, settings = CASES["an_odd_micro_batch"]
    trainer, _ = watched(tmp_path, prompts, settings | {"save_strategy": "epoch", "max_steps": 2})
    with caplog.at_level(logging.WARNING):
        trainer.train()
    warnings = [text for text in caplog.messages if "between two passes" in text]
    assert len(warnings) == 1, "the second was saved when the run had ended"
    assert "checkpoint-1 is saved" in warnings[0]
    assert "the gradient of 1 micro-batches" in warnings[0]


@pytest.mark.parametrize("save_strategy", ["steps", "epoch"])
def test_a_run_that_is_made_longer_goes_on_in_its_pass(save_strategy, tmp_path):
    """The last update of the shorter run is the second of a pass of three."""
    settings = {"lr_scheduler_type": "constant"}
    whole, _ = watched(tmp_path / "whole", 6, settings | {"save_strategy": "no"})
    whole.train()
    shorter = settings | {"max_steps": 5, "save_strategy": save_strategy}
    watched(tmp_path / "short", 6, shorter)[0].train()
    resumed, _ = watched(tmp_path / "longer", 6, settings | {"save_strategy": "no"})
    resumed.train(resume_from_checkpoint=tmp_path / "short" / "checkpoint-5")
    assert torch.equal(tiny.parameters(resumed), tiny.parameters(whole))
    without_epoch = [
        [{k: v for k, v in entry.items() if k != "epoch"} for entry in runs.losses(trainer)]
        for trainer in (resumed, whole)
    ]
    assert without_epoch[0] == without_epoch[1]


def test_data_that_are_not_to_be_skipped_begin_with_their_pass(tmp_path):
    watched(tmp_path / "whole", 6, {"max_steps": 5})[0].train()
    resumed, seen = watched(tmp_path / "resumed", 6, {"ignore_data_skip": True})
    resumed.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-5")
    straight, all_seen = watched(tmp_path / "straight", 6, {"save_strategy": "no"})
    straight.train()
    assert seen == all_seen[3:6], "the second pass, from its top"


def test_a_checkpoint_that_does_not_say_where_it_was_is_warned_of(tmp_path, caplog):
    """As one of another trainer's: transformers then reads the stream from its top."""
    watched(tmp_path / "whole", 6, {"max_steps": 5})[0].train()
    for step in (2, 5):
        folder = tmp_path / "whole" / f"checkpoint-{step}"
        (folder / "generation_window_0.pt").unlink()
        write_manifest(folder)
    caplog.clear()
    message = "does not say where in the stream it was saved"
    with caplog.at_level(logging.WARNING):
        resumed, _ = watched(tmp_path / "first", 6, {"max_steps": 3, "save_strategy": "no"})
        resumed.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-2")
    assert message not in caplog.text, "the first pass is right without"
    with caplog.at_level(logging.WARNING):
        resumed, _ = watched(tmp_path / "second", 6, {"max_steps": 6, "save_strategy": "no"})
        resumed.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-5")
    assert f"checkpoint-5 {message}" in caplog.text


def test_rows_that_are_counted_have_their_place_from_transformers(tmp_path):
    """A place in a stream must not be taken for one in rows: these know their number."""
    whole = runs.run(tmp_path / "whole", SETTINGS | {"max_steps": 5})
    path = tmp_path / "whole" / "checkpoint-3" / "generation_window_0.pt"
    window = torch.load(path)
    torch.save(window | {"place": (7, 7)}, path)
    write_manifest(path.parent)
    settings = SETTINGS | {"max_steps": 5, "save_strategy": "no"}
    resumed = runs.run(tmp_path / "resumed", settings, checkpoint=path.parent)
    runs.assert_same_end(resumed, whole)


def test_other_batch_sizes_keep_the_pass(tmp_path, caplog):
    """As with rows: as many updates of it are skipped, whatever they are made of now."""
    watched(tmp_path / "whole", 6, {"max_steps": 5})[0].train()
    other = {"gradient_accumulation_steps": 1, "save_strategy": "no", "max_steps": 6}
    resumed, _ = watched(tmp_path / "resumed", 6, other)
    begun = []
    resumed.add_callback(AtStepEnd(lambda: begun.append(resumed.state.epoch)))
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-5")
    assert "gradient_accumulation_steps 2 → 1" in caplog.text
    assert begun == [1 + 3 / 6]
    state = json.loads((tmp_path / "whole" / "checkpoint-5" / "trainer_state.json").read_text())
    assert state["epoch"] == 1 + 2 / 5
