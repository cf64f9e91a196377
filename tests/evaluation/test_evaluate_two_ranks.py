"""Two processes share an evaluation and write what one process writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import evaluate_while_training
import pytest

from trl_lambda.evaluation import read_records

HERE = Path(__file__).parent


@pytest.mark.distributed
def test_two_processes_write_what_one_does(tmp_path):
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent, HERE)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_cpu_threads_per_process", "1"]
    command += ["--main_process_port", "0", str(HERE / "evaluate_while_training.py")]
    run = subprocess.run(
        [*command, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    evaluate_while_training.run(str(tmp_path / "one"))
    for step in (0, 2):
        name = f"evaluation/sums/step-{step}"
        one, two = (read_records(tmp_path / run / f"{name}.jsonl") for run in ("one", "two"))
        assert len(two) == 15
        assert two == one
        one, two = (
            json.loads((tmp_path / run / f"{name}.json").read_text()) for run in ("one", "two")
        )
        assert two == one
    assert (tmp_path / "two" / "best" / "model.safetensors").exists()
