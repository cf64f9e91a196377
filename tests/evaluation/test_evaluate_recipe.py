"""recipes/evaluate.py as a user runs it."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import tiny

from trl_lambda.evaluation import BENCHMARKS, read_records

RECIPE = Path(__file__).parents[2] / "recipes" / "evaluate.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("evaluate_recipe", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model_folder() -> str:
    folder = tiny.model().name_or_path
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def problems(tmp_path) -> str:
    path = tmp_path / "own.jsonl"
    rows = [{"problem": f"{i}+{i}=", "answers": [str(2 * i)]} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def arguments(model_folder, problems, output_dir, *more) -> list[str]:
    fixed = ["--model", model_folder, "--benchmarks", problems, "--output_dir", str(output_dir)]
    return [*fixed, "--max_tokens", "8", "--template", "none", "--k", "2", *more]


def test_evaluates_resumes_and_compares(recipe, model_folder, problems, tmp_path, capsys):
    recipe.main(
        arguments(model_folder, problems, tmp_path / "a", "--temperature", "1.5", "--seed", "3")
    )
    shown = capsys.readouterr().out
    assert "temperature=1.5 top_p=0.95 max_tokens=8 template=none seed=3 n=2" in shown
    records = tmp_path / "a" / "own" / "records.jsonl"
    before = records.read_bytes()
    assert len(read_records(records)) == 12

    records.write_bytes(before[:-200])
    with pytest.warns(UserWarning, match="bytes are dropped"):
        recipe.main(
            arguments(model_folder, problems, tmp_path / "a", "--temperature", "1.5", "--seed", "3")
        )
    assert records.read_bytes() == before

    recipe.main(arguments(model_folder, problems, tmp_path / "b", "--top_p", "0.5"))
    settings = json.loads((tmp_path / "b" / "own" / "settings.json").read_text())
    assert settings["top_p"] == 0.5
    capsys.readouterr()
    recipe.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")])
    compared = capsys.readouterr().out
    assert "B − A by problem" in compared
    assert "excludes 0" in compared


def test_options_reach_the_run(recipe, model_folder, problems, tmp_path):
    more = ["--limit", "3", "--batch_size", "5", "--dtype", "float64"]
    recipe.main(arguments(model_folder, problems, tmp_path, *more))
    settings = json.loads((tmp_path / "own" / "settings.json").read_text())
    assert settings["num_problems"] == 3
    assert settings["generator"]["batch_size"] == 5
    assert settings["generator"]["dtype"] == "torch.float64"
    with pytest.raises(SystemExit, match=r"other settings: seed: 0, now 1\. Give the old"):
        recipe.main(arguments(model_folder, problems, tmp_path, *more, "--seed", "1"))
    recipe.main(arguments(model_folder, problems, tmp_path, "--no_resume", "--seed", "1"))
    assert len(read_records(tmp_path / "own" / "records.jsonl")) == 12


def test_a_benchmark_by_name_from_a_file(recipe, tmp_path, real_data, real_problems):
    folder = tiny.model(max_position_embeddings=4096).name_or_path
    tiny.tokenizer().save_pretrained(folder)
    spec = f"aime24={real_data / 'aime24.parquet'}"
    for run in ("a", "b"):
        recipe.main(arguments(folder, spec, tmp_path / run, "--limit", "4"))
    paths = [tmp_path / run / "aime24" / "records.jsonl" for run in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [one.problem for one in read_records(paths[0])[::2]] == [
        row["problem"] for row in real_problems("aime24")[:4]
    ]


def test_help_names_every_benchmark(recipe, capsys):
    with pytest.raises(SystemExit) as end:
        recipe.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"{row.name} " in shown and row.hub_id in shown for row in BENCHMARKS.values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--output_dir", "x"], "expected --model, --benchmarks, or --compare A B"),
        (
            [
                "--model",
                "m",
                "--benchmarks",
                "math500",
                "--output_dir",
                "x",
                "--answer_column",
                "y",
            ],
            "are for files of your own; none is named",
        ),
    ],
)
def test_commands_that_are_incomplete(recipe, wrong, message, capsys):
    with pytest.raises(SystemExit):
        recipe.main(wrong)
    assert message in capsys.readouterr().err


def test_a_wrong_name_fails_before_the_model_loads(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(recipe, "load_generator", lambda options: pytest.fail("loaded"))
    with pytest.raises(SystemExit, match="ValueError: benchmark 'aime' is unknown"):
        recipe.main(["--model", "m", "--benchmarks", "aime", "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("installed", [True, False])
def test_the_engine(recipe, monkeypatch, installed):
    """auto takes vLLM where it is installed; --adapter and --dtype reach either."""
    import trl_lambda.evaluation as evaluation

    monkeypatch.setattr(recipe, "find_spec", lambda name: object() if installed else None)
    vllm = lambda model, **options: ("vllm", model, options)  # noqa: E731
    plain = type("T", (), {"load": lambda model, **options: ("transformers", model, options)})
    monkeypatch.setattr(evaluation, "VLLMGenerator", vllm, raising=False)
    monkeypatch.setattr(evaluation, "TransformersGenerator", plain, raising=False)
    given = ["--model", "m", "--adapter", "a", "--dtype", "float16", "--benchmarks", "b"]
    options = recipe.parse_arguments([*given, "--output_dir", "o", "--batch_size", "7"])
    expected = "vllm" if installed else "transformers"
    passed = {"adapter": "a", "dtype": "float16", "batch_size": 7}
    assert recipe.load_generator(options) == (expected, "m", passed)
    assert "vllm" not in sys.modules
