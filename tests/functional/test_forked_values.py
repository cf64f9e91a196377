"""V of a prefix that was forked: the critic as one more child, and nothing of one's own branch."""

import sibling_oracles
import torch
from branching import trees
from hypothesis import given
from hypothesis import strategies as st

from trl_lambda.functional import Branches
from trl_lambda.functional.segments import (
    SegmentValues,
    segment_counts,
    segment_numbers,
    segment_starts,
    values_with_children,
)

REWARDS = st.sampled_from([0.0, 1.0, 0.25, 1.0, 0.0, 0.5, -1.0, float("nan")])


def other_children(tree, rewards, i: int, at: int) -> list[float]:
    """V of the branches, other than row i's, into which its first `at` tokens go on."""
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    rows = [
        j for j in sibling_oracles.members(writer, tree.groups, i, at) if len(tree.ids[j]) >= at
    ]
    branches = sibling_oracles.parts(writer, rows, at)
    return [
        sibling_oracles.value(writer, rewards, branch, at + 1, tree.width + 1, "children")
        for branch in branches
        if i not in branch
    ]


@given(trees(truncate=False), st.data())
def test_values_equal_the_definition(tree, data):
    B, T = len(tree.ids), max(1, tree.width)
    rewards = data.draw(st.lists(REWARDS, min_size=B, max_size=B))
    flags = st.lists(st.booleans(), min_size=T, max_size=T)
    ends_BT = torch.tensor([data.draw(flags) for _ in range(B)])
    mask_BT = torch.tensor([[t < len(ids) for t in range(T)] for ids in tree.ids])
    number_BT = segment_numbers(ends_BT, mask_BT)
    used_B = torch.tensor(data.draw(st.lists(st.booleans(), min_size=B, max_size=B)))
    S = data.draw(st.integers(max(1, int(segment_counts(number_BT).max())), T + 2))
    critic_BS = torch.rand(B, S, dtype=torch.float64)
    critic = SegmentValues(critic_BS, torch.zeros(B), used_B)

    branches = Branches(torch.tensor(tree.parents), torch.tensor(tree.forks))
    children_BT = branches.children(torch.tensor(list(map(len, tree.ids))), T)
    reward_B = torch.tensor(rewards, dtype=torch.float64)
    lost = {group for group, r in zip(tree.groups, rewards, strict=True) if r != r}
    unknown_B = torch.tensor([group in lost for group in tree.groups])
    tree_value_BT1 = tree.sets(T).mean(reward_B, "children")
    tree_value_BT1 = tree_value_BT1.masked_fill(unknown_B[:, None], torch.nan)
    got = values_with_children(critic, number_BT, children_BT, tree_value_BT1).value_BS

    starts = segment_starts(number_BT).tolist()
    for i, count in enumerate(segment_counts(number_BT).tolist()):
        for k in range(S):
            want = critic_BS[i, k]
            if k < count and starts[i][k] > 0 and used_B[i]:
                others = other_children(tree, rewards, i, starts[i][k])
                if others and not unknown_B[i]:
                    want = (want + sum(others)) / (1 + len(others))
            torch.testing.assert_close(got[i, k], torch.as_tensor(want), rtol=1e-9, atol=1e-9)


def test_a_fork_in_two_halves_the_way_to_the_sibling():
    """Two rows part after two tokens: each one's V there is half critic, half the other's r."""
    branches = Branches(torch.tensor([0, 0]), torch.tensor([0, 2]))
    children_BT = branches.children(torch.tensor([4, 4]), 4)
    assert children_BT.tolist() == [[1, 1, 2, 1]] * 2
    number_BT = torch.tensor([[0, 0, 1, 1]] * 2)
    critic = SegmentValues(torch.full((2, 2), 0.5), torch.tensor([1.0, 0.0]), torch.ones(2).bool())
    tree_value_BT1 = torch.tensor([[0.5, 0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 0.5, 0.0, 0.0]])
    got = values_with_children(critic, number_BT, children_BT, tree_value_BT1)
    assert got.value_BS.tolist() == [[0.5, 0.25], [0.5, 0.75]]
