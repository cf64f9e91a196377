"""One of two processes pushes; when the Hub refuses, the other does not wait for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import Fault

pytestmark = pytest.mark.distributed


def test_one_process_pushes_and_a_refusal_does_not_hang_the_other(hub, tmp_path):
    hub.faults = [Fault("POST", "repos/create", status=401, times=1)]
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here.parents[1], here.parent, here)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_cpu_threads_per_process", "1"]
    command += ["--main_process_port", "0", str(here / "push_two_processes.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / "0.txt").read_text() == "refused True"
    assert (tmp_path / "1.txt").read_text() == "pushed True"  # its part was to save
    assert hub.repos["somebody/two"].commits == ["End of training"]
    card = hub.repos["somebody/two"].files["README.md"].decode()
    assert "| Processes | 2 |" in card
