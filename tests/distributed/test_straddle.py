"""Groups that straddle two processes give the credit, and the model, of one process."""

import json
from types import SimpleNamespace

import pytest
import straddle
import torch
from launching import launch

from trl_lambda.metrics import means_and_maximum

pytestmark = pytest.mark.distributed
COMPARED = ("loss", "kl", "process_sets/", "trace/", "groups/", "reward", "policy_loss", "probe/")


def limits(case: str) -> dict[str, float]:
    """What a probe says comes from weights that were trained in another order of sums."""
    return {"rtol": 1e-5, "atol": 1e-6} if "probe" in case else {"rtol": 1e-6, "atol": 1e-7}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Folder with the results of two processes, all cases in one launch."""
    folder = tmp_path_factory.mktemp("two")
    run = launch(straddle.__file__, str(folder))
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return {case: straddle.run(case, folder) for case in straddle.CASES} | {"folder": folder}


@pytest.mark.parametrize("case", straddle.CASES)
def test_credit_of_two_processes_is_that_of_one(two_processes, one_process, case):
    ranks = [torch.load(two_processes / f"{case}.{rank}.pt") for rank in (0, 1)]
    whole = one_process[case]
    for name in ("advantages", "eval_advantages", "kl_weight"):
        if whole[name] is None:
            assert all(rank[name] is None for rank in ranks)
            continue
        if whole[name].ndim == 1:
            parts = torch.cat([rank[name] for rank in ranks])
            torch.testing.assert_close(parts, whole[name], **limits(case))
            continue
        width = whole[name].shape[1]
        parts = [
            torch.nn.functional.pad(rank[name], (0, width - rank[name].shape[1])) for rank in ranks
        ]
        # The same sums of rewards in the same order: equal to the last bit or nearly so.
        torch.testing.assert_close(torch.cat(parts), whole[name], **limits(case))


@pytest.mark.parametrize("case", straddle.CASES)
def test_training_of_two_processes_is_that_of_one(two_processes, one_process, case):
    ranks = [torch.load(two_processes / f"{case}.{rank}.pt") for rank in (0, 1)]
    assert torch.equal(ranks[0]["parameters"], ranks[1]["parameters"])
    torch.testing.assert_close(
        ranks[0]["parameters"], one_process[case]["parameters"], rtol=1e-3, atol=2e-4
    )
    for ours, theirs in zip(ranks[0]["logs"], one_process[case]["logs"], strict=True):
        compared = {k: v for k, v in theirs.items() if k.startswith(COMPARED)}
        assert {k: ours[k] for k in compared} == pytest.approx(compared, rel=1e-3, abs=1e-5)


def test_the_calibration_is_the_same_on_all_processes(two_processes, one_process):
    """To the bit on both, and in use."""
    case = "probe_calibrated"
    first, second = (torch.load(two_processes / f"{case}.{rank}.pt") for rank in (0, 1))
    alone = one_process[case]
    assert first["logs"][-1]["probe/in_use"] == alone["logs"][-1]["probe/in_use"] == 1
    assert first["logs"][-1]["probe/share_fallback"] == pytest.approx(1 / 3)
    for name, value in alone["calibration"].items():
        ours, theirs = (torch.as_tensor(part["calibration"][name]) for part in (first, second))
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours, torch.as_tensor(value), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", straddle.CASES)
def test_the_completions_table_has_the_rows_of_all_processes(two_processes, one_process, case):
    whole = one_process[case]["shown"]
    for rank in (0, 1):
        shown = torch.load(two_processes / f"{case}.{rank}.pt")["shown"]
        assert shown.keys() == whole.keys()
        for column, values in shown.items():
            close = {"rel": limits(case)["rtol"], "abs": limits(case)["atol"]}
            assert values == pytest.approx(whole[column], **close, nan_ok=True), column


def test_the_largest_z_may_be_any_process_s():
    """`means_and_maximum` over two processes, whose maxima come in either order."""
    statistics = {"one": (torch.tensor(6.0), torch.tensor(4.0))}
    for largest in ([1.0, 5.0], [5.0, 1.0]):
        both = torch.tensor([[3.0, 2.0, value] for value in largest])
        gathers = SimpleNamespace(gather=lambda own, both=both: both)
        means, maximum = means_and_maximum(gathers, statistics, torch.tensor(0.0))
        assert (means, maximum) == ({"one": 1.5}, 5.0)


def test_one_process_writes_what_all_saw(two_processes, one_process):
    """The second group, recorded whole, has rows of both processes."""

    def lines(folder):
        paths = sorted((folder / "recorded" / "credit_log").glob("records-*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def rows(entries):
        groups = [entry for entry in entries if entry["kind"] == "group"]
        return {row["row"]: row for group in groups for row in group["completions"]}

    both, alone = lines(two_processes), lines(one_process["folder"])
    assert rows(both).keys() == rows(alone).keys()
    compared = ("ids", "reward", "rewards", "extra")
    texts = {name: [row[key] for key in compared] for name, row in rows(both).items()}
    assert texts == {n: [row[key] for key in compared] for n, row in rows(alone).items()}
    for name, row in rows(both).items():
        assert row["advantage"] == pytest.approx(rows(alone)[name]["advantage"], abs=1e-6)
        assert row["ids"] == rows(alone)[name]["ids"]
    updated = {entry["row"] for entry in both if entry["kind"] == "update"}
    assert {f"0-{number}" for number in range(8)} <= updated
