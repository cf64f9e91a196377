"""recipes/evaluate.py as a user runs it."""

import json
import re
import sys

import peft
import pytest
import tiny
import tiny_chat

from trl_lambda.evaluation import BENCHMARKS, read_records


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


def write(path, rows: list[dict]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(count: int, **columns) -> list[dict]:
    return [{"problem": f"{i}+{i}=\n", "answers": [str(2 * i)], **columns} for i in range(count)]


def settings_of(folder) -> dict:
    return json.loads((folder / "settings.json").read_text())


def test_several_benchmarks_end_in_one_table(recipe, model_folder, tmp_path, capsys):
    files = [write(tmp_path / f"{name}.jsonl", rows(n)) for name, n in (("two", 2), ("one", 1))]
    given = arguments(model_folder, files[0], tmp_path / "a", "--k", "3")
    given[3:4] = files
    recipe.main(given)
    shown = capsys.readouterr().out
    assert f"model={model_folder} adapter=none engine=transformers dtype=torch.float32" in shown
    overall = shown[shown.index("two, one\n") :]
    assert "│ average" in overall
    assert "a benchmark has none: one problem" in overall
    average = json.loads((tmp_path / "a" / "average.json").read_text())
    assert average["samples"] == {"two": 3, "one": 3}
    assert average["averages"]["avg"]["no_interval"] == "a benchmark has none: one problem"
    given[given.index(str(tmp_path / "a"))] = str(tmp_path / "b")
    recipe.main([*given, "--seed", "1"])
    capsys.readouterr()
    recipe.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")])
    compared = capsys.readouterr().out
    assert "one, N=1, B − A by problem" in compared
    assert "avg, B − A by problem, one, two" in compared
    assert "need not lie in the middle" in compared


@pytest.mark.parametrize(
    ("files", "more", "message"),
    [
        (["easy/test", "hard/test"], [], r"easy/test\.jsonl and .*hard/test\.jsonl would both"),
        (["easy/test", "easy/test"], [], "would both be written to the folder test"),
        (["easy/test", "hard/torn"], [], r"torn\.jsonl, line 2: no JSON"),
        (["easy/test", "hard/gold"], [], r"gold\.jsonl, line 2: an answer is True"),
        (["easy/test", "hard/long"], [], "the longest prompt has 300 tokens"),
        (["easy/test", "hard/chat"], ["--template", "r1"], "expected prompts that are texts"),
        (["easy/test", "hard/none"], [], "none.jsonl, line 1: no column answers"),
        (["easy/test"], ["--limit", "9"], "limit is 9, expected 1 to 2"),
        (["easy/test"], ["--k", "0"], "k is 0"),
        (["easy/test"], ["--temperature", "0"], "temperature is 0 and k is 2"),
        (["easy/test"], ["--batch_size", "0"], "batch_size is 0, expected at least 1"),
        (["easy/test"], ["--template", "gpt"], r"or a text in which \{prompt\} stands"),
        (["easy/test"], ["--system_prompt", "x"], "plain texts have no roles"),
        (["easy/test"], ["--template", "chat"], "the tokenizer has no chat template"),
        (["easy/test"], ["--template", "r1", "--system_prompt", "x"], "leave system_prompt out"),
        (["easy/test"], ["--chat_template_kwargs", '{"a": 1}'], "uses no chat template"),
        (["easy/test"], ["--reward_funcs", "maths"], "--reward_funcs maths: not a name"),
        (["easy/test"], ["--reward_funcs", "math", "math"], "expected each of them once"),
        (["easy/test"], ["--reward_funcs", "accuracy_reward"], "required argument: 'solution'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sampled(
    files, more, message, recipe, model_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(recipe.PreparedRun, "run", lambda run: pytest.fail("sampled"))
    for folder in ("easy", "hard"):
        write(tmp_path / folder / "test.jsonl", rows(2))
    torn = (tmp_path / "easy" / "test.jsonl").read_text()[:-9]
    (tmp_path / "hard" / "torn.jsonl").write_text(torn)
    write(tmp_path / "hard" / "gold.jsonl", [*rows(1), {"problem": "a", "answers": [True]}])
    write(tmp_path / "hard" / "long.jsonl", [{"problem": "1" * 300, "answers": ["2"]}])
    chat = [{"role": "user", "content": "1+1="}]
    write(tmp_path / "hard" / "chat.jsonl", [{"problem": chat, "answers": ["2"]}])
    write(tmp_path / "hard" / "none.jsonl", [{"problem": "1+1="}])
    given = arguments(model_folder, "?", tmp_path / "out", *more)
    given[given.index("?") : given.index("?") + 1] = [str(tmp_path / f"{f}.jsonl") for f in files]
    with pytest.raises(SystemExit, match=message):
        recipe.main(given)
    assert list(tmp_path.glob("out/*/records.jsonl")) == []


@pytest.fixture
def chat_folder(tmp_path) -> str:
    """A model with a chat template."""
    folder = str(tmp_path / "chat_model")
    tiny_chat.model().save_pretrained(folder)
    tiny_chat.tokenizer().save_pretrained(folder)
    return folder


def test_a_prompt_as_in_training(recipe, chat_folder, tmp_path):
    """A template of one's own, a user's message, a system message before it."""
    path = write(tmp_path / "own.jsonl", rows(2))
    more = ["--template", "q: {prompt}\n a:", "--conversational", "--system_prompt", "be brief."]
    recipe.main(arguments(chat_folder, path, tmp_path, *more))
    first = read_records(tmp_path / "own" / "records.jsonl")[0]
    assert first.prompt == "u:be brief.<eos>u:q: 0+0=\n\n a:<eos>a:"
    settings = settings_of(tmp_path / "own")
    assert (settings["template"], settings["conversational"]) == ("q: {prompt}\n a:", True)
    assert settings["system_prompt"] == "be brief."


def test_options_of_the_chat_template(recipe, tmp_path, capsys):
    tokenizer = tiny_chat.tokenizer()
    tokenizer.chat_template += "{% if thinking %}!{% endif %}"
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_chat.model().save_pretrained(tmp_path / "model")
    path = write(tmp_path / "own.jsonl", rows(2))
    more = ["--template", "none", "--conversational", "--chat_template_kwargs"]
    recipe.main(arguments(str(tmp_path / "model"), path, tmp_path, *more, '{"thinking": true}'))
    assert read_records(tmp_path / "own" / "records.jsonl")[0].prompt == "u:0+0=\n<eos>a:!"
    for wrong in ("{", "[1]"):
        with pytest.raises(SystemExit):
            recipe.main(arguments("m", path, tmp_path, *more, wrong))
    assert "expected a JSON object" in capsys.readouterr().err


def test_rewards_by_name(recipe, model_folder, tmp_path, capsys):
    path = write(tmp_path / "own.jsonl", [{"prompt": "1+1=", "aim": 3}, {"prompt": "2", "aim": 4}])
    more = ["--prompt_column", "prompt", "--reward_funcs", "rewards_for_evaluation.nearness"]
    recipe.main(arguments(model_folder, path, tmp_path / "a", *more))
    shown = capsys.readouterr().out
    summary = json.loads((tmp_path / "a" / "own" / "summary.json").read_text())
    [(name, metric)] = summary["metrics"].items()
    found = read_records(tmp_path / "a" / "own" / "records.jsonl")
    aims = [3, 3, 4, 4]
    assert [one.rewards["rewards_for_evaluation.nearness"] for one in found] == [
        -abs(len(one.completion) - aim) / 10 for one, aim in zip(found, aims, strict=True)
    ]
    assert name == "rewards_for_evaluation.nearness avg@2"
    assert metric["value"] == pytest.approx(
        sum(one.rewards["rewards_for_evaluation.nearness"] for one in found) / 4
    )
    assert f"{metric['value']:.4g}" in shown
    assert "graded" not in shown


def test_the_column_with_the_golds(recipe, model_folder, tmp_path):
    golds = ["so #### 2", r"\boxed{2}"]
    worked = [{"problem": f"{i}", "solution": gold} for i, gold in enumerate(golds)]
    path = write(tmp_path / "own.jsonl", worked)
    recipe.main(arguments(model_folder, path, tmp_path, "--answer_column", "solution"))
    found = read_records(tmp_path / "own" / "records.jsonl")
    assert {one.answers for one in found} == {(gold,) for gold in golds}


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_a_run_that_was_trained_otherwise(kind, recipe, model_folder, problems, tmp_path, capsys):
    """What the training's own command wrote down, and what is read of it."""
    lora = {"peft_config": peft.LoraConfig(r=2, target_modules=["q_proj"])}
    trainer = tiny.trainer(
        tmp_path / "run",
        settings={"temperature": 0.9, "max_completion_length": 8},
        **(lora if kind == "adapter" else {}),
    )
    trainer.card_settings = {"template": "r1"}
    trainer.save_model()
    run = str(tmp_path / "run")
    where = [run] if kind == "model" else [model_folder, "--adapter", run]
    given = arguments("?", problems, tmp_path / "a", "--top_p", "1")
    given[1:2] = where
    recipe.main(given)
    shown = capsys.readouterr().out
    said = shown[: shown.index("own, N=6")]
    assert said.splitlines() == [
        f"{run} was trained otherwise than it is evaluated:",
        "  temperature was 0.9 in training; temperature is 0.6 here.",
        "  template was 'r1' in training; it is 'none' here.",
    ]
    recipe.main(arguments(model_folder, problems, tmp_path / "b"))
    assert "in training" not in capsys.readouterr().out


def test_progress_is_shown_and_tables_need_rich_before_all_else(
    recipe, model_folder, problems, tmp_path, capsys, monkeypatch
):
    recipe.main(arguments(model_folder, problems, tmp_path / "a"))
    assert re.search(r"12/12 \[.* samples/s, \d+ tokens/s\]", capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(SystemExit, match="the tables need rich"):
        recipe.main(arguments(model_folder, problems, tmp_path / "b"))
    assert not (tmp_path / "b").exists()


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
