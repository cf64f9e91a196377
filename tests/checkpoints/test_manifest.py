"""Which checkpoints count as whole."""

import json

import pytest

from trl_lambda.checkpoints.manifest import (
    checkpoints,
    mark_unfinished,
    missing_part,
    newest_checkpoint,
    write_manifest,
)

STATE = (
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
    "generation_window_0.pt",
    "reference.pt",
)


def saved(folder, *, whole=True):
    (folder / "shards").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12345")
    (folder / "shards" / "0.bin").write_bytes(b"123")
    (folder / "shards" / ".metadata").write_bytes(b"12")
    for name in STATE:
        (folder / name).write_bytes(b"1234")
    (folder / "tokenizer.json").write_text('{"model": "a"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "merges.txt").write_text("")
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
        (
            lambda c: (c / "shards" / ".metadata").write_bytes(b"123"),
            "shards/.metadata has 3 bytes, and had 2 when it was saved",
        ),
        *(
            (
                lambda c, name=name: (c / name).write_bytes(b"12345"),
                f"{name} has 5 bytes, and had 4 when it was saved",
            )
            for name in STATE
        ),
        (lambda c: (c / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda c: (c / "tokenizer.json").write_text('{"model":'), "tokenizer.json is torn"),
        (
            lambda c: (c / "chat_template.jinja").write_text(""),
            "chat_template.jinja has 0 bytes, and had 14 when it was saved",
        ),
        (lambda c: (c / "merges.txt").unlink(), "merges.txt is missing"),
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", '{"model": "ab"}\n'),
        ("tokenizer.json", "{}"),
        ("chat_template.jinja", "{{ messages }}\n"),
        ("chat_template.jinja", "-"),
        ("merges.txt", "a b"),
    ],
)
def test_files_that_people_edit_may_be_edited(tmp_path, name, text):
    folder = saved(tmp_path / "checkpoint-1")
    (folder / name).write_text(text)
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


def test_nothing_of_another_run_is_left_where_a_checkpoint_is_saved_over_it(tmp_path):
    folder = saved(tmp_path / "checkpoint-1")
    (folder / "mine.pt").write_bytes(b"somebody's")
    (tmp_path / "outside.pt").write_bytes(b"somebody's")
    sizes = json.loads((folder / "files.json").read_text()) | {"../outside.pt": 1}
    (folder / "files.json").write_text(json.dumps(sizes))
    mark_unfinished(folder)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"tokenizer.json", "chat_template.jinja", "merges.txt", "mine.pt"}
    assert (tmp_path / "outside.pt").exists()
