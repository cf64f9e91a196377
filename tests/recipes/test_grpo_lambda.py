"""The general training script, run as users run it: a few steps of a tiny random Qwen2."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import trl
from packaging.version import Version
from pyarrow import parquet
from safetensors.torch import load_file
from transformers import AutoTokenizer
from trl import ModelConfig

from trl_lambda.scripts import train as script
from trl_lambda.templates import render

RECIPES = Path(__file__).parents[2] / "recipes"
REWARD = "rewards_for_tests.mentions_answer"
SAVED = {"save_strategy": "steps", "save_steps": "2"}


def arguments(model: str, data: Path | str | None, **overrides: str | None) -> list[str]:
    """A short run; an override of None takes the option out, of "" makes it a bare switch.

    Nothing is said of the device: on a CPU it must run as well.
    """
    options = {
        "model_name_or_path": model,
        "dataset_name": None if data is None else str(data),
        "prompt_column": "problem",
        "reward_funcs": REWARD,
        "output_dir": "out",
        "max_steps": "2",
        "per_device_train_batch_size": "4",
        "num_generations": "4",
        "max_completion_length": "6",
        "learning_rate": "1e-2",
        "logging_steps": "1",
        "save_strategy": "no",
        "disable_tqdm": "true",
        **overrides,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", *value.split())]


@pytest.fixture
def problems(tmp_path) -> Path:
    """Problems of our own, for what needs no real ones."""
    rows = [{"problem": f"{i}+1=", "answers": [str(i + 1)]} for i in range(8)]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def train(run_recipe, tiny_model, problems):
    """Trains as `arguments` say, on our own problems unless others are given."""

    def train(*more: str, data: Path | str = problems, launcher=(), seconds=600, **overrides):
        given = [*arguments(tiny_model, data, **overrides), *more]
        return run_recipe("grpo_lambda.py", *given, launcher=launcher, seconds=seconds)

    return train


def log_of(folder: Path, checkpoint: int) -> list[dict]:
    state = folder / f"checkpoint-{checkpoint}" / "trainer_state.json"
    return [e for e in json.loads(state.read_text())["log_history"] if "reward" in e]


@pytest.fixture
def refusal(monkeypatch, tmp_path):
    """The message with which `main` refuses its arguments, without a process for each."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)

    def message(given: list[str]) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the tests look at the message)
            script.main(given)
        return str(caught.value)

    return message


@pytest.mark.slow
def test_trains_on_real_problems_with_lora_and_ours(train, gsm8k, tmp_path):
    train(
        data=gsm8k,
        config=str(RECIPES / "configs" / "ours_qwen2.5_0.5b.yaml"),
        dataset_config="none",
        answer_column="answers",
        template="none",
        use_vllm="false",
        dtype="float32",
        gradient_accumulation_steps="1",
        use_peft="",
        **SAVED,
    )
    log = log_of(tmp_path / "out", 2)
    assert [entry["step"] for entry in log] == [1, 2]
    assert all(f"rewards/{REWARD.split('.')[1]}/mean" in entry for entry in log)
    assert any("trace" in name for name in log[0])  # the YAML's method, not TRL's default
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert any(tensor.abs().sum() > 0 for name, tensor in adapter.items() if "lora_B" in name)


@pytest.mark.slow
def test_resuming_equals_never_having_stopped(train, tmp_path):
    said = []

    def trained(folder: str, steps: str, **more: str) -> dict:
        constant = {"lr_scheduler_type": "constant", "max_steps": steps}
        said.append(train(output_dir=folder, **constant, **SAVED, **more).stderr)
        return load_file(tmp_path / folder / "model.safetensors")

    whole = trained("whole", "4")
    half = trained("parts", "2", resume_from_checkpoint="last")  # none yet: from the beginning
    second_step = tmp_path / "parts" / "checkpoint-2" / "trainer_state.json"
    written = second_step.stat().st_mtime_ns
    (tmp_path / "parts" / "checkpoint-3").mkdir()  # a kill while saving leaves such a one
    parts = trained("parts", "4", resume_from_checkpoint="last")
    assert "checkpoint-3 is incomplete (trainer_state.json is missing)" in said[-1]
    assert second_step.stat().st_mtime_ns == written  # steps 1 and 2 were not run again
    assert any((half[name] != whole[name]).any() for name in whole)
    assert all((parts[name] == whole[name]).all() for name in whole)


@pytest.mark.slow
def test_rows_are_chosen_counted_and_put_into_the_template(train, tiny_model, tmp_path):
    """MATH's levels, worked solutions and Qwen-Math's template, as Dr. GRPO's files ask for."""
    rows = [
        {
            "problem": "1+" * 200 * (i % 10 == 9) + f"{i}+1=",
            "level": f"Level {i % 5 + 1}",
            "solution": rf"So it is $\boxed{{{i + 1}}}$.",
        }
        for i in range(40)
    ]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = train(
        *("--keep_rows", "level=Level 3,Level 4,Level 5"),
        data="math.jsonl",
        template="qwen_math",
        answer_column="solution",
        max_prompt_length="300",
        log_completions="",
        **SAVED,
    )
    assert "keep_rows level=Level 3,Level 4,Level 5: 16 of 40 rows left out." in process.stderr
    assert "max_prompt_length 300: 4 of 24 rows left out." in process.stderr
    tables = sorted((tmp_path / "out" / "completions").glob("*.parquet"))
    prompts = {p for table in tables for p in parquet.read_table(table)["prompt"].to_pylist()}
    rendered = [render(row["problem"], "qwen_math") for row in rows]
    if Version(trl.__version__) < Version("1.15"):  # its table has what the tokens decode to
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        ids = [tokenizer(text)["input_ids"] for text in rendered]
        rendered = tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert prompts
    assert prompts <= set(rendered)
    assert log_of(tmp_path / "out", 2)


@pytest.mark.distributed
def test_two_processes_prepare_the_same_rows(train, gsm8k):
    """The main process first, which alone tells what it left out."""
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2"
    launch += " --num_cpu_threads_per_process 1 --main_process_port 0"
    sizes = {"max_prompt_length": "300", "max_steps": "1", "num_generations": "8"}
    process = train(data=gsm8k, launcher=tuple(launch.split()), seconds=240, **sizes)
    assert process.stderr.count("max_prompt_length 300:") == 1
    assert process.stdout.count("Batch plan") == 1
    assert "8 completions = 1 prompt × 8 (4 on each of 2 processes)" in process.stdout


@pytest.mark.parametrize("use_vllm", [False, True])
def test_qwen_math_ends_turns_also_in_an_engine_of_its_own(tmp_path, tiny_model, use_vllm):
    """vLLM loads the tokenizer by itself, so that it must be told where a turn ends."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    config = SimpleNamespace(use_vllm=use_vllm, generation_kwargs=None, trust_remote_code=False)
    loaded = script.load_tokenizer(
        script.TaskArguments(template="qwen_math"),
        config,
        ModelConfig(model_name_or_path=str(tmp_path)),
    )
    assert loaded.eos_token == "<|im_end|>"
    expected = {"stop_token_ids": [loaded.eos_token_id]} if use_vllm else None
    assert config.generation_kwargs == expected


@pytest.mark.slow
def test_several_rewards_and_step_rewards(train, tmp_path):
    train(
        reward_funcs=f"{REWARD} rewards_for_tests.brevity",
        process_reward_funcs="rewards_for_tests.last_token_step",
        td_error="process",
        **SAVED,
    )
    first, _ = log_of(tmp_path / "out", 2)
    assert {"rewards/mentions_answer/mean", "rewards/brevity/mean"} <= first.keys()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"reward_funcs": None}, ["--reward_funcs", "math", "accuracy_reward"]),
        ({"reward_funcs": "maths"}, ["--reward_funcs maths", "math, ", "dotted path"]),
        ({"reward_funcs": "no_such.module"}, ["no_such", "working directory"]),
        (
            {"reward_funcs": "rewards_for_tests.nothing"},
            ["nothing of that name", "mentions_answer"],
        ),
        ({"reward_funcs": "rewards_for_tests.not_a_function"}, ["expected a function", "a int"]),
        ({"prompt_column": None}, ["prompt_column prompt", "problem, answers"]),
        ({"prompt_column": "question"}, ["prompt_column question", "problem, answers"]),
        ({"answer_column": "solution"}, ["answer_column solution", "problem, answers"]),
        ({"keep_rows": "level=3"}, ["keep_rows level", "problem, answers"]),
        ({"keep_rows": "problem=3"}, ["none of 8 rows", "'0+1=' (1)"]),
        ({"keep_rows": "level"}, ["keep_rows 'level'", "column=value1,value2"]),
        ({"max_prompt_length": "3"}, ["max_prompt_length 3", "none of 8 rows"]),
        ({"template": "qwen"}, ["template is 'qwen'", "qwen_math"]),
        ({"template": "qwen_math", "conversational": ""}, ["qwen_math", "conversational"]),
        ({"template": "chat"}, ["no chat template", "base models"]),
        ({"dataset_name": None}, ["No data set", "--dataset_name"]),
        ({"dataset_name": "missing.parquet"}, ["missing.parquet", "no such file"]),
        ({"dataset_config": "main"}, ["--dataset_config main", "none"]),
        ({"dataset_train_split": "dev"}, ["--dataset_train_split dev", "train"]),
        ({"model_name_or_path": None}, ["--model_name_or_path"]),
        ({"resume_from_checkpoint": "elsewhere"}, ["elsewhere", "no checkpoint", "none"]),
        ({"system_prompt": "Think."}, ["system_prompt", "conversational"]),
        ({"td_error": "process"}, ["td_error='process'", "process_reward_funcs"]),
        ({"trace_lambda": "1.5"}, ["trace_lambda=1.5", "[0, 1]"]),
    ],
)
def test_bad_input_is_refused_with_a_remedy(refusal, tiny_model, problems, overrides, said):
    message = refusal(arguments(tiny_model, problems, **overrides))
    for part in said:
        assert part in message, message
