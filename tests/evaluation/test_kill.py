"""kill -9 in the middle of an evaluation, then the same command again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def start(model_folder: str, output_dir: Path, seconds: float) -> subprocess.Popen:
    paths = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]
    return subprocess.Popen(
        [
            sys.executable,
            str(HERE / "evaluate_tiny.py"),
            model_folder,
            str(output_dir),
            str(seconds),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_as_never_killed(model_folder, tmp_path):
    assert start(model_folder, tmp_path / "whole", 0).wait() == 0
    path = tmp_path / "killed" / "sums" / "records.jsonl"
    seen = 0
    for _ in range(2):
        process = start(model_folder, tmp_path / "killed", 0.25)
        while not path.exists() or path.read_bytes().count(b"\n") < seen + 8:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / "sums" / "summary.json").exists()
        seen = path.read_bytes().count(b"\n")
        # As if the kill had come while a line was being written.
        path.write_bytes(path.read_bytes() + b'{"problem_index": 7, "sam')
    assert 16 <= seen < 40
    assert start(model_folder, tmp_path / "killed", 0).wait() == 0
    for name in ("records.jsonl", "summary.json", "settings.json"):
        whole, killed = (tmp_path / run / "sums" / name for run in ("whole", "killed"))
        assert killed.read_bytes() == whole.read_bytes()
    assert path.read_bytes().count(b"\n") == 40
