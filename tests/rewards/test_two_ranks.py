"""Two ranks of one launch, each with its own workers."""

from pathlib import Path

import psutil
import pytest
from launching import launch

SCRIPT = r"""
import psutil
from accelerate import Accelerator
from accelerate.utils import gather_object
from trl_lambda.rewards import math_reward

accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
hang = r"\boxed{9^{9^{9^{9}}}}"
completions = [hang, *(rf"\boxed{{\frac{{{n}}}{{7}}}}" for n in range(12))]
rewards = math_reward(completions, answer=[f"{rank}/7"] * 13)
assert rewards == [0.0, *(float(n == rank) for n in range(12))], rewards
pids = [child.pid for child in psutil.Process().children()]
gathered = gather_object([(rank, *pids)])
if accelerator.is_main_process:
    for line in gathered:
        print("rank", *line)
accelerator.end_training()
"""


@pytest.mark.distributed
def test_two_processes_under_accelerate(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = launch(script, timeout=180)
    assert done.returncode == 0, done.stderr
    ranks = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("rank")]
    assert [rank for rank, *_ in ranks] == ["0", "1"]
    workers = [set(map(int, pids)) for _, *pids in ranks]
    assert all(workers)
    assert not workers[0] & workers[1]
    assert not any(psutil.pid_exists(pid) for pid in workers[0] | workers[1])
