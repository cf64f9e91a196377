"""Runs with scripted generators: truth within the interval, resuming, refusals, hostile texts."""

import json

import pytest
from scripted_generator import (
    PLAIN,
    ScriptedGenerator,
    problem_set,
    right_sums,
    right_with,
    sums,
)

from trl_lambda.evaluation import Sampling, evaluate, prepare, read_records
from trl_lambda.evaluation.generate import sample_seed
from trl_lambda.rewards import grade_many
from trl_lambda.templates import response_text


def run(problems, generator, folder, **options):
    return evaluate(problems, generator, PLAIN, folder, progress=False, **options)


def lines(folder, name="sums") -> bytes:
    return (folder / name / "records.jsonl").read_bytes()


def graded_right_against_itself(rows: list[dict]) -> list[bool]:
    golds = [row["answers"][0] for row in rows]
    return [grade.correct for grade in grade_many([rf"\boxed{{{one}}}" for one in golds], golds)]


@pytest.mark.parametrize(
    ("name", "k", "easy", "hard"),
    [
        ("aime24", 16, 0.3, 0.3),
        ("aime24", 16, 0.6, 0.0),
        ("amc23", 8, 0.9, 0.2),
        ("math500", 4, 0.7, 0.1),
    ],
)
def test_the_truth_is_within_the_interval(name, k, easy, hard, tmp_path, real_problems):
    """Problems are easy and hard in turn; a gold that no grading accepts has chance 0."""
    rows = real_problems(name)
    gradable = graded_right_against_itself(rows)
    assert sum(gradable) >= 0.97 * len(rows)
    chances = [(easy, hard)[i % 2] * right for i, right in enumerate(gradable)]
    problems = problem_set([(row["problem"], row["answers"]) for row in rows], name)
    script = right_with(
        {row["problem"]: chance for row, chance in zip(rows, chances, strict=True)},
        {row["problem"]: row["answers"][0] for row in rows},
    )
    summary = run(problems, ScriptedGenerator(script), tmp_path, k=k)
    for metric, drawn in {f"avg@{k}": 1, "pass@2": 2, "pass@4": 4, f"pass@{k}": k}.items():
        truth = sum(1 - (1 - chance) ** drawn for chance in chances) / len(chances)
        low, high = summary["metrics"][metric]["interval"]
        assert low <= truth <= high, metric
        assert summary["metrics"][metric]["value"] == pytest.approx(truth, abs=0.12)


def test_a_rerun_has_the_same_records_and_generates_nothing(tmp_path):
    first, again, other = (ScriptedGenerator(right_sums, batch_size=5) for _ in range(3))
    summary = run(sums(7), first, tmp_path / "a", k=3)
    before = lines(tmp_path / "a")
    assert run(sums(7), again, tmp_path / "a", k=3) == summary
    run(sums(7), other, tmp_path / "b", k=3)
    assert lines(tmp_path / "a") == before == lines(tmp_path / "b")
    assert (len(first.asked), len(again.asked)) == (21, 0)


def test_what_is_wrong_is_found_without_sampling(tmp_path):
    """So that it is found for the last set before the first has taken its hours."""
    generator = ScriptedGenerator(right_sums)
    run(sums(6), ScriptedGenerator(right_sums), tmp_path / "old", k=3)
    prepare(sums(6), generator, PLAIN, tmp_path / "new", k=3)
    with pytest.raises(ValueError, match="holds records of other settings: n: 3, now 4"):
        prepare(sums(6), generator, PLAIN, tmp_path / "old", k=4)
    damaged = tmp_path / "old" / "sums" / "records.jsonl"
    damaged.write_bytes(b"{}\n" + damaged.read_bytes())
    with pytest.raises(ValueError, match="line 1: no record"):
        prepare(sums(6), generator, PLAIN, tmp_path / "old", k=3)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        prepare(sums(6), generator, PLAIN, tmp_path / "file", k=3)
    assert generator.asked == []


def test_a_new_beginning_deletes_nothing_before_it_runs(tmp_path):
    run(sums(6), ScriptedGenerator(right_sums), tmp_path, k=3)
    before = lines(tmp_path)
    prepared = prepare(sums(5), ScriptedGenerator(right_sums), PLAIN, tmp_path, k=2, resume=False)
    assert lines(tmp_path) == before
    assert prepared.run(progress=False)["num_problems"] == 5


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff"])
def test_damaged_settings_are_named(damage, tmp_path):
    run(sums(2), ScriptedGenerator(right_sums), tmp_path, k=1)
    (tmp_path / "sums" / "settings.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"sums/settings\.json: no JSON"):
        run(sums(2), ScriptedGenerator(right_sums), tmp_path, k=1)


class Choosing(ScriptedGenerator):
    """Chooses its batch size as it is told to."""

    def __init__(self, suits: int):
        super().__init__(right_sums)
        self.batch_size, self.suits = None, suits

    def suitable_batch_size(self, prompts, sampling):
        assert prompts
        return self.suits


def test_a_chosen_batch_size_stays_when_a_run_goes_on(tmp_path):
    """Another machine would choose another, and the settings would seem to have changed."""
    first, again, asked_for = Choosing(4), Choosing(8), ScriptedGenerator(right_sums, batch_size=5)
    run(sums(6), first, tmp_path, k=3)
    settings = json.loads((tmp_path / "sums" / "settings.json").read_text())
    assert settings["generator"]["batch_size"] == 4
    whole = lines(tmp_path)
    (tmp_path / "sums" / "records.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:8]))
    run(sums(6), again, tmp_path, k=3)
    assert lines(tmp_path) == whole
    assert len(again.asked) == 10
    with pytest.raises(ValueError, match="batch_size: 4, now 5"):
        run(sums(6), asked_for, tmp_path, k=3)
    run(sums(6), again, tmp_path, k=3, resume=False)
    assert json.loads((tmp_path / "sums" / "settings.json").read_text())["generator"] == {
        "engine": "script",
        "batch_size": 8,
    }


def test_progress_is_in_samples_and_tokens_a_second(tmp_path, capsys, monkeypatch):
    """Of what this run sampled: 18 tokens each, a batch of 6 in two seconds."""
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr("trl_lambda.evaluation.runner.time.perf_counter", lambda: next(clock))
    generator = ScriptedGenerator(lambda prompt, stream: "x" * 18, batch_size=6)
    evaluate(sums(4), generator, PLAIN, tmp_path, k=3)
    shown = capsys.readouterr().err
    assert "sums: 100%" in shown
    assert "12/12 [" in shown
    assert "3 samples/s, 54 tokens/s" in shown
    evaluate(sums(4), generator, PLAIN, tmp_path, k=3)
    again = capsys.readouterr().err
    assert "12/12 [" in again
    assert "samples/s" not in again  # nothing was sampled


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_an_interrupted_run_goes_on_where_it_was(after, tmp_path):
    class Dying(ScriptedGenerator):
        def generate(self, requests, sampling):
            if len(self.asked) == 5 * after:
                raise Interrupted
            return super().generate(requests, sampling)

    dying, rest = Dying(right_sums, batch_size=5), ScriptedGenerator(right_sums, batch_size=5)
    with pytest.raises(Interrupted):
        run(sums(6), dying, tmp_path / "a", k=3)
    assert lines(tmp_path / "a").count(b"\n") == 5 * after
    summary = run(sums(6), rest, tmp_path / "a", k=3)
    assert summary == run(sums(6), ScriptedGenerator(right_sums, batch_size=5), tmp_path / "b", k=3)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    asked = [request.seed for request in dying.asked + rest.asked]
    assert len(asked) == len(set(asked)) == 18


def test_a_batch_cut_in_two_is_completed(tmp_path):
    """A kill while the lines of a batch are being written."""
    run(sums(6), ScriptedGenerator(right_sums, batch_size=5), tmp_path, k=3)
    whole = lines(tmp_path)
    path = tmp_path / "sums" / "records.jsonl"
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:7]) + whole.splitlines()[7][:40])
    rest = ScriptedGenerator(right_sums, batch_size=5)
    with pytest.warns(UserWarning, match="40 bytes are dropped"):
        run(sums(6), rest, tmp_path, k=3)
    assert lines(tmp_path) == whole
    assert len(rest.asked) == 13  # the batch of samples 5 to 9 as a whole, and the rest


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": Sampling(template="none", temperature=0.5)}, "temperature: 0.6, now 0.5"),
        ({"sampling": Sampling(template="none", top_p=1.0)}, "top_p: 0.95, now 1.0"),
        ({"sampling": Sampling(template="none", max_tokens=9)}, "max_tokens: 3000, now 9"),
        ({"sampling": Sampling(template="r1")}, "template: 'none', now 'r1'"),
        ({"sampling": Sampling(template="none", seed=1)}, "seed: 0, now 1"),
        ({"k": 4}, "n: 3, now 4"),
        ({"problems": sums(5)}, "num_problems: 6, now 5"),
        ({"batch_size": 4}, "generator.batch_size: 5, now 4"),
    ],
)
def test_other_settings_are_refused_by_name(change, named, tmp_path):
    run(sums(6), ScriptedGenerator(right_sums, batch_size=5), tmp_path, k=3)
    before = lines(tmp_path)
    generator = ScriptedGenerator(right_sums, batch_size=change.get("batch_size", 5))
    arguments = (
        change.get("problems", sums(6)),
        generator,
        change.get("sampling", PLAIN),
        tmp_path,
    )
    with pytest.raises(ValueError, match=named):
        evaluate(*arguments, k=change.get("k", 3), progress=False)
    assert lines(tmp_path) == before
    assert generator.asked == []
    evaluate(*arguments, k=change.get("k", 3), progress=False, resume=False)
    assert len(generator.asked) == lines(tmp_path).count(b"\n")


def test_records_without_their_settings_are_refused(tmp_path):
    run(sums(2), ScriptedGenerator(right_sums), tmp_path, k=1)
    (tmp_path / "sums" / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"settings\.json is missing"):
        run(sums(2), ScriptedGenerator(right_sums), tmp_path, k=1)


def test_the_records_suffice_to_grade_again(tmp_path):
    run(sums(8), ScriptedGenerator(right_sums), tmp_path, k=3)
    records = read_records(tmp_path / "sums" / "records.jsonl")
    again = grade_many(
        [response_text(one.prompt, one.completion) for one in records],
        [one.answers for one in records],
    )
    assert [(one.correct, one.reason, one.extracted) for one in again] == [
        (one.correct, one.reason, one.extracted) for one in records
    ]
    assert {one.correct for one in records} == {True, False}


HOSTILE = {
    "none": "I do not know.",
    "empty": "",
    "long": "x" * 1_000_000,
    "long answer": rf"\boxed{{{'9' * 1_000_000}}}",
    "deep": r"\boxed{" + "{" * 2000 + "}" * 2000 + "}",
    "surrogate": "\ud800 \\boxed{\ud800}",
    "controls": "\x00\x1b[31m \\boxed{2}\r\n\u2028",
    "markup": r"[bold]\boxed{[/bold]}",
}


def test_hostile_answers(tmp_path):
    problems = problem_set([(kind, ["2"]) for kind in HOSTILE], "hostile")
    generator = ScriptedGenerator(lambda prompt, stream: HOSTILE[prompt])
    summary = run(problems, generator, tmp_path, k=3)
    records = read_records(tmp_path / "hostile" / "records.jsonl")
    assert [one.completion for one in records[::3]] == list(HOSTILE.values())
    right = {problems.problems[one.problem_index].problem for one in records if one.correct}
    assert right == {"controls"}
    unmarked = {"none", "empty", "long", "long answer"}
    assert unmarked <= {one.problem for one in records if one.extracted is None}
    assert summary["metrics"]["maj@3"]["value"] == 1 / len(HOSTILE)
    assert summary["truncated"] > 0
    assert summary["tokens"]["max"] == 3000


def test_the_summary_counts(tmp_path):
    texts = ["no answer", r"\boxed{0}", r"\boxed{1}", r"\boxed{0}" + "." * 41]
    order = iter(texts)
    generator = ScriptedGenerator(lambda prompt, stream: next(order))
    sampling = Sampling(template="none", max_tokens=50)
    summary = evaluate(sums(1), generator, sampling, tmp_path, k=4, progress=False)
    assert summary["metrics"]["avg@4"] == {"value": 0.5}
    assert summary["metrics"]["pass@2"]["value"] == pytest.approx(5 / 6)
    assert summary["metrics"]["maj@4"]["value"] == 1.0
    assert (summary["truncated"], summary["format"]) == (0.25, 0.75)
    assert summary["tokens"] == {"mean": (9 + 9 + 9 + 50) / 4, "max": 50}
    assert {name: count for name, count in summary["reasons"].items() if count} == {
        "ok": 2,
        "wrong": 1,
        "no_answer": 1,
    }
    assert json.loads((tmp_path / "sums" / "summary.json").read_text()) == summary


def test_a_gold_nobody_can_read_counts_as_wrong_and_shows(tmp_path):
    problems = problem_set([("p", [r"\frac{"]), ("0+0=", ["0"])], "golds")
    generator = ScriptedGenerator(lambda prompt, stream: r"\boxed{0}")
    summary = run(problems, generator, tmp_path, k=1)
    assert summary["metrics"]["avg@1"]["value"] == 0.5
    assert summary["reasons"]["unparseable_gold"] == 1


@pytest.mark.parametrize(
    ("k", "sampling", "message"),
    [
        (0, Sampling(), "k is 0, expected at least 1"),
        (2, Sampling(temperature=0), "temperature is 0 and k is 2"),
    ],
)
def test_ks_that_make_no_sense(k, sampling, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate(sums(1), ScriptedGenerator(right_sums), sampling, tmp_path, k=k)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        # The set's own template is `none`.
        ({"system_prompt": "x"}, "plain texts have no roles"),
        ({"chat_template_kwargs": {"a": 1}}, "template none uses no chat template"),
        ({"template": "chat"}, "the tokenizer has no chat template"),
        ({"conversational": True}, "the tokenizer has no chat template"),
    ],
)
def test_options_of_the_prompt_that_nothing_would_read(setting, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate(sums(1), ScriptedGenerator(right_sums), Sampling(**setting), tmp_path, k=1)
    assert list(tmp_path.iterdir()) == []


def test_settings_name_only_what_is_set(tmp_path):
    run(sums(2), ScriptedGenerator(right_sums), tmp_path, k=1)
    settings = json.loads((tmp_path / "sums" / "settings.json").read_text())
    assert settings["seed"] == 0
    assert {"conversational", "system_prompt", "chat_template_kwargs", "rewards"}.isdisjoint(
        settings
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0}, "top_p is 0, expected a number in"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"template": "qwen"}, "template is 'qwen', expected one of qwen_math"),
        ({"template": "r1", "system_prompt": "x"}, "leave system_prompt out"),
        ({"template": "qwen_math", "conversational": True}, "leave conversational out"),
    ],
)
def test_sampling_that_makes_no_sense(setting, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**setting)


def test_seeds_differ_and_stay():
    keys = [(s, n, p, i) for s in (0, 1) for n in "ab" for p in range(30) for i in range(30)]
    seeds = {key: sample_seed(*key) for key in keys}
    assert len(set(seeds.values())) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds.values())
    # Changing these would break the resuming of runs under way.
    assert seeds[0, "a", 0, 0] == 5339311880265979196
