"""The credit log of two processes of which one knows less, or fails: nobody waits for it."""

import one_sided_record
import pytest
from launching import launch

from trl_lambda.report import load_run

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(the log of the first training, that of the second, what was printed)."""
    folder = tmp_path_factory.mktemp("one_sided")
    done = launch(one_sided_record.__file__, str(folder), timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    (earlier,) = (folder / "_earlier_runs").iterdir()
    return load_run(earlier), load_run(folder), done.stderr


def test_every_value_stands_at_its_completion(runs):
    first, _, printed = runs
    for group in first.groups:
        for row in group["completions"]:
            rank, place = divmod(int(row["row"].split("-")[1]), 6)
            own = f"{rank}.{place}"
            assert row["extra"]["one_sided"] == (own if rank == 1 else None)
            assert row["extra"]["short"] == (own if rank == 1 or place < 2 else None)
    assert printed.count("got 2 values for 6 completions") == 1


def test_a_group_that_a_process_cannot_describe_is_left_out_whole(runs):
    first, second, printed = runs
    assert [group["id"] for group in first.groups] == ["0-0", "0-1", "1-0", "1-1"]
    # The second group has rows of both processes.
    assert [group["id"] for group in second.groups] == ["0-0", "1-0", "1-1"]
    assert all(row["update"] for group in second.groups for row in group["completions"])
    assert printed.count("RuntimeError: only here") == 1
