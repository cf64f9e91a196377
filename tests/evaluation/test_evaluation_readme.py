"""The examples of evaluation's README: commands parse, files load, Python runs."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny
from scripted_generator import sums

import trl_lambda.evaluation as evaluation
from trl_lambda.evaluation import BENCHMARKS, TransformersGenerator, load_problem_set
from trl_lambda.rewards import grade

PACKAGE = Path(evaluation.__file__).parent
README = (PACKAGE / "README.md").read_text()
COMMAND = re.compile(r"python (?:recipes/evaluate\.py|-m trl_lambda\.scripts\.evaluate) (.*)")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(COMMAND.fullmatch(line)[1]) for line in lines]


def test_commands_parse(recipe):
    assert len(commands()) == 7
    for arguments in commands():
        options = recipe.parse_arguments(arguments)
        assert options.compare or (options.model and options.output_dir)
        own = {spec for spec in options.benchmarks or [] if spec not in BENCHMARKS}
        assert all(spec.endswith((".jsonl", ".parquet")) for spec in own)


def test_every_option_that_is_named_is_one(recipe, capsys):
    with pytest.raises(SystemExit):
        recipe.main(["--help"])
    there = set(re.findall(r"--\w+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z_]+", README)) <= there


def test_the_example_of_a_file_loads_and_its_golds_are_graded(tmp_path):
    [lines] = blocks("json")
    path = tmp_path / "own.jsonl"
    path.write_text(lines)
    loaded = load_problem_set(str(path))
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [one.problem for one in loaded.problems] == [row["problem"] for row in rows]
    right = [r"\boxed{42}", r"\boxed{x = 2, x = -2}", r"\boxed{\frac32}", r"\boxed{\frac{1}{3}}"]
    for response, one in zip(right, loaded.problems, strict=True):
        assert grade(response, one.answers).correct
        assert not grade(r"\boxed{17}", one.answers).correct


def test_the_table_of_benchmarks_is_theirs():
    rows = re.findall(r"^\| `(\w+)`[^|]*\| (\d+) \| (\d+) \| ([^|]+) \|$", README, re.MULTILINE)
    assert [
        (row.name, str(row.num_problems), str(row.default_k), bool(row.unchecked))
        for row in BENCHMARKS.values()
    ] == [(name, count, samples, "warns" in checked) for name, count, samples, checked in rows]


def test_python_runs(tmp_path, monkeypatch, capsys):
    """With a tiny model and sums in place of what would be downloaded."""
    reward, api, training = blocks("python")
    made: dict = {}
    exec(reward, made)
    assert made["brevity"](completions=["x" * 500]) == [-0.5]

    model = TransformersGenerator(tiny.model().eval(), tiny.tokenizer())
    short = evaluation.Sampling(max_tokens=4, template="none")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TransformersGenerator, "load", lambda name: model)
    monkeypatch.setattr(evaluation, "load_problem_set", lambda name: sums(100))
    monkeypatch.setattr(evaluation, "Sampling", lambda **options: short)
    exec(api, {})
    assert re.search(r"[\d.]+ \[[\d.]+, [\d.]+\]", capsys.readouterr().out)
    assert (tmp_path / "runs" / "base" / "sums" / "summary.json").exists()

    trainer = tiny.trainer(tmp_path)
    exec(training, {"trainer": trainer})
    [callback] = [
        one
        for one in trainer.callback_handler.callbacks
        if isinstance(one, evaluation.EvaluationCallback)
    ]
    assert (callback.every, callback.k, callback.keep_best) == (50, 4, "avg@4")


def test_the_list_of_files_is_theirs():
    listed = set(re.findall(r"\b\w+\.py\b", blocks("")[-1]))
    assert listed == {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
