"""The scripts of the package as modules, and the recipes that call them, as users start them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import launching
import pytest
import tiny

ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "accelerate.commands.launch", "--num_processes", "1")


@pytest.fixture
def run(tmp_path):
    """Runs Python's words in an empty folder, without a GPU; the process must succeed."""

    def run(*words: str):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(tmp_path / "datasets_cache"),
        }
        process = launching.run([sys.executable, *words], environment, 600, tmp_path)
        assert process.returncode == 0, process.stderr[-3000:]
        return process

    return run


@pytest.mark.slow
def test_a_module_trains_on_a_cpu_with_nothing_said_of_it(run, tmp_path):
    """tests/recipes/test_grpo_lambda.py does the same with the recipe."""
    tiny.model(max_position_embeddings=2048).save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"{i}+1=", "answers": [str(i + 1)]} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = """--model_name_or_path model --dataset_name rows.jsonl --reward_funcs math
        --output_dir out --max_steps 1 --per_device_train_batch_size 4 --num_generations 4
        --max_completion_length 6 --save_strategy no --disable_tqdm true --report_to none"""
    process = run(*LAUNCH, "-m", "trl_lambda.scripts.train", *options.split())
    assert "torch sees no GPU. Mixed precision is off" in process.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "trl_lambda.scripts.train"), ["--reward_funcs", "--trace_lambda", "on the CPU"]),
        (("-m", "trl_lambda.scripts.evaluate"), ["--benchmarks", "--compare", "math500"]),
        ((str(ROOT / "recipes" / "evaluate.py"),), ["--benchmarks", "--compare", "math500"]),
    ],
    ids=["train", "evaluate", "recipes/evaluate.py"],
)
def test_help_helps(run, words, said):
    shown = run(*words, "--help").stdout
    assert all(part in shown for part in said)
