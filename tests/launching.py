"""Starts scripts with `accelerate launch` on CPU processes, under the engine files that we ship."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import yaml

TESTS = Path(__file__).parent
ENGINES = TESTS.parent / "recipes" / "accelerate"
# What takes the place of a file's own settings.
ON_CPU = {"num_processes": 2, "mixed_precision": "no", "main_process_port": 0}


def launch(
    script: str | Path,
    *arguments: str,
    engine: str = "ddp",
    timeout: int = 900,
) -> subprocess.CompletedProcess:
    """Runs a script on two gloo processes, one thread each.

    The script calls `on_cpu.process_state()` before it makes anything of accelerate.

    Args:
        engine: a file of recipes/accelerate, used with `ON_CPU` in it.
        timeout: seconds, after which all processes are killed.

    Raises:
        subprocess.TimeoutExpired: with what they wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{engine}.yaml"
        settings = yaml.safe_load((ENGINES / f"{engine}.yaml").read_text()) | ON_CPU
        path.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path)]
        command += ["--num_cpu_threads_per_process", "1", str(script), *arguments]
        return run(command, _environment(Path(script).parent), timeout)


def _environment(folder: Path) -> dict[str, str]:
    paths = (TESTS.parent, TESTS, folder, os.environ.get("PYTHONPATH", ""))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, map(str, paths))),
        "ACCELERATE_USE_CPU": "true",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }


def run(
    command: list[str], environment: dict[str, str], timeout: int, folder: Path | None = None
) -> subprocess.CompletedProcess:
    """`subprocess.run`, whose timeout would leave the launcher's own processes behind.

    Args:
        folder: the working directory; None for the caller's.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=folder
    ) as started:
        try:
            output, errors = started.communicate(timeout=timeout)
        except BaseException:
            # Each has a session of its own, so no signal to a group would reach them.
            for process in [*psutil.Process(started.pid).children(recursive=True), started]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            raise
    return subprocess.CompletedProcess(command, started.returncode, output, errors)
