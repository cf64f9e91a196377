"""Random branched groups for the tests of branches and sibling baselines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from trl_lambda.functional import Branches, branch_sets

# Mostly known, or too few rows are left to part from one another.
REWARDS = st.one_of(
    st.floats(-2, 2), st.floats(0, 1), st.sampled_from([0.0, 1.0]), st.just(float("nan"))
)
SHRINKAGES = st.one_of(st.sampled_from([0.0, 1.0, float("inf")]), st.floats(0, 50))


@dataclass
class Tree:
    """Completions in lists; a length of 0 marks one that left the counts, its ids stay."""

    ids: list[list[int]]
    lengths: list[int]
    parents: list[int]
    forks: list[int]
    groups: list[int]

    def tokens(self, width: int = 0, filler: int = 0) -> torch.Tensor:
        width = max(width, self.width)
        rows = [row + [filler] * (width - len(row)) for row in self.ids]
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), width)

    @property
    def width(self) -> int:
        return max(map(len, self.ids))

    def sets(self, width: int = 0, filler: int = 0, device: str | torch.device = "cpu"):
        """The `PrefixSets`."""
        lengths, groups = torch.tensor([self.lengths, self.groups], device=device)
        tokens = self.tokens(width, filler).to(device)
        return branch_sets(tokens, lengths, groups, self.branches(device))

    def branches(self, device: str | torch.device = "cpu") -> Branches:
        return Branches(*torch.tensor([self.parents, self.forks], device=device))

    def permuted(self, order: list[int]) -> Tree:
        """Row n of the result is row order[n] of this one."""
        place = {old: new for new, old in enumerate(order)}
        return Tree(
            [self.ids[i] for i in order],
            [self.lengths[i] for i in order],
            [place[self.parents[i]] for i in order],
            [self.forks[i] for i in order],
            [self.groups[i] for i in order],
        )


@st.composite
def trees(draw, max_rows: int = 8, max_length: int = 7, truncate: bool = True):
    """Trees of any depth over few tokens, so that rows also agree by coincidence."""
    B = draw(st.integers(1, max_rows))
    tree = Tree([], [], [], [], [])
    for i in range(B):
        group = draw(st.sampled_from([0, 0, 0, 1]))
        candidates = [j for j in range(i) if tree.groups[j] == group]
        parent = draw(st.sampled_from([i, *candidates]))
        taken = [] if parent == i else tree.ids[parent]
        fork = draw(st.integers(0, len(taken)))
        own = draw(st.lists(st.integers(0, 1), max_size=max_length - fork))
        tree.ids.append(taken[:fork] + own)
        left = truncate and draw(st.sampled_from([False, False, False, True]))
        tree.lengths.append(0 if left else fork + len(own))
        tree.parents.append(parent)
        tree.forks.append(fork)
        tree.groups.append(group)
    return tree.permuted(draw(st.permutations(range(B))))


def even_tree(K: int, M: int, fork: int, length: int) -> Tree:
    """K roots of one group, each continued M ways from one fork; no two tokens are equal."""
    tree = Tree([], [], [], [], [])
    fresh = iter(range(10**6))
    for i in range(K):
        for m in range(M):
            taken = tree.ids[i * M][:fork] if m else []
            tree.ids.append(taken + [next(fresh) for _ in range(length - len(taken))])
            tree.lengths.append(length)
            tree.parents.append(i * M)
            tree.forks.append(len(taken))
            tree.groups.append(0)
    return tree
