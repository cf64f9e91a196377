"""Branched groups that straddle two processes: the credit is that of the whole tree."""

import branched_training
import pytest
import sibling_oracles
import torch
from launching import launch

from trl_lambda.functional import reward_denominator

pytestmark = pytest.mark.distributed
GROUPS = [n // 4 for n in range(12)]


@pytest.fixture(scope="module", params=["ddp", "fsdp2", "zero3"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    done = launch(branched_training.__file__, str(folder), engine=request.param)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("case", branched_training.CASES)
def test_credit_is_that_of_the_whole_tree(folder, case):
    ranks = [torch.load(folder / f"{case}.{rank}.pt")[0] for rank in (0, 1)]
    for parts in zip(*ranks, strict=True):
        whole = {
            name: [value for part in parts for value in part[name]]
            for name in ("completions", "parent", "fork", "rewards")
        }
        lengths = list(map(len, whole["completions"]))
        width = max(lengths)
        for row, (parent, fork) in enumerate(zip(whole["parent"], whole["fork"], strict=True)):
            assert GROUPS[parent] == GROUPS[row]
            assert parent // 6 == row // 6  # forked on its own process
            taken = whole["completions"][parent][:fork]
            assert whole["completions"][row][:fork] == taken
        # Each part of a group has its own roots: two of four rows, one of two.
        roots = [row for row, parent in enumerate(whole["parent"]) if parent == row]
        assert roots == [0, 1, 4, 6, 8, 9]

        token = sibling_oracles.by_writers(whole["parent"], whole["fork"])
        rewards = torch.tensor(whole["rewards"], dtype=torch.float64)
        unit = reward_denominator(rewards, torch.tensor(GROUPS))[:, None]
        want = expected(case, token, lengths, whole["rewards"], width, unit)
        want = want * sibling_oracles.branch_weights(token, GROUPS, width)
        for rank, part in enumerate(parts):
            got = part["advantages"].double()
            for row in range(6):
                n = lengths[6 * rank + row]
                torch.testing.assert_close(
                    got[row, :n], want[6 * rank + row, :n], rtol=1e-4, atol=1e-5
                )


def expected(case, token, lengths, rewards, width, unit):
    if case == "tree":
        values = sibling_oracles.values(token, lengths, GROUPS, rewards, width, "children")
        r = torch.tensor(rewards, dtype=torch.float64).view(3, 4)
        own = (r - r.mean(1, keepdim=True)).view(12, 1) / unit
        return values.diff(dim=1) / unit + own.clamp(min=-0.1)
    shrinkage = branched_training.CASES[case].get("sibling_shrinkage", 1.0)
    credit = sibling_oracles.branch_advantages(
        token, lengths, GROUPS, rewards, width, shrinkage, "children"
    )
    return (credit / unit).clamp(min=-0.1)


@pytest.mark.parametrize("case", branched_training.CASES)
def test_metrics_are_those_of_all_processes(folder, case):
    ranks = [torch.load(folder / f"{case}.{rank}.pt") for rank in (0, 1)]
    for step, log in enumerate(ranks[0][1]):
        parts = [batches[step] for batches, _ in ranks]
        shared = sum(sum(part["fork"]) for part in parts)
        lengths = sum(len(ids) for part in parts for ids in part["completions"])
        assert log["rollout/shared_tokens"] == shared
        assert log["rollout/generated_tokens"] == lengths - shared
