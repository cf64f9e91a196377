"""The language benchmark: its problems, its arms, the rules, the report, and runs that go on."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks.language import arms, figure, gradients, plan, problems, report, training
from benchmarks.language.sampling import measure, sample
from benchmarks.language.tasks import gsm8k, task
from benchmarks.learning.runs import Store
from benchmarks.learning.table import between_marks

from trl_lambda import LambdaGRPOConfig
from trl_lambda.methods import METHODS

LANGUAGE = Path(__file__).parents[2] / "recipes" / "benchmarks" / "language"
RESULTS = LANGUAGE.parent / "results" / "language.json"
SMALL = training.Size(
    groups=1, completions=2, micro_batch=2, steps=3, measurements=1, held_out=2, samples=2,
    measured_at_once=3, checkpoint_every=1,
)  # fmt: skip


# --- problems ---


def numbers_of(problem: problems.Problem) -> tuple[str, ...]:
    """Its story and numbers, without names and things."""
    words = problem.question
    for name in (*problems.NAMES, *problems.THINGS):
        words = words.replace(name, "_")
    return (words,)


def test_no_story_with_the_same_numbers_is_in_two_parts():
    parts = {name: [numbers_of(p) for p in problems.part(name)] for name in problems.PARTS}
    assert {name: len(found) for name, found in parts.items()} == problems.PARTS
    every = [one for found in parts.values() for one in found]
    assert len(set(every)) == len(every)
    with pytest.raises(ValueError, match="'test', expected one of held_out"):
        problems.part("test")


def test_every_step_of_a_solution_is_right_and_the_last_one_is_the_answer():
    for problem in problems.part("training")[:600]:
        steps = re.findall(r"([\d+*\- ]+) = (\d+)", problem.solution)
        assert len(steps) == 3
        assert all(eval(left) == int(right) for left, right in steps), problem
        assert problem.solution.endswith(f"\n#### {problem.answer}")
        assert steps[-1][1] == problem.answer
        given = set(re.findall(r"\d+", problem.question))
        made = {right for _, right in steps}
        assert set(re.findall(r"\d+", problem.solution)) - made <= given


def test_gsm8k_s_parts_have_nothing_in_common(tmp_path):
    stand_in(tmp_path)
    found = {part: gsm8k(part, tmp_path) for part in ("held_out", "validation", "training")}
    asked = {part: {row["prompt"][-1]["content"] for row in rows} for part, rows in found.items()}
    assert {part: len(rows) for part, rows in asked.items()} == {
        "held_out": 4, "validation": 2, "training": 18,
    }  # fmt: skip
    assert len(set.union(*asked.values())) == 24
    assert "####" in found["training"][0]["prompt"][0]["content"]


# --- arms ---


def test_every_method_of_the_package_is_an_arm_by_its_name(monkeypatch):
    assert all(arms.settings(name) == {"method": name} for name in METHODS)
    monkeypatch.setattr(arms, "METHODS", {**METHODS, "brand_new": METHODS["grpo"]})
    assert arms.settings("brand_new + floor") == {"method": "brand_new", "advantage_floor": -0.1}


def test_an_arm_changes_single_options():
    told = arms.settings(
        "grpo + trace_style=both + trace_lambda=0.9 + normalize_trace=false + no floor"
    )
    config = LambdaGRPOConfig("unused", use_cpu=True, bf16=False, **told)
    rule = config.credit_rule
    assert (rule.decay, rule.normalize_trace, rule.advantage_floor) == (0.9, False, None)


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("ppo", "no method 'ppo'; there are default, grpo,"),
        ("grpo + roof", "'roof' is neither one of floor,"),
        ("grpo + learning_rate=1", "'learning_rate=1' is neither"),
    ],
)
def test_an_unknown_arm_is_refused(arm, said):
    with pytest.raises(SystemExit, match=said):
        arms.settings(arm)


# --- rules ---


def made_plan(**more) -> plan.Plan:
    given = {
        "arms": ("default",),
        "rates": (1e-5, 2e-5),
        "tuning_seeds": (7, 8),
        "seeds": (0, 1, 2),
    }
    return plan.checked(plan.Plan("words", "folder", "made", SMALL, **given | more))


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


def record(made: plan.Plan, run: training.Run, *ends: float, tokens: int = 100, **more) -> dict:
    """A run whose accuracy goes from .3 to `ends`; pass@k is .2 above it."""
    points = [
        {"step": i, "generated_tokens": tokens * i, "seconds": 2.0 * i, "accuracy": value,
         "pass_at_k": value + 0.2, "correct": [1, 0], "length": 50.0, "format": 1.0, "entropy": 0.3}
        for i, value in enumerate((0.3, *ends))
    ]  # fmt: skip
    log = {name: [0.0] for name in training.LOGGED}
    told = {"curve": points, "log": log, "seconds": 2.0, "generated_tokens": tokens * len(ends)}
    return {"key": plan.key(run, made), **vars(run), **told, **more}


def filled(tmp_path, made: plan.Plan, height) -> Store:
    """All runs of the plan, each with the accuracies that `height(run)` gives."""
    store = Store(tmp_path / "runs.jsonl", plan.keys(made))
    for run in made.tuning():
        store.add(record(made, run, *height(run)))
    for run in made.final(plan.chosen_rates(made, store.any)):
        store.add(record(made, run, *height(run)))
    return store


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


VERDICTS = {
    "better": lambda seed: [0.62 + 0.001 * seed],
    "level": lambda seed: [0.5 + 0.001 * seed],
    "not shown": lambda seed: [0.5 + 0.1 * (seed - 1)],
    "worse": lambda seed: [0.4],
    "faster": lambda seed: [0.5, 0.5],
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_is_the_rule_s(tmp_path, case):
    made = made_plan(rates=(1e-5,))

    def height(run):
        if run.arm == "default":
            return VERDICTS[case](run.seed)
        return [0.4, 0.5] if case == "faster" else [0.5]

    entry = report.language(made, filled(tmp_path, made, height))["arms"]["default"]
    expected = {"worse": "not shown", "faster": "better"}.get(case, case)
    assert entry["verdict"] == expected
    if case == "better":
        assert entry["accuracy_difference"][0] == pytest.approx(0.121)
        # From .3 to .621 in 100 tokens: .5 is met after 200/321 of them.
        assert entry["tokens_to_reference"] == pytest.approx(0.2 / 0.321, abs=2e-3)
    if case == "faster":
        assert entry["tokens_to_reference"] == 0.5


# --- the report ---


def test_the_report_is_made_of_the_json_alone(tmp_path):
    made = made_plan()
    store = filled(tmp_path, made, lambda run: [0.5, 0.6 + 0.01 * run.seed])
    crashed = made.run("default", 1e-5, 2)
    store.add({"key": plan.key(crashed, made), **vars(crashed), "error": "a\nOSError: full"})
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.MARK}\nold\n{report.MARK}\nafter\n")
    written = report.write_report(made, store, results=tmp_path / "results", readme=readme)
    names = ["language.json", "language.csv", "language.png", "README.md"]
    assert [path.name for path in written] == names
    data = json.loads(written[0].read_text())
    assert between_marks(readme, mark=report.MARK) == report.markdown(data)
    assert "| `default` | 1e-05 ↓ | 0.403 |" in readme.read_text()  # a third of (.6 + .61 + 0)
    assert data["runs"]["default | 2"] == {"error": "OSError: full"}
    assert data["failed_runs"] == 1
    rows = list(csv.DictReader(io.StringIO(written[1].read_text())))
    assert len(rows) == 3 * 5  # three measurements of the five runs that ended
    assert {row["arm"] for row in rows} == {"grpo", "default"}
    assert rows[2]["accuracy"] == "0.6"


def test_the_picture_has_the_mean_of_each_arm_s_runs(tmp_path, monkeypatch):
    made = made_plan()
    store = filled(tmp_path, made, lambda run: [0.5, 0.6 + 0.01 * run.seed])
    crashed = made.run("default", 1e-5, 2)
    store.add({"key": plan.key(crashed, made), **vars(crashed), "error": "a\nOSError: full"})
    drawn = []
    monkeypatch.setattr(
        figure, "draw_mean", lambda _, at, values, label, *style: drawn.append((at, values, label))
    )
    monkeypatch.setattr(figure, "save", lambda _, panels, title, path: path)
    figure.plot(report.language(made, store), tmp_path / "unused.png")
    assert len(drawn) == 8  # two arms in four panels
    at, values, label = drawn[0]
    assert label == "grpo"
    assert list(at) == [0, 1, 2]
    np.testing.assert_allclose(values, [[0.3, 0.5, 0.6], [0.3, 0.5, 0.61], [0.3, 0.5, 0.62]])
    at, values, label = drawn[-1]  # pass@k against tokens
    assert label == "default (1 failed)"
    assert list(at) == [0, 100, 200]
    np.testing.assert_allclose(values, [[0.5, 0.7, 0.8], [0.5, 0.7, 0.81]])


def test_without_matplotlib_the_report_has_no_picture_and_says_so(tmp_path, monkeypatch, capsys):
    made = made_plan()
    store = filled(tmp_path, made, lambda run: [0.5])
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    written = report.write_report(made, store, results=tmp_path, readme=None)
    assert [path.name for path in written] == ["language.json", "language.csv"]
    assert "matplotlib is not installed" in capsys.readouterr().out


def test_with_one_seed_or_one_rate_the_table_says_what_it_cannot_say(tmp_path):
    made = made_plan(rates=(1e-5,), seeds=(0,))
    data = report.language(made, filled(tmp_path, made, lambda run: [0.9]))
    text = report.markdown(json.loads(json.dumps(data)))
    assert "**was not tuned**" in text
    assert "no arm can be called better" in text
    assert data["arms"]["default"]["verdict"] is None


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(SystemExit, match="nothing to report"):
        report.language(made_plan(), Store(tmp_path / "none.jsonl", plan.keys(made_plan())))


def test_the_readme_has_the_table_of_the_committed_results():
    readme = LANGUAGE / "README.md"
    committed, marked = RESULTS.exists(), report.MARK in readme.read_text(encoding="utf-8")
    assert committed == marked, "language.json and the README's table belong together"
    if committed:
        data = json.loads(RESULTS.read_text(encoding="utf-8"))
        assert between_marks(readme, mark=report.MARK) == report.markdown(data)


# --- runs ---


def loaded(folder: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def stand_in(folder: Path) -> None:
    for split, count in (("train", 20), ("test", 4)):
        rows = [
            {"question": f"{split}: {i}+1=", "answer": f"It is {i + 1}.\n#### {i + 1}"}
            for i in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)


def test_prompts_of_uneven_length_are_padded_before_them(chat_model, monkeypatch):
    """With pads behind a prompt the model would go on after the pads."""
    model, tokenizer = loaded(chat_model)
    tokenizer.padding_side = "right"
    chats = [[{"role": "user", "content": text}] for text in ("1", "2+3=" * 9)]

    def greedy(probabilities, *args, **options):
        return probabilities.argmax(-1, keepdim=True)

    monkeypatch.setattr(torch, "multinomial", greedy)
    together = [ids for ids, _ in sample(model, tokenizer, chats, 12)]
    alone = [sample(model, tokenizer, [chat], 12)[0][0] for chat in chats]
    assert together == alone


def test_the_settings_that_a_model_brings_do_not_change_its_samples(chat_model):
    """Qwen2.5's instruct models bring top_p and a repetition penalty; training has neither."""
    model, tokenizer = loaded(chat_model)
    chats = [[{"role": "user", "content": "1+2="}]] * 8

    def drawn():
        torch.manual_seed(0)
        return sample(model, tokenizer, chats, 12)

    plain = drawn()
    model.generation_config.update(top_p=0.1, repetition_penalty=5.0, no_repeat_ngram_size=1)
    assert drawn() == plain
    assert model.generation_config.top_p == 0.1


def test_a_measurement_counts_what_was_sampled(monkeypatch):
    texts = ["#### 5", "#### 6", "no", "#### 7"]
    drawn = iter(range(4))

    def scripted(model, tokenizer, prompts, tokens):
        ids = [[i] * (i + 1) for _, i in zip(prompts, drawn, strict=False)]
        return [(one, [0.5] * len(one)) for one in ids]

    monkeypatch.setattr("benchmarks.language.sampling.sample", scripted)
    tokenizer = SimpleNamespace(decode=lambda ids, **options: texts[ids[0]])
    rows = [{"prompt": None, "answers": ["5"]}, {"prompt": None, "answers": ["7"]}]
    model, state = torch.nn.Linear(1, 1), torch.random.get_rng_state()
    found = measure(model, tokenizer, rows, k=2, tokens=9, batch=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.correct == (1, 1)
    assert (found.accuracy, found.pass_at_k, found.format, found.entropy) == (0.5, 1.0, 0.75, 0.5)
    assert found.length == (1 + 2 + 3 + 4) / 4


def words(run_part: str = "held_out"):
    return dataclasses.replace(task("words"), tokens=8), training.Run(
        "words", "default", 1e-3, 3, run_part
    )


START = {
    "accuracy": 0.0,
    "pass_at_k": 0.0,
    "correct": [0],
    "length": 1.0,
    "format": 0.0,
    "entropy": 1.0,
}


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_one_that_was_not(chat_model, tmp_path, monkeypatch):
    described, run = words()
    varied = lambda completions, **columns: [float(len(c[0]["content"])) for c in completions]  # noqa: E731
    monkeypatch.setattr(training, "math_reward", varied)
    kept = [tmp_path / "kept", tmp_path / "kept_too"]
    told = (run, described, SMALL, str(chat_model), START)
    whole = training.train(*told, tmp_path / "whole", kept[0])
    assert not (tmp_path / "whole").exists()

    class Killed(training.Said):
        def on_log(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "Said", Killed)
        with pytest.raises(KeyboardInterrupt):
            training.train(*told, tmp_path / "parts", kept[1])
    assert not kept[1].exists()
    assert training.last_checkpoint(tmp_path / "parts").endswith("checkpoint-2")
    parts = training.train(*told, tmp_path / "parts", kept[1])
    before, *after = (loaded(path)[0].state_dict() for path in (chat_model, *kept))
    assert all(torch.equal(after[0][name], after[1][name]) for name in before)
    assert any(not torch.equal(after[0][name], before[name]) for name in before)
    assert parts["log"] == whole["log"]
    assert len(set(whole["log"]["reward"])) > 1
    assert parts["generated_tokens"] == whole["generated_tokens"]
    without_time = [
        [{k: v for k, v in p.items() if k != "seconds"} for p in run["curve"]]
        for run in (parts, whole)
    ]
    assert without_time[0] == without_time[1]
    assert [point["step"] for point in whole["curve"]] == [0, 3]


@pytest.mark.slow
def test_gsm8k_runs_two_steps_with_a_stand_in(run_recipe, chat_model, tmp_path):
    stand_in(tmp_path)
    command = [
        *("--task", "gsm8k", "--model", str(chat_model), "--data", str(tmp_path)),
        *("--size", "smoke", "--arms", "branch", "--rates", "1e-3", "--seeds", "0"),
        "--keep_models",
    ]
    run_recipe("benchmarks/language", *command, seconds=300)
    data = json.loads((tmp_path / "language" / "language.json").read_text())
    assert list(data["arms"]) == ["grpo", "branch"]
    lengths = {
        name: 2 * sum(run["log"]["completions/mean_length"]) for name, run in data["runs"].items()
    }
    tokens = {name: run["curve"][-1]["generated_tokens"] for name, run in data["runs"].items()}
    assert tokens["grpo | 0"] == pytest.approx(lengths["grpo | 0"])
    assert 0 < tokens["branch | 0"] < lengths["branch | 0"]  # what is shared is generated once
    assert all(len(run["log"]["reward"]) == 2 for run in data["runs"].values())
    kept = sorted((tmp_path / "language" / "models").iterdir())
    assert [path.name.split("-")[0] for path in kept] == ["branch", "grpo"]
    assert all((path / "tokenizer.json").exists() for path in kept)
    lines = (tmp_path / "language" / "runs.jsonl").read_text()
    run_recipe("benchmarks/language", *command, seconds=300)  # again: nothing is left to do
    assert (tmp_path / "language" / "runs.jsonl").read_text() == lines


# --- gradients ---


def test_gains_are_column_sums_and_those_that_entropy_weighs():
    entropies = [[0.0, 0.0, 3.0], [1.0, 1.0]]
    found = gradients.gains("grpo + trace_style=recent + trace_lambda=0.5", entropies)
    # Rows of W, divided by their sums: (1), (1/3, 2/3), (1/7, 2/7, 4/7).
    first, last = 1 + 1 / 3 + 1 / 7, 4 / 7
    assert found["first"] == pytest.approx((first + 1 + 1 / 3) / 2)
    assert found["last"] == pytest.approx((last + 2 / 3) / 2)
    assert found["uncertain"] == pytest.approx((3 * last + (1 + 1 / 3) + 2 / 3) / 5)
    assert gradients.gains("grpo", entropies) == {"first": 1.0, "last": 1.0, "uncertain": 1.0}


@pytest.mark.slow
def test_gradients_of_arms_on_one_batch(chat_model, tmp_path, monkeypatch):
    described, _ = words()

    class Verdict:
        def __init__(self, correct: bool):
            self.correct = correct

    monkeypatch.setattr(
        gradients,
        "grade_many",
        lambda texts, golds: [Verdict(i % 3 == 0) for i in range(len(texts))],
    )
    path = tmp_path / "scale.json"
    traced = "grpo + trace_style=recent + floor"
    names = ["grpo + trace_style=recent + trace_lambda=0", traced]
    how = {"batches": 2, "groups": 2, "size": 4}
    made = gradients.measure_all(str(chat_model), described, names, path, **how)
    first, second = made["batches"]
    assert [row["prompt"] for row in first["rows"]] != [row["prompt"] for row in second["rows"]]
    data = second
    # A trace that decays at once is none: the same gradient.
    same = data["arms"]["grpo + trace_style=recent + trace_lambda=0"]
    assert same["ratio"] == pytest.approx(1.0, rel=1e-5)
    assert same["cosine"] == pytest.approx(1.0, rel=1e-5)
    assert data["arms"][traced]["cosine"] < 0.999
    assert json.loads(path.read_text())["batches"][1]["arms"].keys() == data["arms"].keys()
    assert all(f"| `{name}` | 1.00, 1.00 |" in gradients.markdown(made) for name in names[:1])
    # Again: nothing is measured a second time.
    monkeypatch.setattr(gradients, "measured", None)
    assert gradients.measure_all(str(chat_model), described, names, path, **how) == made


def test_the_readme_s_gradients_are_those_of_the_committed_results():
    readme = LANGUAGE.parents[2] / "trl_lambda" / "README.md"
    data = json.loads((LANGUAGE.parent / "results" / "gradient_scale.json").read_text())
    assert between_marks(readme, mark=gradients.MARK) == gradients.markdown(data)
    # What was measured as `default` is spelt out: that name has moved since.
    assert all(gradients.TRACED in batch["arms"] for batch in data["batches"])
    assert not any("default" in name for batch in data["batches"] for name in batch["arms"])
