"""Starts scripts with `accelerate launch` on CPU processes, under the engine files that we ship."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

TESTS = Path(__file__).parent
ENGINES = TESTS.parent / "recipes" / "accelerate"
# What takes the place of a file's own settings.
ON_CPU = {"num_processes": 2, "mixed_precision": "no", "main_process_port": 0}


def launch(
    script: str | Path,
    *arguments: str,
    engine: str = "ddp",
    folder: Path | None = None,
    timeout: int = 300,
) -> subprocess.CompletedProcess:
    """Runs a script on two gloo processes, one thread each.

    The script calls `on_cpu.process_state()` before it makes anything of accelerate.

    Args:
        engine: a file of recipes/accelerate.
        folder: where to put that file with the CPU in place; needed for all engines but "ddp".
    """
    # `--cpu` would leave the processes to mpirun; `--multi_gpu` is torchrun.
    options = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    if engine != "ddp":
        assert folder is not None
        settings = yaml.safe_load((ENGINES / f"{engine}.yaml").read_text()) | ON_CPU
        path = folder / f"{engine}_on_cpu.yaml"
        path.write_text(yaml.safe_dump(settings))
        options = ["--config_file", str(path)]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    command += ["--num_cpu_threads_per_process", "1", str(script), *arguments]
    paths = (TESTS.parent, TESTS, Path(script).parent, os.environ.get("PYTHONPATH", ""))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, map(str, paths))),
        "ACCELERATE_USE_CPU": "true",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
