"""Whatever goes wrong with the diagnostics: it is told once, and the training ends as it would."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sys
import types

import pytest
import tiny
import torch
from recording import build, by_row, lines, records, run
from transformers import TrainerCallback

from trl_lambda.credit_log import writing
from trl_lambda.credit_log.writing import CreditLog
from trl_lambda.report import load_run
from trl_lambda.report.trackers import TrackCreditFigures


@pytest.fixture
def warned(caplog):
    """Warnings of this package so far."""
    caplog.set_level(logging.WARNING)
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("trl_lambda") and record.levelno >= logging.WARNING
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return tiny.parameters(run(tmp_path_factory.mktemp("plain")))


class AtStep(TrainerCallback):
    """Does something when a step ends."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def disturbed(folder, *actions, **settings):
    """A training in which each (step, action) happens."""
    trainer = build(folder, credit_log_steps=1, **settings)
    for step, action in actions:
        trainer.add_callback(AtStep(step, action))
    trainer.train()
    return trainer


def steps(folder):
    return [group["step"] for group in load_run(folder).groups[::2]]


# Files.


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_full_disk(tmp_path, warned, undisturbed):
    folder = tmp_path / "credit_log"

    def fill():
        for path in (folder / "logs.jsonl", folder / "records-00000.jsonl"):
            path.rename(path.with_suffix(".kept"))
            path.symlink_to("/dev/full")

    def make_room():
        for path in (folder / "logs.jsonl", folder / "records-00000.jsonl"):
            path.unlink()
            path.with_suffix(".kept").rename(path)

    trainer = disturbed(tmp_path, (2, fill), (3, make_room))
    assert torch.equal(tiny.parameters(trainer), undisturbed)
    assert steps(tmp_path) == [0, 1, 3]
    first, last = warned()
    assert "writing the credit log failed: OSError: [Errno 28]" in first
    # The log of step 2, the groups that were sampled then, their updates.
    assert last == "Faults of the diagnostics in this training: writing the credit log: 3."


def test_a_folder_that_is_deleted_begins_again(tmp_path, warned, undisturbed):
    trainer = disturbed(tmp_path, (2, lambda: shutil.rmtree(tmp_path)))
    assert torch.equal(tiny.parameters(trainer), undisturbed)
    assert steps(tmp_path) == [2, 3]
    (warning,) = warned()
    assert "credit_log was deleted while the training goes on" in warning


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000], ids=["torn", "list", "deep"])
def test_a_meta_file_of_an_earlier_run_that_cannot_be_read(tmp_path, undisturbed, content):
    run(tmp_path, credit_log_steps=1)
    (tmp_path / "credit_log" / "meta.json").write_text(content)
    trainer = disturbed(tmp_path)
    assert torch.equal(tiny.parameters(trainer), undisturbed)
    assert steps(tmp_path) == [0, 1, 2, 3]
    assert (tmp_path / "_earlier_runs" / "unknown" / "credit_log" / "logs.jsonl").is_file()


@pytest.mark.parametrize("name", ["meta.json", "logs.jsonl", "records-00000.jsonl"])
def test_a_file_that_is_deleted_is_written_again(tmp_path, undisturbed, name):
    trainer = disturbed(tmp_path, (2, (tmp_path / "credit_log" / name).unlink))
    assert torch.equal(tiny.parameters(trainer), undisturbed)
    assert steps(tmp_path)[-1] == 3


def test_a_file_where_the_folder_should_be(tmp_path, warned, undisturbed):
    (tmp_path / "credit_log").write_text("mine")
    trainer = disturbed(tmp_path)
    assert torch.equal(tiny.parameters(trainer), undisturbed)
    assert (tmp_path / "credit_log").read_text() == "mine"
    assert "beginning the credit log failed: FileExistsError" in warned()[0]
    assert len(warned()) == 3  # beginning, writing, and the counts at the end


def test_an_earlier_log_that_cannot_be_moved_is_not_written_to(tmp_path, warned, monkeypatch):
    run(tmp_path, credit_log_steps=1)
    before = lines(tmp_path)

    def refuse(*args):
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(writing, "move_to_earlier_runs", refuse)
    disturbed(tmp_path)
    assert lines(tmp_path) == before
    assert "beginning the credit log failed: PermissionError" in warned()[0]


def test_files_of_others_are_not_touched(tmp_path, warned):
    def add():
        for name in ("records-old.jsonl", "records-.jsonl", "records-7.jsonl.bak", "notes.txt"):
            (tmp_path / "credit_log" / name).write_text("x" * 300_000)

    disturbed(tmp_path, (1, add), credit_log_max_mb=0.1)
    assert steps(tmp_path) == [0, 1, 2, 3]
    assert len(list((tmp_path / "credit_log").glob("*old*"))) == 1
    CreditLog(tmp_path / "credit_log", max_mb=0.1).write_records([{"kind": "x"}])
    assert warned() == []


def test_the_size_of_all_files_counts(tmp_path):
    """Of the log's own: the curves too, not the segments alone."""
    log = CreditLog(tmp_path, max_mb=0.1)
    (tmp_path / "logs.jsonl").write_text('{"step": 1, "metrics": {}}\n' * 1500)  # 40 kB
    for number in range(100):
        log.write_records([{"kind": "group", "id": str(number), "text": "x" * 1000}])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 100_000 + 200


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"groups": "many", "bytes": 5}'])
def test_whatever_counts_the_dropped_segments(tmp_path, content):
    (tmp_path / "dropped.json").write_text(content)
    log = CreditLog(tmp_path, max_mb=0.01)
    for number in range(30):
        log.write_records([{"kind": "group", "id": str(number), "text": "x" * 1000}])
    dropped = json.loads((tmp_path / "dropped.json").read_text())
    assert dropped["groups"] == 30 - sum(len(p.read_text().splitlines()) for p in log.segments())


# Lines.


@pytest.mark.parametrize("name", ["logs.jsonl", "records-00000.jsonl"])
def test_a_torn_line_does_not_swallow_the_next(tmp_path, name):
    def tear():
        path = tmp_path / "credit_log" / name
        path.write_bytes(path.read_bytes() + b'{"step": 2, "metr\xe2')

    disturbed(tmp_path, (2, tear))
    read = load_run(tmp_path)
    assert read.unreadable == 1
    assert [group["step"] for group in read.groups[::2]] == [0, 1, 2, 3]
    assert [log["step"] for log in read.logs if "reward" in log["metrics"]] == [1, 2, 3, 4]
    assert all(row["update"] for group in read.groups for row in group["completions"])


FOREIGN = [
    b"5\n",
    b"[1, 2]\n",
    b"nonsense\n",
    b'{"kind": "group"}\n',
    b'{"kind": "group", "id": [], "step": 0, "mode": 1, "prompt": 2, "completions": 3}\n',
    b'{"kind": "update", "row": {}}\n',
    b"\x00\xff\n",
    b"[" * 100_000 + b"\n",  # deeper than Python reads
]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_foreign_line_ends_neither_training_nor_report(tmp_path, line, undisturbed):
    def add():
        for name in ("records-00000.jsonl", "logs.jsonl"):
            with (tmp_path / "credit_log" / name).open("ab") as file:
                file.write(line)

    trainer = disturbed(tmp_path, (2, add))
    assert torch.equal(tiny.parameters(trainer), undisturbed)
    read = load_run(tmp_path)
    assert [group["step"] for group in read.groups[::2]] == [0, 1, 2, 3]
    assert read.unreadable + read.superseded == 2


@pytest.mark.parametrize("line", FOREIGN[3:6])
def test_where_runs_have_no_ids_a_misfit_is_named_with_its_place(tmp_path, line):
    log = CreditLog(tmp_path / "credit_log", max_mb=1)
    log.write_records([])
    (tmp_path / "credit_log" / "meta.json").write_text('{"format": 1}')
    (tmp_path / "credit_log" / "records-00000.jsonl").write_bytes(line)
    with pytest.raises(ValueError, match=r"records-00000\.jsonl, line 1: "):
        load_run(tmp_path)


# What is described.


class Unprintable:
    def __str__(self):
        raise RuntimeError("no text of mine")


def logging_extras(values_of):
    """A reward function that logs values_of(call, completions) as the column `x`."""
    calls = iter(range(1000))

    def reward(completions, log_extra, **columns):
        values = values_of(next(calls), len(completions))
        if values is not None:
            log_extra("x", values)
        return [float(i % 4) for i in range(len(completions))]

    return reward


def extras(folder, column="x"):
    """The column by step, of the recorded rows."""
    return {
        step: [
            row["extra"].get(column)
            for group in load_run(folder).groups
            if group["step"] == step
            for row in group["completions"]
        ]
        for step in steps(folder)
    }


def test_extras_that_a_batch_did_not_log_are_not_those_of_an_older_one(tmp_path):
    reward = logging_extras(
        lambda call, n: [f"{call}.{i}" for i in range(n)] if call != 1 else None
    )
    run(tmp_path, reward_funcs=reward, credit_log_steps=1, log_completions=True)
    found = extras(tmp_path)
    assert found[0] == [f"0.{i}" for i in range(8)]
    assert found[1] == [None] * 8
    assert found[2] == [f"2.{i}" for i in range(8)]


@pytest.mark.parametrize("count", [0, 1, 5, 15, 17, 40])
def test_fewer_or_more_extras_than_rows(tmp_path, warned, count):
    reward = logging_extras(lambda call, n: [f"{call}.{i}" for i in range(count if call else n)])
    run(tmp_path, reward_funcs=reward, credit_log_steps=1, log_completions=True)
    found = extras(tmp_path)
    assert found[0] == [f"0.{i}" for i in range(8)]
    assert found[2] == [f"2.{i}" if i < count else None for i in range(8)]
    told = [w for w in warned() if f"got {count} values for 16 completions" in w]
    assert len(told) == (count != 0)


def test_a_column_that_begins_late_fits_the_completions_table(tmp_path):
    """Also where an evaluation, of fewer rows, is the first to log it."""
    reward = logging_extras(lambda call, n: ["late"] * n if call >= 2 else None)
    trainer = build(
        tmp_path,
        reward_funcs=reward,
        eval_dataset=tiny.prompts(1),
        credit_log_steps=1,
        log_completions=True,
        per_device_eval_batch_size=4,
        eval_strategy="steps",
        eval_steps=2,
    )
    trainer.train()
    assert extras(tmp_path)[3] == ["late"] * 8


def test_a_value_without_a_text(tmp_path, warned, undisturbed):
    def reward(completions, log_extra, **columns):
        log_extra("x", [Unprintable()] * len(completions))
        return by_row(completions, log_extra)

    trainer = run(tmp_path, reward_funcs=reward, credit_log_steps=1)
    assert torch.equal(tiny.parameters(trainer), undisturbed)
    first, last = warned()
    assert "describing completions for the credit log failed: RuntimeError: no text" in first
    assert "describing completions for the credit log: 4" in last
    assert [log["step"] for log in load_run(tmp_path).logs][:2] == [1, 2]


UNUSUAL = {
    "long": 10**5000,
    "half a character": "\ud800",
    "infinite": float("inf"),
    "tensor": torch.ones(2),
    "set": {"a": {1}},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_values_that_json_does_not_have(tmp_path, name, undisturbed):
    value = UNUSUAL[name]

    def reward(completions, log_extra, **columns):
        log_extra("x", [value] * len(completions))
        return by_row(completions, log_extra)

    trainer = run(tmp_path, reward_funcs=reward, credit_log_steps=1)
    assert torch.equal(tiny.parameters(trainer), undisturbed)


def test_a_tokenizer_that_fails(tmp_path, warned, monkeypatch, undisturbed):
    trainer = build(tmp_path, credit_log_steps=1)

    def fail(*args, **kwargs):
        raise OverflowError("no such token")

    monkeypatch.setattr(trainer._observer.recorder, "tokenizer", types.SimpleNamespace(decode=fail))
    trainer.train()
    assert torch.equal(tiny.parameters(trainer), undisturbed)
    assert records(tmp_path) == ([], {})
    assert "OverflowError: no such token" in warned()[0]


# Figures for trackers.


class Broken(types.ModuleType):
    def log(self, values):
        raise ConnectionError("no network")

    def Image(self, path):
        return path


def end_of_training(trainer, tracker):
    callback = trainer.callback_handler.callbacks[0]
    assert isinstance(callback, TrackCreditFigures)
    trainer.args.report_to = ["trackio"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trackio", tracker)
        callback.on_train_end(trainer.args, trainer.state, trainer.control)


def test_a_tracker_that_fails(tmp_path, warned):
    trainer = run(tmp_path, credit_log_steps=1)
    end_of_training(trainer, Broken("trackio"))
    (warning,) = warned()
    assert "trackio did not take the figures of the credit log: ConnectionError" in warning


def test_figures_of_a_log_that_cannot_be_read(tmp_path, warned):
    trainer = run(tmp_path, credit_log_steps=1)
    (tmp_path / "credit_log" / "meta.json").write_text("{")
    end_of_training(trainer, Broken("trackio"))
    (warning,) = warned()
    assert "The figures of the credit log could not be drawn: ValueError" in warning
    shutil.rmtree(tmp_path / "credit_log")
    end_of_training(trainer, Broken("trackio"))
    assert len(warned()) == 1
