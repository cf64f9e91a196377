"""What the language benchmark runs: its rules, the keys of runs, and what is refused before any."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path

import pytest
from benchmarks.language import __main__ as program
from benchmarks.language import plan, problems, training
from benchmarks.language.model import ORIGIN, known_as
from benchmarks.language.tasks import as_rows, words
from benchmarks.language.warm_start import WarmStart, warm_start_of
from benchmarks.learning.warm_start import fingerprint
from language_runs import SMALL, filled, made_plan

from trl_lambda.methods import METHODS, OPTIONS, preset_value
from trl_lambda.versions import TRAINING, installed_versions

# --- rules ---


def test_tuning_and_results_share_neither_seeds_nor_problems():
    made = made_plan()
    assert made.arms == ("grpo", "default")
    tuned, final = made.tuning(), made.final({"grpo": 1e-5, "default": 2e-5})
    assert {run.part for run in tuned} == {"validation"}
    assert {run.part for run in final} == {"held_out"}
    assert {run.seed for run in tuned}.isdisjoint(run.seed for run in final)
    trials = {arm: [r.learning_rate for r in tuned if r.arm == arm] for arm in made.arms}
    assert all(rates == [1e-5, 2e-5, 1e-5, 2e-5] for rates in trials.values())
    with pytest.raises(SystemExit, match=r"\[1\] are for tuning and for the results"):
        made_plan(tuning_seeds=(1, 7))
    assert made_plan(rates=(1e-5,)).tuning() == []


def test_the_rate_with_the_best_end_is_chosen_the_smaller_one_in_a_tie(tmp_path):
    made = made_plan()
    best = {("default", 2e-5): 0.7}
    store = filled(tmp_path, made, lambda run: [best.get((run.arm, run.learning_rate), 0.5)])
    assert plan.chosen_rates(made, store.any) == {"grpo": 1e-5, "default": 2e-5}
    del store.records[plan.key(made.run("grpo", 2e-5, 8), made)]
    assert plan.chosen_rates(made, store.any) == {"default": 2e-5}  # a trial less: no choice


def test_a_run_s_key_is_of_what_its_method_means(monkeypatch):
    made = made_plan()
    run = made.run("default", 1e-5, 0)
    before = plan.key(run, made)
    moved = {"default": METHODS["branch"], "grpo": METHODS["grpo"]}
    with monkeypatch.context() as patch:
        patch.setattr("trl_lambda.methods.METHODS", {**METHODS, **moved})
        assert plan.key(run, made) != before
    longer = dataclasses.replace(made, size=dataclasses.replace(SMALL, steps=4))
    assert plan.key(run, longer) != before
    assert plan.key(run, dataclasses.replace(made, made="another start")) != before
    assert plan.key(run, dataclasses.replace(made, seeds=(0,))) == before


# --- names on disk ---


def run_of_small(**more) -> tuple[plan.Plan, training.Run]:
    """A run of the task `words` as the options of a real comparison make it."""
    folder, made = warm_start_of(ORIGIN, Path(), WarmStart())
    assert str(folder) == "warm_start-618b91c8b23583d5"
    size = training.Size(
        groups=2, completions=8, steps=16, held_out=32, samples=4, checkpoint_every=8
    )
    told = {"rates": (1e-5, 2e-5, 4e-5), "tuning_seeds": (1000,), "seeds": (0, 1, 2)}
    told |= {"task": "words", "arms": ("grpo", "branch")}
    whole = plan.Plan(start=str(folder), made=made, size=size, **told | more)
    return whole, whole.run("grpo", 1e-5, 1000)


def test_what_older_runs_are_known_by_stays(tmp_path, monkeypatch):
    """Runs of hours are found again by these names: without `--data` they never change."""
    made, run = run_of_small()
    credit = {option: preset_value("grpo", option) for option in OPTIONS} | {"method": "grpo"}
    assert plan.key(run, made) == fingerprint(
        {
            "run": dataclasses.asdict(run),
            "credit": credit,
            "size": dataclasses.asdict(made.size),
            "start": made.made,
            "tokens": 80,
            "versions": installed_versions(*TRAINING),
        }
    )
    monkeypatch.setattr(plan, "measure_start", lambda *given: {"accuracy": 0.25})
    for part in ("validation", "held_out"):
        plan.started(made, part, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "start-validation-943367fefae11bba.json",
        "start-held_out-a1b5f23d470358d0.json",
    }


def gsm8k_folder(folder: Path, extra: int = 0) -> str:
    """A stand-in for GSM8K; `extra` makes its answers others."""
    folder.mkdir(parents=True)
    for split, count in (("train", 20), ("test", 4)):
        rows = [
            {"question": f"{split}: {i}+1=", "answer": f"#### {i + 1 + extra}"}
            for i in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    return str(folder)


def words_folder(folder: Path, first: int = 0) -> str:
    """The tasks of a pack, without the first problems of each part."""
    folder.mkdir(parents=True)
    for part in ("held_out", "validation", "training"):
        rows = as_rows(problems.part(part))[first:]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.mark.parametrize(
    ("task", "write"), [("gsm8k", gsm8k_folder), ("words", words_folder)], ids=["gsm8k", "words"]
)
def test_runs_of_other_problems_are_other_runs(tmp_path, monkeypatch, task, write):
    folders = [
        write(tmp_path / "a"),
        write(tmp_path / "b", 1),
        write(tmp_path / "elsewhere" / "copy_of_a"),
    ]
    plans = [run_of_small(task=task, data=folder)[0] for folder in folders]
    for run in (plans[0].run("grpo", 1e-5, 1000), plans[0].run("grpo", 1e-5, 0)):
        keys = [plan.key(run, made) for made in plans]
        assert keys[0] == keys[2] != keys[1]
        assert keys[0] != plan.key(run, run_of_small(task="words")[0])
        again = pickle.loads(pickle.dumps(plans[0]))  # as a worker gets it
        assert plan.key(run, again) == keys[0]
    monkeypatch.setattr(plan, "measure_start", lambda task, size, start, part: task.part(part)[0])
    measured = [plan.started(made, "held_out", tmp_path / "starts") for made in plans]
    assert measured[0] == measured[2] != measured[1]


def test_a_local_model_is_known_by_what_is_in_it(tmp_path):
    folders = [tmp_path / "a" / "model", tmp_path / "b" / "model", tmp_path / "c" / "model"]
    for folder, weights in zip(folders, (b"old", b"new", b"old"), strict=True):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "config.json").write_text("{}")
    names = [known_as(str(folder)) for folder in folders]
    assert names[0] == names[2] != names[1]
    assert re.fullmatch("model, [0-9a-f]{16}", names[0])
    (folders[0] / "tokenizer.json").write_text("{}")
    assert known_as(str(folders[0])) != names[0]
    assert known_as("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.mark.parametrize("task", ["words", "gsm8k"])
def test_runs_of_another_model_at_the_same_place_are_other_runs(tmp_path, monkeypatch, task):
    monkeypatch.setattr("benchmarks.language.warm_start.warm_start", lambda *given: None)
    (tmp_path / "model").mkdir()
    args = program.parse_arguments(
        ["--task", task, "--model", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out")]
    )
    starts = []
    for weights in (b"old", b"new", b"old"):
        (tmp_path / "model" / "model.safetensors").write_bytes(weights)
        starts.append(program.find_start(args))
    assert starts[0] == starts[2]
    assert starts[0][1] != starts[1][1]
    assert (starts[0][0] != starts[1][0]) == (task == "words")  # the folder of the warm start


# --- what is refused before any run ---


@pytest.mark.parametrize(("groups", "micro_batch"), [(3, 16), (2, 5)])
def test_a_micro_batch_that_leaves_completions_over_is_refused(groups, micro_batch):
    size = training.Size(groups=groups, completions=8, micro_batch=micro_batch)
    with pytest.raises(
        SystemExit, match=rf"{groups} × 8 = {groups * 8} completions .* in parts of {micro_batch}"
    ):
        made_plan(size=size)


@pytest.mark.parametrize(
    ("groups", "micro_batch", "parts"), [(3, 8, 3), (3, 12, 2), (3, 24, 1), (3, 100, 1), (4, 16, 2)]
)
def test_a_step_trains_all_its_completions(tmp_path, groups, micro_batch, parts):
    size = training.Size(groups=groups, completions=8, micro_batch=micro_batch)
    made = made_plan(size=size)
    told = training.config(made.run("grpo", 1e-5, 0), made.task_itself(), size, tmp_path)
    assert told["gradient_accumulation_steps"] == parts
    assert told["per_device_train_batch_size"] * parts == groups * 8


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": (0, 1, 0, 1, 2)}, r"--seeds: 0, 1 more than once"),
        ({"tuning_seeds": (7, 7)}, r"--tuning_seeds: 7 more than once"),
        ({"rates": (1e-5, 2e-5, 0.00001)}, r"--rates: 1e-05 more than once"),
    ],
)
def test_a_seed_or_a_rate_given_twice_is_refused(given, said):
    """One run counted twice would have an interval of no width."""
    with pytest.raises(SystemExit, match=said):
        made_plan(**given)


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("grpo + trace_style=recent + trace_lambda=5", r"trace_lambda=5: it must be a number in"),
        ("default + trace_lambda=0.9", "without a trace"),
        ("probe + step_ends=nowhere.at_all", r"step_ends='nowhere.at_all'"),
        ("grpo + trace_lambda=[", r"'trace_lambda=\[' is no YAML"),
    ],
)
def test_a_wrong_option_of_an_arm_is_an_error_and_no_score(arm, said):
    with pytest.raises(SystemExit, match=said) as refused:
        plan.ready(made_plan(arms=(arm,)))
    assert arm in str(refused.value)


def test_arms_that_can_be_built_are_ready():
    names = (*METHODS, "grpo + floor", "grpo + sets", "probe + sentences", "grpo + no floor")
    plan.ready(made_plan(arms=names))


@pytest.mark.parametrize("gone", ["held_out", "validation", "training"])
def test_a_missing_part_is_an_error_and_no_score(tmp_path, gone):
    folder = Path(words_folder(tmp_path / "tasks"))
    (folder / f"{gone}.jsonl").unlink()
    with pytest.raises(SystemExit, match=rf"--data .*: {gone}.jsonl is not there"):
        plan.ready(made_plan(data=str(folder)))
    one_rate = made_plan(data=str(folder), rates=(1e-5,))
    if gone == "validation":
        plan.ready(one_rate)
    else:
        with pytest.raises(SystemExit, match=gone):
            plan.ready(one_rate)


@pytest.mark.parametrize("gone", ["train", "test"])
def test_a_missing_split_is_an_error_and_no_score(tmp_path, gone):
    folder = Path(gsm8k_folder(tmp_path / "gsm8k"))
    (folder / f"{gone}.jsonl").unlink()
    with pytest.raises(SystemExit, match=rf"--data .*: {gone}.jsonl is not there"):
        plan.ready(made_plan(task="gsm8k", data=str(folder)))


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"prompt": "How many?", "answers": ["1"]}',
        '{"prompt": [{"role": "user", "content": "How many?"}], "answers": 1}',
        '{"prompt": [{"role": "user", "content": "How many?"}], "answers": "12"}',
        '{"question": "How many?", "answer": "1"}',
    ],
)
def test_a_line_that_is_no_problem_is_named(tmp_path, line):
    folder = Path(words_folder(tmp_path / "tasks"))
    text = (folder / "training.jsonl").read_text()
    (folder / "training.jsonl").write_text(text + line + "\n")
    with pytest.raises(SystemExit, match=r"training.jsonl, line 1601: .* expected a line"):
        plan.ready(made_plan(data=str(folder)))


def test_a_line_ends_at_a_newline_alone(tmp_path):
    """JSON may hold other ends of lines as they are."""
    row = {"prompt": [{"role": "user", "content": "a\u2028b\x85c"}], "answers": ["1"]}
    text = json.dumps(row, ensure_ascii=False) + "\n"
    (tmp_path / "held_out.jsonl").write_text(text, encoding="utf-8")
    assert words("held_out", tmp_path) == [row]


def test_too_few_problems_are_refused_before_the_first_run(tmp_path):
    size = dataclasses.replace(SMALL, held_out=257)
    with pytest.raises(SystemExit, match=r"257 problems of held_out \(--held_out\)"):
        plan.ready(made_plan(size=size))
    size = dataclasses.replace(SMALL, groups=19)
    data = gsm8k_folder(tmp_path / "gsm8k")
    with pytest.raises(SystemExit, match=r"19 problems of training \(--groups\) .* has 18"):
        plan.ready(made_plan(task="gsm8k", data=data, size=size))


def test_faults_are_found_before_the_start_is_made(tmp_path, monkeypatch):
    began = []
    monkeypatch.setattr(program, "find_start", lambda args: began.append(args) or ("x", "made"))
    given = ["--output_dir", str(tmp_path), "--held_out", "300"]
    with pytest.raises(SystemExit, match="300 problems"):
        program.make_plan(program.parse_arguments(given))
    assert began == []
    plain = program.make_plan(program.parse_arguments(given[:2]))
    assert (plain.start, plain.made, len(began)) == ("x", "made", 1)
