"""The credit log, through the trainer and by itself."""

import itertools
import json
import math
import sys
import types
from pathlib import Path

import pytest
import tiny
import torch
from recording import COMPLETIONS, by_row, records, run

from trl_lambda.credit_log.writing import CreditLog
from trl_lambda.report import load_run, write_report
from trl_lambda.report.trackers import TrackCreditFigures

SETTINGS = [
    {},
    tiny.NEUTRAL,
    tiny.NEUTRAL | {"advantage_floor": -0.1, "importance_sampling_level": "sequence"},
    {"trace_mode": "ratio", "beta": 0.04, "num_iterations": 2},
    {"per_device_train_batch_size": 4, "steps_per_generation": 4, "num_iterations": 2},
    {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "beta": 0.04},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_recorded_row_meets_its_first_update(tmp_path, settings):
    run(tmp_path, credit_log_steps=1, **settings)
    groups, updates = records(tmp_path)
    assert groups
    rows = [row for group in groups for row in group["completions"]]
    assert {row["row"] for row in rows} == set(updates)
    for row in rows:
        update = updates[row["row"]]
        n = len(row["ids"])
        per_token = [row[k] for k in ("pieces", "mask", "advantage", "weight", "size")]
        per_token += [
            update[k] for k in ("logps", "old_logps", "z_abs", "ratio", "clipped", "entropy")
        ]
        assert {len(values) for values in [*per_token, row["trace_weight"]]} == {n}
        assert (update["kl"] is None) == (settings.get("beta", 0.0) == 0.0)
        assert row["extra"] == {"verdict": "ok" if int(row["row"].split("-")[1]) % 2 else None}
    first = groups[0]["completions"]
    assert [row["reward"] for row in first] == [1.0, 0.0, 0.5, None]
    assert first[0]["rewards"] == {"by_row": 1.0}
    assert [row["ids"] for row in first] == COMPLETIONS[:4]
    assert first[0]["pieces"] == ["2", " 3", " 4", " <eos>"]  # as the tokenizer decodes
    assert first[0]["size"] == [3, 2, 1, 1]
    assert groups[0]["prompt"].endswith("+ 1 =")


def test_credit_is_what_the_loss_got(tmp_path):
    trainer = tiny.trainer(
        tmp_path,
        reward_funcs=by_row,
        rollout_func=tiny.scripted(COMPLETIONS),
        settings={"credit_log_steps": 1, "max_steps": 1, "per_device_train_batch_size": 16},
    )
    seen = tiny.capture_inputs(trainer)
    trainer.train()
    groups, _ = records(tmp_path)
    recorded = {int(row["row"].split("-")[1]): row for g in groups for row in g["completions"]}
    for number, advantage in zip(
        seen[0]["credit_row"].tolist(), seen[0]["advantages"], strict=True
    ):
        if number >= 0:
            want = recorded[number]["advantage"]
            assert advantage[: len(want)].tolist() == pytest.approx(want, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("settings", [{}, {"trace_mode": "ratio", "beta": 0.04}], ids=str)
def test_the_entropy_is_that_of_the_policy_at_each_position(tmp_path, settings):
    settings |= {"max_steps": 1, "per_device_train_batch_size": 8, "temperature": 0.7}
    trainer = run(tmp_path, credit_log_steps=1, learning_rate=0.0, **settings)
    groups, updates = records(tmp_path)
    found = []
    for group in groups:
        prompt = trainer.processing_class(group["prompt"].replace(" ", ""))["input_ids"]
        for row in group["completions"]:
            with torch.no_grad():
                logits = trainer.model(torch.tensor([prompt + row["ids"]])).logits[0] / 0.7
            entropies = torch.distributions.Categorical(logits=logits).entropy()
            recorded = updates[row["row"]]["entropy"]
            assert recorded == pytest.approx(entropies[len(prompt) - 1 : -1].tolist(), rel=1e-4)
            found += recorded
    # All rows of the batch are in the record, and TRL logs their mean.
    assert trainer.state.log_history[0]["entropy"] == pytest.approx(
        sum(found) / len(found), rel=1e-4
    )


@pytest.mark.slow
def test_recording_changes_nothing(tmp_path):
    for settings in SETTINGS:
        plain = run(tmp_path / "plain", **settings)
        logged = run(tmp_path / "logged", **settings, credit_log_steps=1)
        assert torch.equal(tiny.parameters(plain), tiny.parameters(logged)), settings


def test_steps_between_records(tmp_path):
    run(tmp_path, credit_log_steps=2, max_steps=5)
    assert sorted({group["step"] for group in records(tmp_path)[0]}) == [0, 2, 4]


def test_on_with_the_completions_table_and_off_by_default(tmp_path):
    run(tmp_path / "on", log_completions=True, logging_steps=2)
    assert sorted({group["step"] for group in records(tmp_path / "on")[0]}) == [0, 2]
    run(tmp_path / "off")
    assert not (tmp_path / "off" / "credit_log").exists()


def test_logs_and_meta(tmp_path):
    run(tmp_path, credit_log_steps=1)
    folder = tmp_path / "credit_log"
    logs = [json.loads(line) for line in (folder / "logs.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logs[:4]] == [1, 2, 3, 4]
    assert {"reward", "loss", "process_sets/size"} <= set(logs[0]["metrics"])
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["format"] == 1
    assert meta["settings"]["trace_lambda"] == 0.99


def group(number):
    return {"kind": "group", "id": str(number), "text": "x" * 1000}


def test_the_oldest_segments_go_and_are_counted(tmp_path):
    log = CreditLog(tmp_path, max_mb=0.05)
    for number in range(200):
        log.write_records([group(number)])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 50_000 + 200
    kept = [
        json.loads(line)["id"] for path in log.segments() for line in path.read_text().splitlines()
    ]
    dropped = json.loads((tmp_path / "dropped.json").read_text())
    assert kept[-1] == "199"
    assert kept == [str(n) for n in range(200 - len(kept), 200)]
    assert dropped["groups"] == 200 - len(kept)


def test_a_restart_after_a_torn_line_begins_a_segment(tmp_path):
    log = CreditLog(tmp_path, max_mb=1)
    log.write_records([group(0)])
    with log.segments()[0].open("a") as file:
        file.write('{"kind": "gro')
    CreditLog(tmp_path, max_mb=1).write_records([group(1)])
    assert [len(path.read_text().splitlines()) for path in log.segments()] == [2, 1]


def test_a_long_curve_is_thinned_and_runs_keep_steps_in_common(tmp_path):
    kept = []
    for name, text in (("one", 1 / 7), ("other", 1.0)):  # lines of other lengths
        log = CreditLog(tmp_path / name, max_mb=0.01)
        for step in range(500):
            log.write_log(step, {"reward": step * text, "text": "left out", "nothing": math.nan})
        path = tmp_path / name / "logs.jsonl"
        assert path.stat().st_size <= 1000 + 100
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines[-1]["metrics"].keys() == {"reward", "nothing"}
        assert lines[-1]["metrics"]["nothing"] is None
        kept.append([line["step"] for line in lines])
        assert kept[-1][0] == 0
        assert kept[-1][-1] >= 498
        assert all(a < b for a, b in itertools.pairwise(kept[-1]))
    assert len(set(kept[0]) & set(kept[1])) >= 5


def test_the_report_reads_what_training_wrote(tmp_path):
    run(tmp_path, credit_log_steps=1, beta=0.04)
    read = load_run(tmp_path)
    assert [group["step"] for group in read.groups][:2] == [0, 0]
    (page,) = write_report(tmp_path)
    assert page.stat().st_size < 8e6


class Tracker(types.ModuleType):
    """Has what wandb and trackio both have."""

    def __init__(self):
        super().__init__("trackio")
        self.logged = {}

    def log(self, values):
        self.logged |= values

    def Image(self, path):
        return Path(path).read_bytes()[:4]


def test_figures_reach_the_tracker(tmp_path):
    trainer = run(tmp_path, credit_log_steps=1)
    callback = trainer.callback_handler.callbacks[0]  # before those that close a tracker
    assert isinstance(callback, TrackCreditFigures)
    trainer.args.report_to = ["trackio"]
    tracker = Tracker()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trackio", tracker)
        callback.on_train_end(trainer.args, trainer.state, trainer.control)
    assert tracker.logged == dict.fromkeys(
        ("credit/run", "credit/tree", "credit/completion"), b"\x89PNG"
    )
