"""From the first step to the report with a real model: SmolLM2, LoRA, bfloat16, as users run it.

Sums of few tokens, in signs that take several tokens each, and prompts that end in a line end: what
a made-up model with a token for each character never meets. Nothing is asserted about reward.
Prompts and completions are short and the adapters are in the last layers, which spares most of the
backward pass: a CPU without instructions for bfloat16 is fifty times slower than in float32.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import launching
import pytest
from pyarrow import parquet
from safetensors.torch import load_file
from transformers import AutoTokenizer

from trl_lambda.credit_log.format import segments

pytestmark = pytest.mark.slow

SIGNS = "√÷≤語🍎"
SUMS = [(4, 11), (7, 8), (15, 3), (9, 9), (2, 30), (21, 6)]
STEPS, TOKENS = 3, 8
ADAPTED = [f"layers.{i}.self_attn.{name}" for i in (28, 29) for name in ("q_proj", "v_proj")]


def chatml(text: str) -> str:
    """A prompt of plain text that ends in a line end, as ChatML does."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def sums(tmp_path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [{"problem": chatml(f"{a}+{b}={SIGNS}"), "answers": [str(a + b)]} for a, b in SUMS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def train(run_recipe, smollm2, sums):
    """Sixteen completions a step; `train(folder, steps, ...)`."""

    def train(folder: str, steps: int, *more: str) -> None:
        options = {
            "model_name_or_path": str(smollm2),
            "dataset_name": str(sums),
            "prompt_column": "problem",
            "template": "none",
            "reward_funcs": "math rewards_for_tests.brevity",
            "output_dir": folder,
            "max_steps": str(steps),
            "num_generations": "8",
            "per_device_train_batch_size": "8",
            "gradient_accumulation_steps": "2",
            "max_completion_length": str(TOKENS),
            "lora_target_modules": " ".join(ADAPTED),
            "lora_r": "4",
            "learning_rate": "1e-3",
            "lr_scheduler_type": "constant",
            "logging_steps": "1",
            "save_steps": "2",
            "credit_log_steps": "1",
            "gradient_checkpointing": "false",
            "bf16": "true",
            "disable_tqdm": "true",
        }
        words = [word for name, text in options.items() for word in (f"--{name}", *text.split())]
        switches = ("--use_peft", "--log_completions")
        run_recipe("grpo_lambda.py", *words, *switches, *more, seconds=900)

    return train


def recorded(folder: Path) -> list[dict]:
    """The groups of the credit log."""
    lines = [line for path in segments(folder / "credit_log") for line in path.open("rb")]
    return [record for record in map(json.loads, lines) if "completions" in record]


def texts(groups: list[dict]) -> list[str]:
    return ["".join(row["pieces"]) for group in groups for row in group["completions"]]


def adapter(folder: Path) -> dict:
    return load_file(folder / "adapter_model.safetensors")


def test_from_the_first_step_to_the_report(train, run_recipe, smollm2, sums, tmp_path):
    train("whole", STEPS)
    groups = recorded(tmp_path / "whole")
    assert [len(group["completions"]) for group in groups] == [8] * 2 * STEPS
    its_pieces_are_the_completions(groups, tmp_path / "whole", smollm2)
    resuming_ends_as_the_whole_run(train, tmp_path)

    run_recipe(
        "evaluate.py",
        *("--model", str(smollm2), "--adapter", "whole", "--engine", "transformers"),
        *("--benchmarks", str(sums), "--template", "none", "--max_tokens", str(TOKENS)),
        *("--k", "1", "--output_dir", "evaluated"),
        seconds=600,
    )
    lines = (tmp_path / "evaluated" / "sums" / "records.jsonl").read_text().splitlines()
    asked = {json.loads(line)["prompt"] for line in lines}
    assert asked == {group["prompt"] for group in groups}
    assert asked == {json.loads(line)["problem"] for line in sums.read_text().splitlines()}

    the_report_is_written(tmp_path / "whole")


def its_pieces_are_the_completions(groups: list[dict], folder: Path, model: Path) -> None:
    """Those that the tokens decode to, and those of TRL's own table."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    joined = []
    for row in (row for group in groups for row in group["completions"]):
        assert "".join(row["pieces"]) == tokenizer.decode(row["ids"])
        joined.append("".join(row["pieces"]).removesuffix(tokenizer.eos_token))
    tables = sorted((folder / "completions").glob("*.parquet"))
    shown = [text for one in tables for text in parquet.read_table(one)["completion"].to_pylist()]
    assert len(joined) == 16 * STEPS
    assert sorted(joined) == sorted(shown)
    # Else the test says nothing of characters that span tokens.
    assert any(sign in text for text in joined for sign in SIGNS)


def resuming_ends_as_the_whole_run(train, tmp_path: Path) -> None:
    """A kill in the third step leaves the checkpoint of the second."""
    place = tmp_path / "parts" / "checkpoint-2"
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", place)
    train("parts", STEPS, "--resume_from_checkpoint", "last")
    again, at_once = (recorded(tmp_path / name)[-2:] for name in ("parts", "whole"))
    assert len(recorded(tmp_path / "parts")) == 2  # the first steps were not run again
    assert texts(again) == texts(at_once)
    whole, parts = adapter(tmp_path / "whole"), adapter(tmp_path / "parts")
    before = adapter(place)
    assert any((before[name] != whole[name]).any() for name in whole)
    assert whole.keys() == parts.keys()
    assert all((parts[name] == whole[name]).all() for name in whole)


def the_report_is_written(folder: Path) -> None:
    package = str(Path(__file__).parents[2])
    paths = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "trl_lambda.report", str(folder)]
    done = launching.run(command, os.environ | {"PYTHONPATH": paths}, 300)
    assert done.returncode == 0, done.stderr[-2000:]
    page = Path(done.stdout.splitlines()[0])
    assert page.parent == folder
    assert page.read_text(encoding="utf-8").startswith("<!")
