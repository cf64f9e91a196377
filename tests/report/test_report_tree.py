"""The prefix tree of a group: branches against the definition of a process set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_lambda.report.tree import prefix_tree


def rows(*completions):
    """(ids, reward, group advantage) of each completion."""
    return [{"ids": ids, "reward": r, "group_advantage": a} for ids, r, a in completions]


def test_by_hand():
    made = rows(([1, 2, 3], 1.0, 0.5), ([1, 2, 4], 0.0, -1.5), ([1, 5], 1.0, 0.5), ([9], 1.0, 0.5))
    root, shared, *rest = prefix_tree(made)
    assert (root.start, root.end, root.rows, root.parent) == (0, 0, (0, 1, 2, 3), None)
    assert (root.mean_reward, root.step_advantage) == (0.75, 0)
    assert (shared.start, shared.end, shared.rows) == (0, 1, (0, 1, 2))
    assert shared.step_advantage == pytest.approx(-0.1667)
    spans = {(b.start, b.end, b.rows, b.parent) for b in rest}
    assert spans == {
        (1, 2, (0, 1), 1),
        (2, 3, (0,), 2),
        (2, 3, (1,), 2),
        (1, 2, (2,), 1),
        (0, 1, (3,), 0),
    }


def test_a_completion_that_is_the_prefix_of_another_ends_in_its_branch():
    root, longer = prefix_tree(rows(([1, 2], 1.0, 1.0), ([1, 2, 3], 0.0, -1.0)))
    assert (root.start, root.end, root.rows) == (0, 2, (0, 1))
    assert (longer.start, longer.end, longer.rows) == (2, 3, (1,))


def test_rewards_that_are_not_known_count_nowhere():
    root, *leaves = prefix_tree(rows(([1], 1.0, 0.5), ([2], None, 0.0)))
    assert (root.mean_reward, root.step_advantage) == (1.0, 0.5)
    assert leaves[1].mean_reward is None


def test_identical_and_empty_completions():
    assert len(prefix_tree(rows(([1, 1], 1.0, 0.0), ([1, 1], 1.0, 0.0)))) == 1
    (empty,) = prefix_tree(rows(([], 1.0, 0.0), ([], 0.0, 0.0)))
    assert (empty.start, empty.end, empty.rows) == (0, 0, (0, 1))


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=7))
def test_each_token_lies_in_the_branch_of_its_process_set(ids):
    branches = prefix_tree(rows(*((row, 1.0, 0.0) for row in ids)))
    for i, row in enumerate(ids):
        for t in range(len(row)):
            (branch,) = (b for b in branches if i in b.rows and b.start <= t < b.end)
            assert set(branch.rows) == {j for j, o in enumerate(ids) if o[: t + 1] == row[: t + 1]}
