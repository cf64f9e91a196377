"""A new run in an old output_dir: what of the old one is pushed, and what is said of it."""

from __future__ import annotations

import logging

import pytest
import tiny

REPO = "somebody/tiny-grpo"
PUSHING = {"push_to_hub": True, "hub_model_id": REPO}
# What an earlier run may leave beside its credit log; `_draft` and checkpoints are never pushed.
LEFT = (
    "adapter_model.safetensors",
    "best/model.safetensors",
    "completions/completions_00001.parquet",
    "evaluation/math500/step-0.jsonl",
    "runs/a/events",
    "_draft/a",
    "checkpoint-1/marker",
)


def train(folder, *, resume=None, **settings):
    settings = {"max_steps": 1, "credit_log_steps": 1} | settings
    trainer = tiny.trainer(folder, settings=settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def leave_files(folder):
    for name in LEFT:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of the earlier run")


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if "was not empty" in r.getMessage()]


@pytest.fixture(autouse=True)
def _listening(caplog):
    caplog.set_level(logging.WARNING)


def test_prompts_and_completions_of_an_earlier_run_are_not_pushed_with_a_new_one(
    hub, tmp_path, caplog
):
    train(tmp_path)
    (tmp_path / "credit_report.html").write_text("of the earlier run")
    (tmp_path / "credit_report-run.png").write_bytes(b"of the earlier run")
    first = (tmp_path / "credit_log" / "records-00000.jsonl").read_bytes()
    trainer = train(tmp_path, **PUSHING, save_strategy="steps", save_steps=1)
    trainer.push_to_hub()
    files = hub.repos[REPO].files
    assert "credit_log/records-00000.jsonl" in files
    assert [name for name, content in files.items() if first in content] == []
    assert [name for name, content in files.items() if content == b"of the earlier run"] == []
    (earlier,) = (tmp_path / "_earlier_runs").iterdir()
    assert {path.name for path in earlier.iterdir()} == {
        "credit_log",
        "credit_report.html",
        "credit_report-run.png",
    }
    assert not any("credit_" in told for told in warnings(caplog))


def test_what_else_an_earlier_run_left_is_listed_before_anything_is_pushed(hub, tmp_path, caplog):
    leave_files(tmp_path)
    trainer = train(tmp_path, **PUSHING)
    (told,) = warnings(caplog)
    assert "adapter_model.safetensors, best/, completions/, evaluation/, runs/." in told
    assert "commit" not in " ".join(hub.requests)
    trainer.push_to_hub()
    assert len(warnings(caplog)) == 1
    # What is listed is what is pushed.
    pushed = {name for name, c in hub.repos[REPO].files.items() if c == b"of the earlier run"}
    assert pushed == set(LEFT[:5])


def test_who_pushes_after_the_training_is_told_then(hub, tmp_path, caplog):
    leave_files(tmp_path)
    trainer = train(tmp_path, hub_model_id=REPO)
    assert warnings(caplog) == []
    trainer.push_to_hub()
    assert len(warnings(caplog)) == 1


def test_a_log_that_the_new_run_does_not_write_is_listed(hub, tmp_path, caplog):
    train(tmp_path)
    train(tmp_path, **PUSHING, credit_log_steps=None)
    (told,) = warnings(caplog)
    assert "credit_log/" in told


@pytest.mark.slow
@pytest.mark.parametrize("named", [{"push_to_hub": True}, {}])
def test_a_resumed_run_is_one_run_and_a_fresh_folder_has_no_other(hub, tmp_path, caplog, named):
    saving = {"save_strategy": "steps", "save_steps": 1, "hub_model_id": REPO} | named
    train(tmp_path, **saving).push_to_hub()
    resumed = train(tmp_path, **saving | {"max_steps": 2}, resume=str(tmp_path / "checkpoint-1"))
    resumed.push_to_hub()
    assert warnings(caplog) == []
    assert not (tmp_path / "_earlier_runs").exists()


def test_long_lists_are_cut(hub, tmp_path, caplog):
    for i in range(20):
        (tmp_path / f"note-{i:02}.txt").write_text("")
    train(tmp_path, **PUSHING)
    (told,) = warnings(caplog)
    assert "note-11.txt and 8 more." in told
    assert "note-12" not in told
