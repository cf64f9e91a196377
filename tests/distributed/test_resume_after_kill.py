"""kill -9, twice, once while saving: the run ends with the numbers of one that was never killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.distributed
HERE = Path(__file__).parent
FSDP2 = {
    "distributed_type": "FSDP",
    "num_machines": 1,
    "num_processes": 2,
    "machine_rank": 0,
    "main_process_port": 0,
    "mixed_precision": "no",
    "fsdp_config": {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_transformer_layer_cls_to_wrap": "Qwen2DecoderLayer",
        "fsdp_reshard_after_forward": True,
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    },
}


def launch(engine: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if engine == "ddp":
        command += ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    else:
        path = folder / "fsdp2.yaml"
        path.write_text(yaml.safe_dump(FSDP2))
        command += ["--config_file", str(path)]
    command += ["--num_cpu_threads_per_process", "1", str(HERE / "resume.py"), *arguments]
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))
    environment = os.environ | {"PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_killed_run_ends_as_one_that_was_not(engine, tmp_path):
    results = tmp_path / "whole.json", tmp_path / "killed.json"
    whole = launch(engine, tmp_path, str(tmp_path / "whole"), str(results[0]))
    assert whole.returncode == 0, whole.stderr[-3000:]

    def killed(*arguments):
        return launch(engine, tmp_path, str(tmp_path / "killed"), str(results[1]), *arguments)

    # Step 3 of 4 in the first window; then the third of the second one, never complete. The third
    # window's completions are scored against the reference of step 6.
    first = killed("--kill_at", "3")
    assert first.returncode != 0
    assert "SIGKILL" in first.stderr
    second = killed("--kill_while_saving", "7")
    assert second.returncode != 0
    assert not results[1].exists()
    third = killed()
    assert third.returncode == 0, third.stderr[-3000:]
    assert "checkpoint-7 is incomplete (trainer_state.json is missing)" in third.stderr

    expected, found = (json.loads(path.read_text()) for path in results)
    assert found["sharded"] == expected["sharded"] == (engine == "fsdp2")
    assert [entry["step"] for entry in found["logs"]] == list(range(1, 11))
    assert found["logs"] == expected["logs"]
    assert found["parameters"] == expected["parameters"]
