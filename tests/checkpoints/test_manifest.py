"""Which checkpoints count as whole."""

import pytest

from trl_lambda.checkpoints.manifest import (
    checkpoints,
    mark_unfinished,
    missing_part,
    newest_checkpoint,
    write_manifest,
)


def saved(folder, *, whole=True):
    (folder / "shards").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12345")
    (folder / "shards" / "0.bin").write_bytes(b"123")
    write_manifest(folder)
    if whole:
        (folder / "trainer_state.json").write_text("{}")
    return folder


def test_newest_by_number_not_by_name_or_time(tmp_path):
    for step in (9, 100, 20):
        saved(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-300").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == [
        "checkpoint-100",
        "checkpoint-20",
        "checkpoint-9",
    ]
    assert newest_checkpoint(tmp_path) == (tmp_path / "checkpoint-100", {})


def test_no_folder_at_all(tmp_path):
    assert newest_checkpoint(tmp_path / "none") == (None, {})
    assert missing_part(tmp_path / "none") == "there is no such folder"


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda c: (c / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda c: (c / "trainer_state.json").write_text('{"a": '), "trainer_state.json is torn"),
        (lambda c: (c / "files.json").write_text("{"), "files.json is torn"),
        (lambda c: (c / "shards" / "0.bin").unlink(), "shards/0.bin is missing"),
        (
            lambda c: (c / "model.safetensors").write_bytes(b"1"),
            "model.safetensors has 1 bytes, and had 5 when it was saved",
        ),
    ],
)
def test_what_is_missing_is_named_and_the_one_before_is_taken(tmp_path, spoil, fault):
    older, newer = saved(tmp_path / "checkpoint-1"), saved(tmp_path / "checkpoint-2")
    assert missing_part(newer) is None
    spoil(newer)
    assert newest_checkpoint(tmp_path) == (older, {newer: fault})


def test_an_edited_card_changes_nothing(tmp_path):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "README.md").write_text("card")
    saved(folder)
    (folder / "README.md").write_text("a better card")
    assert missing_part(folder) is None


def test_files_that_others_write_around_the_manifest(tmp_path):
    """A save that a signal asked for is marked until it ends; TRL adds a file behind us."""
    (tmp_path / "checkpoint-is-incomplete.txt").write_text("")
    (tmp_path / "entropy_ctrl_state.json").write_text("old")
    saved(tmp_path)
    assert "cut off" in missing_part(tmp_path)
    (tmp_path / "checkpoint-is-incomplete.txt").unlink()
    (tmp_path / "entropy_ctrl_state.json").write_text("of another length")
    assert missing_part(tmp_path) is None


def test_other_trainers_checkpoints_are_judged_by_their_state(tmp_path):
    folder = saved(tmp_path / "checkpoint-1")
    (folder / "files.json").unlink()
    assert missing_part(folder) is None


def test_saving_over_an_older_one_makes_it_none_first(tmp_path):
    folder = saved(tmp_path / "checkpoint-1")
    mark_unfinished(folder)
    assert missing_part(folder) == "trainer_state.json is missing"
    mark_unfinished(tmp_path / "checkpoint-2")  # not there yet
