"""Two processes share an evaluation and write what one process writes."""

import json

import evaluate_while_training
import pytest
from launching import launch

from trl_lambda.evaluation import read_records


@pytest.mark.distributed
def test_two_processes_write_what_one_does(tmp_path):
    run = launch(evaluate_while_training.__file__, str(tmp_path / "two"))
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
