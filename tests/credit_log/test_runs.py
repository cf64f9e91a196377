"""Whose lines a log holds: a run after another, a resumed run, and logs of earlier versions."""

from __future__ import annotations

import json
import shutil

import pytest
from recording import build, lines, run

from trl_lambda.credit_log.runs import left_at
from trl_lambda.report import load_run

KEPT = {"save_strategy": "steps", "save_steps": 2}


def log_of(folder):
    return folder / "credit_log"


def meta_of(folder):
    return json.loads((log_of(folder) / "meta.json").read_text())


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json*")}


def steps(run):
    return [group["step"] for group in run.groups[::2]]


def logged(run):
    return [log["step"] for log in run.logs if "reward" in log["metrics"]]


def test_a_second_training_is_recorded_too_and_the_first_is_kept(tmp_path):
    trainer = build(tmp_path, credit_log_steps=1, max_steps=3)
    trainer.train()
    first = meta_of(tmp_path)["run_id"]
    trainer.args.max_steps = 2
    trainer.train()
    new, old = load_run(tmp_path), load_run(tmp_path / "_earlier_runs" / first)
    assert (steps(new), logged(new)) == ([0, 1], [1, 2])
    assert (steps(old), logged(old)) == ([0, 1, 2], [1, 2, 3])
    assert all(row["update"] for group in new.groups for row in group["completions"])


def test_a_new_run_in_an_old_folder_is_alone_in_its_log(tmp_path, caplog):
    run(tmp_path, credit_log_steps=1, max_steps=3)
    (log_of(tmp_path) / "dropped.json").write_text('{"groups": 7}')
    first = meta_of(tmp_path)["run_id"]
    run(tmp_path, credit_log_steps=2, max_steps=3, beta=0.04)
    new, old = load_run(tmp_path), load_run(tmp_path / "_earlier_runs" / first)
    assert (steps(new), logged(new), new.dropped) == ([0, 2], [1, 2, 3], {})
    assert (steps(old), old.dropped) == ([0, 1, 2], {"groups": 7})
    assert (new.settings["beta"], old.settings["beta"]) == (0.04, 0.0)
    (told,) = [r.getMessage() for r in caplog.records if "earlier run" in r.getMessage()]
    assert f"python -m trl_lambda.report {tmp_path}/_earlier_runs/{first}" in told
    run(tmp_path, credit_log_steps=1, max_steps=1)
    assert len(list((tmp_path / "_earlier_runs").iterdir())) == 2


def test_a_trainer_that_is_built_or_evaluates_leaves_the_log_alone(tmp_path):
    run(tmp_path, credit_log_steps=1)
    before = content(tmp_path)
    trainer = build(tmp_path, credit_log_steps=1, per_device_eval_batch_size=4)
    trainer.evaluate(trainer.train_dataset)
    assert content(tmp_path) == before
    build(tmp_path / "new", credit_log_steps=1)
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").rglob("meta.json"))


def test_an_evaluation_before_the_training_is_in_its_log(tmp_path):
    trainer = build(tmp_path, credit_log_steps=1, max_steps=1, per_device_eval_batch_size=4)
    trainer.evaluate(trainer.train_dataset)
    trainer.train()
    metrics = [(log["step"], "eval_reward" in log["metrics"]) for log in load_run(tmp_path).logs]
    assert metrics[:2] == [(0, True), (1, False)]


def test_a_run_that_wrote_nothing_leaves_nothing_behind(tmp_path):
    trainer = build(tmp_path, credit_log_steps=1)
    trainer._observer.recorder.begin({"run": "empty"}, step=0, max_steps=4)
    trainer._observer.recorder.begin({"run": "again"}, step=0, max_steps=4)
    assert not (tmp_path / "_earlier_runs").exists()


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_its_log(tmp_path):
    run(tmp_path, credit_log_steps=1, max_steps=5, **KEPT)
    first = meta_of(tmp_path)["run_id"]
    resumed = build(tmp_path, credit_log_steps=1, max_steps=7, **KEPT)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    meta, read = meta_of(tmp_path), load_run(tmp_path)
    assert [(part["run_id"], part["from_step"]) for part in meta["parts"]] == [
        (first, 0),
        (meta["run_id"], 2),
    ]
    assert meta["parts"][1]["resumes"] == first
    # Steps 2 to 4 of the killed run are in the files, and in nobody's picture.
    assert (steps(read), logged(read)) == ([0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7])
    assert read.superseded > 0
    assert {line["run_id"] for line in lines(tmp_path)} == {first, meta["run_id"]}
    assert not (tmp_path / "_earlier_runs").exists()
    # A third part, from the same checkpoint of the first: the second does not count any more.
    again = build(tmp_path, credit_log_steps=3, max_steps=6, **KEPT)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    read = load_run(tmp_path)
    assert (steps(read), logged(read)) == ([0, 1, 2, 5], [1, 2, 3, 4, 5, 6])


def test_a_resumed_run_does_not_go_on_in_the_log_of_another(tmp_path):
    run(tmp_path, credit_log_steps=1, max_steps=4, **KEPT)
    first = meta_of(tmp_path)["run_id"]
    run(tmp_path, credit_log_steps=1, max_steps=1)
    second = meta_of(tmp_path)["run_id"]
    resumed = build(tmp_path, credit_log_steps=1, max_steps=5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    (part,) = meta_of(tmp_path)["parts"]
    assert (part["from_step"], part["resumes"]) == (4, first)
    assert steps(load_run(tmp_path)) == [4]
    earlier = {path.name: load_run(path) for path in (tmp_path / "_earlier_runs").iterdir()}
    assert {name: steps(found) for name, found in earlier.items()} == {
        first: [0, 1, 2, 3],
        second: [0],
    }


def test_a_run_that_is_resumed_in_another_folder_is_linked(tmp_path):
    run(tmp_path / "a", credit_log_steps=1, max_steps=2, **KEPT)
    other = build(tmp_path / "b", credit_log_steps=1, max_steps=3)
    other.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    (part,) = meta_of(tmp_path / "b")["parts"]
    assert part["resumes"] == meta_of(tmp_path / "a")["run_id"]
    assert steps(load_run(tmp_path / "b")) == [2]
    assert steps(load_run(tmp_path / "a")) == [0, 1]


def as_before_runs_had_ids(folder):
    """Takes from a log and its checkpoints what earlier versions did not write."""
    for path in log_of(folder).glob("*.jsonl"):
        plain = [json.loads(line) for line in path.read_text().splitlines()]
        for line in plain:
            del line["run_id"]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in plain))
    meta = meta_of(folder)
    del meta["run_id"], meta["parts"]
    (log_of(folder) / "meta.json").write_text(json.dumps(meta))
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        state = json.loads(path.read_text())
        del state["stateful_callbacks"]["trl_lambda.credit_log"]
        path.write_text(json.dumps(state))
        (path.parent / "manifest.json").unlink(missing_ok=True)


def test_a_run_that_an_earlier_version_began_is_resumed(tmp_path):
    run(tmp_path, credit_log_steps=1, max_steps=4, **KEPT)
    as_before_runs_had_ids(tmp_path)
    assert steps(load_run(tmp_path)) == [0, 1, 2, 3]
    resumed = build(tmp_path, credit_log_steps=1, max_steps=5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    read = load_run(tmp_path)
    assert (steps(read), logged(read)) == ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5])


def test_the_log_of_an_earlier_version_makes_room_for_a_new_run(tmp_path):
    run(tmp_path, credit_log_steps=1, max_steps=2)
    as_before_runs_had_ids(tmp_path)
    run(tmp_path, credit_log_steps=1, max_steps=1)
    (earlier,) = (tmp_path / "_earlier_runs").iterdir()
    assert steps(load_run(earlier)) == [0, 1]
    assert steps(load_run(tmp_path)) == [0]


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/x", "", ".", "a" * 300, 7, None, ["x"]])
def test_whatever_a_log_calls_itself_it_stays_under_the_output_dir(tmp_path, name):
    folder = tmp_path / "deep" / "run"
    run(folder, credit_log_steps=1, max_steps=1)
    meta = meta_of(folder) | {"run_id": name}
    (log_of(folder) / "meta.json").write_text(json.dumps(meta))
    run(folder, credit_log_steps=1, max_steps=1)
    (earlier,) = (folder / "_earlier_runs").iterdir()
    assert (earlier / "credit_log" / "meta.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_line_of_another_run_is_no_line_of_this_one(tmp_path):
    run(tmp_path / "a", credit_log_steps=1, max_steps=2)
    run(tmp_path / "b", credit_log_steps=1, max_steps=3)
    shutil.copy(
        log_of(tmp_path / "b") / "records-00000.jsonl",
        log_of(tmp_path / "a") / "records-00007.jsonl",
    )
    read = load_run(tmp_path / "a")
    assert steps(read) == [0, 1]
    assert read.superseded == 3 * (2 + 8)  # groups and updates


def part(run_id, from_step=0, resumes=None):
    return {"run_id": run_id, "from_step": from_step, "resumes": resumes}


INFINITE = float("inf")
LINEAGES = [
    ([part("a")], {"a": INFINITE}),
    ([part("a"), part("b", 4, "a")], {"b": INFINITE, "a": 4}),
    ([part("a"), part("b", 4, "a"), part("c", 6, "b")], {"c": INFINITE, "b": 6, "a": 4}),
    # The second part is given up: the third goes on from a later checkpoint of the first.
    ([part("a"), part("b", 4, "a"), part("c", 5, "a")], {"c": INFINITE, "a": 5}),
    ([part("a", 9, "gone")], {"a": INFINITE}),
    ([part("a", 1, "a")], {"a": INFINITE}),
    ([part("a"), {"run_id": ["x"]}, "foreign", part("b", "4", "a")], {}),
]


@pytest.mark.parametrize(("parts", "expected"), LINEAGES)
def test_up_to_which_step_a_part_counts(parts, expected):
    last = parts[-1]["run_id"]
    assert left_at({"run_id": last, "parts": parts}) == expected


def test_all_lines_count_where_runs_have_no_ids():
    assert left_at({"format": 1}) is None
