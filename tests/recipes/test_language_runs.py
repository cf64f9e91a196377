"""The language benchmark: its problems, its arms, its measurements, and runs that go on."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks.language import arms, gradients, problems, training
from benchmarks.language.sampling import measure, sample
from benchmarks.language.tasks import gsm8k, task
from benchmarks.learning.table import between_marks
from language_runs import SMALL

from trl_lambda import LambdaGRPOConfig
from trl_lambda.methods import METHODS

LANGUAGE = Path(__file__).parents[2] / "recipes" / "benchmarks" / "language"


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


def by_length(completions, **columns) -> list[float]:
    """A reward that a model of noise gets unevenly."""
    return [float(len(one[0]["content"])) for one in completions]


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_one_that_was_not(chat_model, tmp_path, monkeypatch):
    described, run = words()
    monkeypatch.setattr(training, "math_reward", by_length)
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
    assert training.last_checkpoint(tmp_path / "parts").name == "checkpoint-2"
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
def test_a_run_that_was_killed_after_its_last_checkpoint_is_not_trained_on(
    chat_model, tmp_path, monkeypatch
):
    described, run = words()
    monkeypatch.setattr(training, "math_reward", by_length)
    told = (run, described, SMALL, str(chat_model), START)
    whole = training.train(*told, tmp_path / "whole", tmp_path / "kept")

    real = training.LambdaGRPOTrainer.train

    def trained_and_killed(trainer, **options):
        real(trainer, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.LambdaGRPOTrainer, "train", trained_and_killed)
        with pytest.raises(KeyboardInterrupt):
            training.train(*told, tmp_path / "parts", tmp_path / "kept_too")
    assert training.last_checkpoint(tmp_path / "parts").name == "checkpoint-3"
    parts = training.train(*told, tmp_path / "parts", tmp_path / "kept_too")
    assert not list(tmp_path.glob("parts*"))
    assert parts["log"] == whole["log"]
    assert len(parts["log"]["reward"]) == SMALL.steps
    assert parts["generated_tokens"] == whole["generated_tokens"]
    assert [point["step"] for point in parts["curve"]] == [0, 3]
    kept = [loaded(tmp_path / name)[0].state_dict() for name in ("kept", "kept_too")]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


@pytest.mark.slow
def test_a_kill_between_a_checkpoint_and_its_curve_loses_only_the_steps_since_the_one_before(
    chat_model, tmp_path, monkeypatch
):
    described, run = words()
    real = training.Curve.on_save

    def killed(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt
        real(self, args, state, control, **kwargs)

    monkeypatch.setattr(training.Curve, "on_save", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train(run, described, SMALL, str(chat_model), START, tmp_path / "parts")
    assert training.last_checkpoint(tmp_path / "parts").name == "checkpoint-2"


def test_half_a_checkpoint_is_never_left_where_one_is_looked_for(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    (folder / "checkpoint-3").mkdir(parents=True)
    (folder / "curve-3.json").write_text("{}")
    seen = []
    monkeypatch.setattr(training.shutil, "rmtree", lambda path, **how: seen.append(path))
    training.remove(folder)
    assert not folder.exists()
    assert (seen[-1] / "curve-3.json").exists()
    assert training.last_checkpoint(folder) is None


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
    # What the file has is of these groups.
    with pytest.raises(SystemExit, match=r"'size': 4.* asked for are those of .*'size': 2"):
        gradients.measure_all(str(chat_model), described, names, path, **how | {"size": 2})


def test_the_readme_s_gradients_are_those_of_the_committed_results():
    readme = LANGUAGE.parents[2] / "trl_lambda" / "README.md"
    data = json.loads((LANGUAGE.parent / "results" / "gradient_scale.json").read_text())
    assert between_marks(readme, mark=gradients.MARK) == gradients.markdown(data)
    # What was measured as `default` is spelt out: that name has moved since.
    assert all(gradients.TRACED in batch["arms"] for batch in data["batches"])
    assert not any("default" in name for batch in data["batches"] for name in batch["arms"])
