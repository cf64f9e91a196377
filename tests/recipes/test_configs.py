"""Every shipped YAML file loads, means its paper and trains; every command of the table parses."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pytest
import tiny
import tiny_chat
import torch
import yaml
from accelerate.commands.launch import launch_command_parser

from trl_lambda import LambdaGRPOConfig
from trl_lambda.config import own_fields
from trl_lambda.methods import OPTIONS
from trl_lambda.rule import resolve
from trl_lambda.scripts import train

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = sorted((RECIPES / "configs").glob("*.yaml"))
README = (RECIPES / "README.md").read_text()
ENGINES = ("ddp", "zero2", "zero3", "fsdp2")
QUESTIONS = {"gsm8k": 7473, "MATH": 7500, "MATH, levels 3-5": 5586}


def rows_with(*columns: str) -> list[dict[str, str]]:
    """Rows of the table of recipes/README.md whose first columns these are, by column."""
    head = "| " + " | ".join(columns)
    (table,) = [part for part in README.split("\n\n") if part.startswith(head)]
    names, _, *rows = [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in table.splitlines()
    ]
    return [dict(zip(names, row, strict=True)) for row in rows]


def commands() -> dict[str, str]:
    """Every run of the table as a command, by the run's name and its file."""
    template = re.search(r"<!-- command: run -->\n```bash\n(.*)\n```", README)[1]
    launches = {row["GPUs"]: row["LAUNCH"] for row in rows_with("GPUs")}
    return {
        f"{row['run']}: {file}": template.replace("LAUNCH", launches[row["GPUs"]])
        .replace("FILE", file)
        .replace("OPTIONS", row["OPTIONS"])
        .strip()
        for row in rows_with("run", "GPUs")
        for file in row["FILE"].split(", ")
    }


RUNS = commands()
HOURS = {row["file"]: row for row in rows_with("file", "10⁹ parameters")}


def given(name: str) -> dict:
    return yaml.safe_load((RECIPES / "configs" / f"{name}.yaml").read_text())


def meant(name: str) -> dict:
    """What is given, and the values of the method that the file names."""
    values = given(name)
    options = {option: values.get(option) for option in ("method", *OPTIONS)}
    return values | resolve(options).values()


def launched(command: str) -> tuple[int, str | None, list[str]]:
    """Processes, accelerate's file and the script's words of a command of the table."""
    launcher, verb, *words = shlex.split(command)
    assert (launcher, verb) == ("accelerate", "launch")
    arguments = launch_command_parser().parse_args(words)
    assert arguments.training_script == "recipes/grpo_lambda.py"
    return arguments.num_processes, arguments.config_file, arguments.training_script_args


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Parses words on whatever device there is: bf16 is a matter of the GPU it is meant for."""
    monkeypatch.chdir(RECIPES.parent)

    def parse(*words: str):
        words = [*words, "--use_cpu", "--output_dir", str(tmp_path)]
        return train.make_parser().parse_args_and_config(words)

    return parse


def test_there_is_one_file_per_paper_and_scale():
    assert {path.stem for path in CONFIGS} == {
        "grpo_deepseekmath_7b",
        "dr_grpo_qwen2.5_math_1.5b",
        "dr_grpo_qwen2.5_math_7b",
        "grpo_lambda_qwen2.5_1.5b",
        "grpo_lambda_qwen2.5_3b",
        "grpo_lambda_qwen2.5_7b",
        "lambda_grpo_r1_distill_qwen_1.5b",
        "lambda_grpo_llama_3.2_1b",
        "ours_qwen2.5_0.5b",
        "ours_qwen2.5_math_1.5b",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_loads_with_every_value_it_gives(parse, path):
    task, script, config, model, _ = parse("--config", str(path))
    assert isinstance(config, LambdaGRPOConfig)
    parts = [task, script, config, model]
    for name, value in given(path.stem).items():
        if name in ("output_dir", "report_to"):  # ours; transformers makes "none" an empty list
            continue
        (holder,) = [part for part in parts if hasattr(part, name)][:1]
        loaded = getattr(holder, name)
        assert getattr(loaded, "value", loaded) in (value, [value]), name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_says_what_it_reproduces_its_hardware_and_hours(path):
    header = path.read_text().split("\nmodel_name_or_path")[0]
    for word in ("Reproduces", "Hardware", "Hours", "Status: not run here"):
        assert f"\n# {word}" in header, word


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_leaves_no_option_of_the_method_to_the_defaults(path):
    """The package's defaults may move; what a file reproduces may not."""
    values = given(path.stem)
    assert {"method", "vllm_importance_sampling_correction"} <= values.keys()
    if values["method"] == "grpo":  # leaves its loss to TRL, whose defaults may move
        assert {"loss_type", "scale_rewards"} <= values.keys()
    assert values["method"] != "default"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_prompt_and_completion_fit_into_vllm(path):
    values = given(path.stem)
    assert values["use_vllm"]
    longest = values["max_prompt_length"] + values["max_completion_length"]
    assert values["vllm_max_model_length"] == longest


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_weights_are_fine_enough_for_the_learning_rate(path):
    """Near 0.02, where weights are, one step of Adam must move a weight of this type."""
    values = given(path.stem)
    weight = torch.tensor(0.02, dtype=getattr(torch, values["dtype"]))
    assert weight - values["learning_rate"] != weight


@pytest.mark.parametrize("name", ["ours_qwen2.5_0.5b", "ours_qwen2.5_math_1.5b"])
def test_ours_is_trl_s_grpo_with_a_trace_and_a_floor(name):
    own = {"trace_style": "recent", "advantage_floor": -0.1}
    stock = {"method": "grpo", "loss_type": "dapo", "scale_rewards": "group"}
    values = given(name)
    assert {key: values[key] for key in ("method", *OPTIONS) if key in values} == stock | own
    assert resolve(own).credit == resolve(stock | own).credit  # as if added to the default


@pytest.mark.parametrize(
    ("one", "other", "different"),
    [
        ("dr_grpo_qwen2.5_math_1.5b", "dr_grpo_qwen2.5_math_7b", set()),
        ("grpo_lambda_qwen2.5_1.5b", "grpo_lambda_qwen2.5_3b", set()),
        (
            "grpo_lambda_qwen2.5_3b",
            "grpo_lambda_qwen2.5_7b",
            {"max_completion_length", "vllm_max_model_length"},
        ),
        ("lambda_grpo_r1_distill_qwen_1.5b", "lambda_grpo_llama_3.2_1b", set()),
        (
            "ours_qwen2.5_math_1.5b",
            "dr_grpo_qwen2.5_math_1.5b",
            {"method", "trace_style", "advantage_floor", "loss_type", "scale_rewards"},
        ),
    ],
)
def test_siblings_differ_in_size_alone(one, other, different):
    one, other = given(one), given(other)
    found = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert found - {"model_name_or_path", "output_dir"} == different


MATH_3_TO_5 = {"keep_rows": ["level=Level 3,Level 4,Level 5"], "template": "qwen_math"}
GRPO_LAMBDA = {
    "trace_mode": "ratio",
    "trace_style": "both",
    "trace_lambda": 0.99,
    "normalize_trace": False,
    "advantage_floor": -0.1,
    "process_set_weighting": False,
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "grpo_deepseekmath_7b",
            {"beta": 0.04, "num_generations": 64, "max_completion_length": 1024},
        ),
        ("dr_grpo_qwen2.5_math_1.5b", MATH_3_TO_5),
        (
            "dr_grpo_qwen2.5_math_7b",
            MATH_3_TO_5
            | {"loss_type": "dr_grpo", "scale_rewards": "none", "num_generations": 8}
            | {"learning_rate": 1e-6, "beta": 0.0, "max_completion_length": 3000},
        ),
        ("grpo_lambda_qwen2.5_1.5b", GRPO_LAMBDA | {"max_completion_length": 256}),
        ("grpo_lambda_qwen2.5_3b", GRPO_LAMBDA | {"max_completion_length": 256}),
        ("grpo_lambda_qwen2.5_7b", GRPO_LAMBDA | {"max_completion_length": 768}),
        (
            "lambda_grpo_r1_distill_qwen_1.5b",
            {"process_set_weighting": True, "num_generations": 6, "temperature": 0.75}
            | {"max_steps": 1000, "dataset_name": "knoveleng/open-rs"},
        ),
    ],
)
def test_has_what_its_paper_says(name, expected):
    values = meant(name)
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if path.stem.split("_")[0] in ("grpo", "dr", "lambda")],
    ids=lambda path: path.stem,
)
def test_only_grpo_lambda_has_a_trace(parse, path):
    rule = parse("--config", str(path))[2].credit_rule
    assert rule.traced == path.stem.startswith("grpo_lambda")
    assert rule.process_set_weighting == path.stem.startswith("lambda_grpo")


def test_every_file_has_a_row_in_both_tables():
    run = {name.split(": ")[1] for name in RUNS}
    assert run == set(HOURS) == {path.stem for path in CONFIGS}
    assert len(RUNS) == 27


def test_the_example_is_a_run_of_the_table():
    (example,) = re.findall(r"```bash\n(accelerate launch .*qwen2\.5_7b\.yaml .*)\n```", README)
    assert example == RUNS["GRPO-λ, recent, ratio: grpo_lambda_qwen2.5_7b"]


@pytest.mark.parametrize("run", RUNS)
def test_command_of_the_table_parses(parse, run):
    processes, engine, words = launched(RUNS[run])
    _, _, config, model, _ = parse(*words)
    kind, name = run.split(": ")
    assert words[words.index("--config") + 1] == f"recipes/configs/{name}.yaml"
    assert engine in (None, *(f"recipes/accelerate/{engine}.yaml" for engine in ENGINES))
    assert engine is None or (RECIPES.parent / engine).is_file()
    assert (engine is None) == (processes == 1)
    assert processes == int(HOURS[name]["GPUs"])
    if kind.startswith("GRPO-λ"):
        style, mode = kind.split(", ")[1:]
        rule = config.credit_rule
        assert (rule.trace_style, rule.trace_mode) == (style, mode)
    if "baseline" in kind:
        assert config.method == "grpo"
        assert not config.credit_rule.token_level
        assert config.credit_rule.advantage_floor is None
        assert config.loss_type == given(name)["loss_type"]  # the method alone differs
    assert model.use_peft == ("LoRA" in kind)
    assert (config.td_error == "tree") == ("tree" in kind)


@pytest.mark.parametrize("scale", ["1.5b", "3b", "7b"])
def test_table_has_every_variant_of_grpo_lambda(scale):
    for style in ("both", "recent"):
        for mode in ("ratio", "weight"):
            assert f"GRPO-λ, {style}, {mode}: grpo_lambda_qwen2.5_{scale}" in RUNS


def generations_and_completions(values: dict, processes: int) -> tuple[float, float]:
    device = values["per_device_train_batch_size"] * processes
    update = device * values["gradient_accumulation_steps"]
    at_once = device * values.get("steps_per_generation", values["gradient_accumulation_steps"])
    if "max_steps" in values:
        completions = values["max_steps"] * update
    else:
        kind = "gsm8k" if "gsm8k" in values["dataset_name"] else "MATH"
        kind += ", levels 3-5" if "keep_rows" in values else ""
        completions = QUESTIONS[kind] * values["num_generations"] * values["num_train_epochs"]
    return completions / at_once, completions


@pytest.mark.parametrize("name", HOURS)
def test_sizes_and_hours_follow_from_the_file(name):
    row, values = HOURS[name], given(name)
    gpus, hours = int(row["GPUs"]), row["hours, estimated"]
    local = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]
    assert local * gpus == int(row["updates' size"])
    steps = values.get("steps_per_generation", values["gradient_accumulation_steps"])
    assert values["per_device_train_batch_size"] * steps % values["num_generations"] == 0

    count, completions = generations_and_completions(values, gpus)
    assert round(count) == int(row["generations"])
    billions = float(row["10⁹ parameters"])
    operations = 16e9 * billions * completions * values["max_completion_length"] / 2
    estimate = (operations / (gpus * 312e12 * 0.3) + 10 * count) / 3600
    number = float(hours.split()[0])
    assert number == float(f"{estimate:.2g}")
    header = (RECIPES / "configs" / f"{name}.yaml").read_text()
    assert re.search(rf"[Aa]bout {re.escape(hours.split()[0])}\b", header)


def test_unknown_key_is_an_error(parse, tmp_path):
    path = tmp_path / "typo.yaml"
    path.write_text(CONFIGS[0].read_text() + "trace_lamda: 0.9\n")
    with pytest.raises(ValueError, match="trace_lamda"):
        parse("--config", str(path))


def test_help_renders_and_names_our_options():
    text = train.make_parser().format_help()
    for name in (*own_fields(), "reward_funcs", "prompt_column"):
        assert f"--{name}" in text


@pytest.fixture(scope="module")
def tiny_chat_model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tiny_chat")
    tiny.model(max_position_embeddings=2048).save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = tiny_chat.CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


def rows_like(dataset: str) -> list[dict]:
    """Problems of our own with the columns of the data set that a file names."""
    rows = []
    for i in range(12):
        problem, worked = f"what is {i} + 1?", rf"it is $\boxed{{{i + 1}}}$."
        if "gsm8k" in dataset:
            rows.append({"question": problem, "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"})
        elif "MATH" in dataset:
            level = f"Level {i % 5 + 1}"
            rows.append({"problem": problem, "level": level, "type": "a", "solution": worked})
        else:
            row = {"problem": problem, "solution": worked, "answer": str(i + 1), "level": "Easy"}
            rows.append(row)
    return rows


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_trains_two_steps_with_a_stand_in(tiny_chat_model, tmp_path, monkeypatch, path):
    """Its own options, but for the model, the problems, vLLM, and sizes that two cores can do."""
    values = meant(path.stem)
    data = tmp_path / "problems.jsonl"
    rows = rows_like(values["dataset_name"])
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = f"""--config {path} --model_name_or_path {tiny_chat_model}
        --dataset_name {data} --output_dir {tmp_path / "out"} --use_vllm false --use_cpu
        --bf16 false --max_steps 2 --per_device_train_batch_size 4 --gradient_accumulation_steps 2
        --num_generations 4 --max_completion_length 8 --learning_rate 1e-2 --save_strategy steps
        --save_steps 2 --reward_funcs math rewards_for_tests.mean_token --disable_tqdm true"""
    if "dataset_config" in values:
        words += " --dataset_config none"
    if "steps_per_generation" in values:
        words += " --steps_per_generation 4"
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # rewards_for_tests
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    train.main(words.split())

    state = json.loads((tmp_path / "out/checkpoint-2/trainer_state.json").read_text())
    steps = [entry for entry in state["log_history"] if "grad_norm" in entry]
    assert len(steps) == 2
    assert all(math.isfinite(entry["loss"]) and entry["grad_norm"] > 0 for entry in steps)
    assert "rewards/math_reward/mean" in steps[0]
    traced = any(metric.startswith("trace/") for metric in steps[0])
    assert traced == (values["trace_style"] != "none")
    assert ("kl" in steps[0]) == (values["beta"] != 0)
