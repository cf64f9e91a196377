"""kill -9, twice, once while saving: the run ends with the numbers of one that was never killed."""

import json

import pytest
import resume
from launching import launch

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(
    ("engine", "data"), [("ddp", ()), ("fsdp2", ()), ("zero3", ()), ("ddp", ("--stream",))]
)
def test_a_killed_run_ends_as_one_that_was_not(engine, data, tmp_path):
    results = tmp_path / "whole.json", tmp_path / "killed.json"

    def start(name, result, *arguments):
        arguments = (str(tmp_path / name), str(result), *data, *arguments)
        return launch(resume.__file__, *arguments, engine=engine)

    def killed(*arguments):
        return start("killed", results[1], *arguments)

    whole = start("whole", results[0])
    assert whole.returncode == 0, whole.stderr[-3000:]

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
    assert found["sharding"] == expected["sharding"] == engine
    assert [entry["step"] for entry in found["logs"]] == list(range(1, 11))
    assert found["logs"] == expected["logs"]
    assert found["parameters"] == expected["parameters"]
