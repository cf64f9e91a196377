"""Recipes are scripts beside the package: tests run them as users do, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import trl_lambda

HERE = Path(__file__).parent
RECIPES = HERE.parents[1] / "recipes"
PACKAGE_PARENT = Path(trl_lambda.__file__).parents[1]


@pytest.fixture
def run_recipe(tmp_path):
    """Runs a recipe in `tmp_path`; `run_recipe(name, *arguments)` gives the finished process."""

    def run(
        name: str, *arguments: str, launcher: tuple[str, ...] = (), seconds: int = 120
    ) -> subprocess.CompletedProcess:
        paths = [str(PACKAGE_PARENT), str(HERE), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(tmp_path / "datasets_cache"),
        }
        process = subprocess.Popen(
            [sys.executable, *launcher, str(RECIPES / name), *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            output = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # not kill: a launcher then ends its processes as well
            process.communicate(timeout=60)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, *output)

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """A folder with the tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_qwen2")
    tiny.model(max_position_embeddings=2048).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def gsm8k(real_data: Path) -> Path:
    """Real problems, as a file."""
    return real_data / "gsm8k.parquet"
