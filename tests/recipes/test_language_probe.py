"""What the answer probe is asked on a language model, and what its answers are worth."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from benchmarks.language import arms, probe_worth, probing, problems, training, warm_start
from benchmarks.language.model import CHAT_TEMPLATE, END
from benchmarks.language.questions import (
    ANSWER_PROBE,
    QUESTIONS,
    Questions,
    reference_steps,
    result_span,
)
from benchmarks.language.sentences import sentence_ends
from benchmarks.language.tasks import as_rows, task
from benchmarks.learning.table import between_marks
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from trl_lambda import LambdaGRPOConfig
from trl_lambda.methods import BOXED_PROBE
from trl_lambda.probe.worth import auc_by_segment

LANGUAGE = Path(__file__).parents[2] / "recipes" / "benchmarks" / "language"
RESULTS = LANGUAGE.parent / "results" / probe_worth.NAME
SOLUTION = (
    "There are 2 * 3 = 6 hens. That makes 6 + 2 = 8. After it 8 - 1 - 2 = 5 are left.\n#### 5"
)
SMALL = probing.Asking(problems=5, samples=2, problems_at_once=2, rows_at_once=3)


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory) -> Path:
    """A made-up chat model that reads any text, a token for each byte."""
    folder = tmp_path_factory.mktemp("bytes")
    names = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, chat_template=CHAT_TEMPLATE
    )
    tiny.model(vocab_size=len(names), max_position_embeddings=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def policy(byte_model):
    model = AutoModelForCausalLM.from_pretrained(byte_model, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(byte_model)


# --- steps and questions ---


@pytest.mark.parametrize(
    ("texts", "ends"),
    [
        (["It", " is", " 1", ".", "5", ".", " So", " 2", ".\n", "####", " 2"], [5, 8]),
        (["a", ". ", "b"], [1]),
        (["no", " end"], []),
        ([], []),
    ],
)
def test_a_sentence_ends_at_its_full_stop_and_not_at_a_decimal_point(texts, ends):
    assert sentence_ends(list(range(len(texts))), texts) == ends


def test_steps_of_a_reference_are_its_sentences_and_each_ends_with_the_next_result():
    for problem in problems.part("held_out"):
        steps = reference_steps(problem.solution, "sentences")
        assert "".join(steps) == problem.solution
        results = [step[slice(*result_span(step))] for step in steps]
        expected = re.findall(r"= (\d+)", problem.solution)
        assert results == [*expected, problem.answer]
    assert reference_steps("a = 1\nb = 2\n#### 3", "newline") == ["a = 1\n", "b = 2\n", "#### 3"]
    assert result_span("no number") is None
    assert result_span("It is 1 + 1 = two.") is None


@pytest.mark.parametrize("k", [0, 1, 3, 4])
def test_what_is_asked_after_k_steps(policy, k):
    tokenizer = policy[1]
    steps = reference_steps(SOLUTION, "sentences")
    chunks = Questions(tokenizer).after(steps, "5", k)
    asked = {q: (c, c.parts[q]) for c in chunks for q in c.parts}
    texts = {q: tokenizer.decode([c.ids[i] for i in part]) for q, (c, part) in asked.items()}
    left = {}
    if k < len(steps):
        left = {
            "next step": steps[k],
            "result": ("6", "8", "5", "5")[k],
            "reference": "".join(steps[k:]),
        }
    assert texts == {"answer": "5", "boxed": "5"} | left
    for question, probe in (("answer", ANSWER_PROBE), ("boxed", BOXED_PROBE)):
        assert tokenizer.decode(asked[question][0].ids) == probe + "5"
    assert set(texts) <= set(QUESTIONS)


def test_answers_are_those_of_each_prefix_alone(policy):
    """A naive loop in float64: one forward pass for each prefix and question."""
    model, tokenizer = policy
    texts = ["It is 6. So 8.\n#### 5", "6", "One. Two. Three. Four. Five."]
    completions = [tokenizer(text)["input_ids"] for text in texts]
    prompts = [[{"role": "user", "content": q}] for q in ("1+1", "22+3=?", "4")]
    steps = reference_steps(SOLUTION, "sentences")
    found = probing.answers(
        model, tokenizer, "sentences", prompts, completions, [(steps, "5")] * 3, SMALL
    )
    assert [len(own["answer"]) for own in found] == [3, 1, 5]
    exact = AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float64).eval()
    cuts = [[0, 8, 14], [0], [0, 4, 9, 16, 22]]
    for own, prompt, ids, starts in zip(found, prompts, completions, cuts, strict=True):
        begin = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
        for k, start in enumerate(starts):
            for chunk in Questions(tokenizer).after(steps, "5", k):
                whole = torch.tensor([begin + ids[:start] + chunk.ids])
                with torch.no_grad():
                    log_probs = exact(whole).logits[0].log_softmax(-1)
                first = len(begin) + start
                for question, part in chunk.parts.items():
                    expected = np.mean([log_probs[first + i - 1, chunk.ids[i]] for i in part])
                    assert own[question][k] == pytest.approx(expected, abs=1e-4)
    assert found[2]["next step"][4] is None  # the reference has four steps


# --- what it is worth ---


def rows_of(values, right, groups) -> list[dict]:
    return [
        {"group": g, "right": r, "tokens": 4, "entropy": 2.0, "values": {"answer": v}}
        for v, r, g in zip(values, right, groups, strict=True)
    ]


PARTS = (lambda row: row["values"]["answer"][1], lambda row: row["right"], lambda row: row["group"])


def made_rows(strength: float, seed: int, groups: int = 40, size: int = 4) -> list[dict]:
    """A value before two steps: nothing at first, then one that goes up with the outcome."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(size=groups).repeat(size)
    right = rng.random(groups * size) < 1 / (1 + np.exp(-ease))
    later = rng.normal(size=groups * size) + strength * right
    values = [[float(a), float(b)] for a, b in zip(ease, later, strict=True)]
    return rows_of(values, right.tolist(), np.arange(groups).repeat(size).tolist())


def test_pairs_of_groups_add_up_to_the_auc():
    rows = made_rows(0.7, seed=1)
    values = torch.tensor([row["values"]["answer"] for row in rows]).double()
    values[::7, 1] = torch.nan
    right = torch.tensor([float(row["right"]) for row in rows])
    groups = torch.tensor([row["group"] for row in rows])
    for k, one in enumerate(auc_by_segment(values, right, groups)):
        wins, pairs = probe_worth.pairs_of_groups(values[:, k], right, groups)
        assert wins.sum() / pairs.sum() == pytest.approx(one.auc)
        assert np.trace(wins) / np.trace(pairs) == pytest.approx(one.auc_within)
        assert np.trace(pairs) == one.pairs_within


def test_what_tells_problems_apart_alone_is_worth_nothing_within_groups():
    first, later = probe_worth.worth(made_rows(1.0, seed=2))["answer"]
    assert first["auc_interval"][0] > 0.5
    assert first["auc_within"] == 0.5
    assert first["auc_within_interval"] == [0.5, 0.5]
    assert later["auc_within_interval"][0] > 0.5
    assert later["auc_within_interval"][0] < later["auc_within"] < later["auc_within_interval"][1]


def test_intervals_cover_what_is_true():
    """Within groups a value that says nothing has an AUC of 0.5: nineteen of twenty cover it."""
    covered = []
    for seed in range(100):
        rows = made_rows(0.0, seed)
        values, right, groups = (torch.tensor([pick(row) for row in rows]) for pick in PARTS)
        pairs = probe_worth.pairs_of_groups(values.double(), right.double(), groups)
        low, high = probe_worth.bootstrap(*pairs, within=True)
        covered.append(low <= 0.5 <= high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_the_interval_knows_that_completions_of_a_problem_belong_together():
    """Four copies of each completion say nothing new: the interval stays as wide."""
    rows = made_rows(0.5, seed=3)
    once = probe_worth.worth(rows)["answer"][1]
    copied = probe_worth.worth([row for row in rows for _ in range(4)])["answer"][1]
    width = once["auc_interval"][1] - once["auc_interval"][0]
    assert copied["auc"] == once["auc"]
    assert copied["auc_interval"][1] - copied["auc_interval"][0] == pytest.approx(width, abs=1e-3)


def test_without_a_pair_there_is_no_number():
    told = probe_worth.worth(rows_of([[-1.0], [-2.0]], [True, True], [0, 0]))["answer"]
    assert told[0]["auc"] is None
    assert told[0]["auc_within_interval"] == [None, None]
    assert "boxed" not in probe_worth.worth(rows_of([[-1.0]], [True], [0]))


def test_equal_prefixes_tie_whatever_a_forward_pass_makes_of_them():
    values = [[-1.00001], [-1.00002], [-1.00003], [-1.00001]]
    told = probe_worth.worth(rows_of(values, [True, False, True, False], [0, 0, 0, 0]))["answer"]
    assert told[0]["auc"] == 0.5


def test_the_table_is_made_of_the_json_alone(tmp_path):
    rows = made_rows(1.0, seed=4)
    told = probe_worth.entry("made", rows, probing.Asking(problems=40, samples=4))
    assert told["entropy"] == 0.5
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{probe_worth.MARK}\nold\n{probe_worth.MARK}\nb\n")
    probe_worth.write("first", told, results=tmp_path, readme=readme)
    probe_worth.write("second", told, results=tmp_path, readme=readme)
    data = json.loads((tmp_path / probe_worth.NAME).read_text())
    assert list(data) == ["first", "second"]
    text = probe_worth.markdown(data)
    assert between_marks(readme, mark=probe_worth.MARK) == text
    assert "**second**: 40 held-out problems, 4 samples of each" in text
    assert f"| {QUESTIONS['answer']} | within | 0.50 [0.50, 0.50] |" in text
    assert "| asked |  | nothing written | 1 step written |" in text


def test_the_readme_has_the_table_of_the_committed_results():
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    readme = LANGUAGE / "README.md"
    assert between_marks(readme, mark=probe_worth.MARK) == probe_worth.markdown(data)


# --- runs ---


def short_words():
    return dataclasses.replace(task("words"), tokens=12)


def test_a_measurement_that_was_killed_goes_on(byte_model, tmp_path, monkeypatch):
    whole = probing.ask_all(str(byte_model), short_words(), SMALL, tmp_path / "whole")
    assert [row["group"] for row in whole] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all(row["values"].keys() == QUESTIONS.keys() for row in whole)
    real, asked = probing.ask, []

    def once(*args):
        if asked:
            raise KeyboardInterrupt
        asked.append(args)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(probing, "ask", once)
        with pytest.raises(KeyboardInterrupt):
            probing.ask_all(str(byte_model), short_words(), SMALL, tmp_path / "parts")
    assert probing.ask_all(str(byte_model), short_words(), SMALL, tmp_path / "parts") == whole
    monkeypatch.setattr(probing, "loaded", None)  # again: nothing is left to ask
    assert probing.ask_all(str(byte_model), short_words(), SMALL, tmp_path / "parts") == whole


@pytest.mark.slow
def test_the_program_asks_any_model(run_recipe, byte_model, tmp_path):
    command = ("--probe", str(byte_model), "--size", "smoke", "--called", "made up")
    done = run_recipe("benchmarks/language", *command, seconds=300)
    assert "**made up**: 2 held-out problems, 2 samples of each" in done.stdout
    assert "probe_worth.json" in done.stdout
    data = json.loads((tmp_path / "language" / probe_worth.NAME).read_text())
    told = data["made up"]
    assert told["asking"] == {"problems": 2, "samples": 2}
    assert told["model"] == str(byte_model)
    assert set(told["questions"]) == set(QUESTIONS)


def given_problems(folder: Path, *, first: int, solved: bool = True) -> Path:
    """Problems as a pack has them, others than those that are made here."""
    folder.mkdir(parents=True)
    chosen = problems.part("held_out")[first : first + 5]
    rows = [
        row | ({"solution": p.solution} if solved else {})
        for row, p in zip(as_rows(chosen), chosen, strict=True)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "held_out.jsonl").write_text(text)
    return folder


def test_given_problems_are_asked_about_with_their_own_solutions(tmp_path, monkeypatch):
    given = task("words", given_problems(tmp_path / "data", first=7))
    asked = []
    monkeypatch.setattr(probing, "loaded", lambda model: (None, None))
    monkeypatch.setattr(
        probing,
        "ask",
        lambda policy, tokenizer, task, rows, solutions, chosen, how: (
            asked.extend(zip(rows[chosen], solutions[chosen], strict=True)) or []
        ),
    )
    probing.ask_all("model", given, SMALL, tmp_path)
    expected = problems.part("held_out")[7:12]
    assert asked == list(zip(as_rows(expected), (p.solution for p in expected), strict=True))
    assert given.part("held_out") == as_rows(expected)  # trainings do not get the solutions
    # Other solutions of the same problems are asked about anew.
    path = tmp_path / "data" / "held_out.jsonl"
    path.write_text(path.read_text().replace("= ", "=  "))
    probing.ask_all("model", given, SMALL, tmp_path)
    assert len(asked) == 10


def test_given_problems_without_solutions_are_refused(tmp_path):
    given = task("words", given_problems(tmp_path / "data", first=7, solved=False))
    assert len(given.part("held_out")) == 5
    with pytest.raises(SystemExit, match=r"held_out.jsonl has no solution in line 1; --probe asks"):
        probing.ask_all("no model", given, SMALL, tmp_path)


# --- the arm and the start ---


def test_the_arm_s_segments_are_sentences_and_its_probe_is_the_task_s_answer_line():
    config = LambdaGRPOConfig(
        "unused", use_cpu=True, bf16=False, **arms.settings("probe + sentences")
    )
    assert config.credit_rule.probe_text == ANSWER_PROBE
    assert config.credit_rule.step_ends == "benchmarks.language.sentences.sentence_ends"


def test_a_fifth_of_the_demonstrations_answers_at_once():
    shown = problems.part("warm_start")[:100]
    plain = warm_start.demonstrations(shown, warm_start.WarmStart())
    mixed = warm_start.demonstrations(shown, warm_start.AnswersAtOnce())
    texts = [row["completion"][0]["content"] for row in mixed]
    assert [row["completion"][0]["content"] for row in plain] == [p.solution for p in shown]
    cut = [(text, p) for text, p in zip(texts, shown, strict=True) if text != p.solution]
    assert len(cut) == 20
    steps = [text.count("=") for text, _ in cut]
    assert {k: steps.count(k) for k in steps} == {0: 7, 1: 7, 2: 6}
    for text, p in cut:
        before, _, answer = text.partition("\n#### ")
        assert answer == p.answer
        assert p.solution.startswith(before)


def test_the_log_has_what_the_probe_knew_and_none_where_it_could_not_tell():
    step = dict.fromkeys(training.LOGGED, 0.5)
    history = [
        step | {"probe/auc_last_quarter": 0.7, "other": 1.0},
        {"eval_loss": 1.0},
        step | {"probe/in_use": 0.0},
    ]
    log = training.logged(history)
    assert log["reward"] == [0.5, 0.5]
    assert log["probe/auc_last_quarter"] == [0.7, None]
    assert log["probe/in_use"] == [None, 0.0]
    assert "other" not in log
    assert not math.isnan(log["entropy"][0])
