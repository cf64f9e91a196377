"""The CI script and the workflow that calls it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import launching
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "run"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
SETS = {"aime24", "amc23", "math500", "olympiadbench", "gsm8k", "asdiv"}


def test_the_script_passes_shellcheck():
    found = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert found or shutil.which("shellcheck"), "pip install -e '.[test]' installs shellcheck"
    done = subprocess.run(
        [found or "shellcheck", str(SCRIPT)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("missing", sorted(SETS))
def test_the_script_stops_at_once_without_the_test_problems(tmp_path, missing):
    for name in SETS - {missing}:
        (tmp_path / f"{name}.parquet").touch()
    environment = os.environ | {"TRL_LAMBDA_TEST_DATA": str(tmp_path)}
    done = launching.run(["bash", str(SCRIPT)], environment, 60)
    assert done.returncode == 1
    assert f"{missing}.parquet" in done.stderr
    assert "CONTRIBUTING.md" in done.stderr
    assert done.stdout == ""  # nothing was begun


def test_the_workflow_calls_the_script_with_the_cached_problems():
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    cache, fetch, run = job["steps"][2:]
    assert (run["run"], "if" in run, "continue-on-error" in run) == (".ci/run", False, False)
    folder = run["env"]["TRL_LAMBDA_TEST_DATA"]
    assert cache["with"]["path"] == fetch["env"]["FOLDER"] == folder
    assert os.access(SCRIPT, os.X_OK)
    checked = subprocess.run(["bash", "-n"], input=fetch["run"], text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_the_guide_names_every_marker_and_every_set():
    guide = CONTRIBUTING.read_text()
    settings = (ROOT / "pyproject.toml").read_text()
    markers = re.findall(r'^  "(\w+): ', settings, re.M)
    assert len(markers) == 7
    assert {m for m in markers if f"`-m {m}`" not in guide} == set()
    (left_out,) = re.findall(r"^addopts = .*-m '(.*)'", settings, re.M)
    assert sorted(left_out.split(" and ")) == sorted(f"not {marker}" for marker in markers)
    assert {name for name in SETS if f"`{name}.parquet`" not in guide} == set()


@pytest.mark.slow
def test_tests_of_a_gpu_fail_where_there_is_none():
    """Asked for, none of them passes or skips: each names what is missing."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = launching.run([*command, str(ROOT / "tests" / "gpu")], environment, 600, ROOT)
    assert done.returncode == 1, done.stdout
    (count,) = re.findall(r"^(\d+) errors? in ", done.stdout, re.M)  # nothing else happened
    assert done.stdout.count("need a CUDA device, and torch.cuda.is_available() is False") >= int(
        count
    )
    assert int(count) > 15
