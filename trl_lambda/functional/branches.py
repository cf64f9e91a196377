"""Branches: a group whose completions were forked from one another, by true branch ids.

Shape suffixes: B completions, T completion positions, F different fork positions.

A rollout that forks knows which tokens are one and the same: those before a fork were generated
once. Equal tokens cannot tell that from coincidence. `branch_sets` turns the ids into the
representation that process sets have, so that sizes, values, `tree` and sibling baselines work on
the real tree as on equal prefixes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .process_sets import PrefixSets, check_completions, prefix_sets


@dataclass(frozen=True)
class Branches:
    """Where each completion comes from.

    Attributes:
        parent_B: `(B,)`, integer: row of the completion whose first tokens this one took over; the
            own row where it took over none (a *root*). A parent may be a fork itself.
        fork_B: `(B,)`, integer: how many completion tokens it took over, 0 for a root. A fork at 0
            shares nothing with its parent: it is one more root.
    """

    parent_B: Tensor
    fork_B: Tensor

    def own_tokens(self, width: int) -> Tensor:
        """`(B, width)` bool: tokens that stand behind the fork, so that each counts once.

        Over completion tokens their number is what was generated; the others were shared.
        """
        return torch.arange(width, device=self.fork_B.device) >= self.fork_B[:, None]

    def forked_at(self, lengths_B: Tensor) -> Tensor:
        """`(B,)` int64: position of the first token that a row has of its own; −1 where it was not
        forked, or took over all of its tokens.

        Args:
            lengths_B: `(B,)`, completion tokens.
        """
        forked_B = (self.fork_B > 0) & (self.fork_B < lengths_B)
        return self.fork_B.long().masked_fill(~forked_B, -1)

    def children(self, lengths_B: Tensor, width: int) -> Tensor:
        """`(B, width)` int64: into how many branches the tokens before a position go on.

        2 or more where the prefix was forked and the row goes on, 1 elsewhere.

        Args:
            lengths_B: `(B,)`, completion tokens.
        """
        forks_F = cast(Tensor, self.fork_B.long().unique())
        forks_F = forks_F[(forks_F > 0) & (forks_F < width)]
        rows_B1 = torch.arange(len(lengths_B), device=lengths_B.device)[:, None]
        before_BF = self.writers(forks_F - 1)
        # Each branch has one row that wrote its first token, or ended in its place.
        wrote_BF = self.writers(forks_F) == rows_B1
        of_one_prefix_BBF = before_BF[:, None] == before_BF[None]
        count_BF = (of_one_prefix_BBF & wrote_BF[None]).sum(1)
        children_BT = torch.ones(len(lengths_B), width, dtype=torch.long, device=lengths_B.device)
        children_BT[:, forks_F] = torch.where(forks_F < lengths_B[:, None], count_BF, 1)
        return children_BT

    def writers(self, positions_F: Tensor) -> Tensor:
        """`(B, F)` int64: the row that generated the token at a position of a completion.

        A fork that lies before its parent's own fork leads to the parent's parent, and so on.
        """
        parent_B, fork_B = self.parent_B.long(), self.fork_B.long()
        rows_B1 = torch.arange(parent_B.shape[0], device=parent_B.device)[:, None]
        writer_BF = rows_B1.repeat(1, positions_F.shape[0])
        while True:  # once per level of the tree
            taken_BF = positions_F < fork_B[writer_BF]
            if not bool(taken_BF.any()):
                return writer_BF
            writer_BF = torch.where(taken_BF, parent_B[writer_BF], writer_BF)


def branch_weights(branches: Branches, group_ids_B: Tensor, width: int) -> Tensor:
    """Weights with which every branch of a group counts alike at a position, whatever its rows.

    A token that k of a group's rows share is in the loss k times. Here each of the n branches that
    a group has at a position has the weight 1/n in all, so that a token's weight is

        w = G / (k · n),        G the completions of the group,

    and the weights of a group at a position add up to G, as ones do. The mean gradient stays: where
    forks are placed without hindsight, k and n say nothing of what a branch is worth. Its variance
    is the smallest that weights can make of branches that are alike.

    Rows count at positions behind their end, too: whether a completion has ended is part of what it
    says.

    Args:
        branches: parent and fork of each of the B rows.
        group_ids_B: `(B,)`, integer.
        width: T, completion positions.

    Returns:
        `(B, T)` float32.

    Source: ours.
    """
    fork_B = branches.fork_B.long()
    positions_F = cast(Tensor, torch.unique(torch.cat([fork_B, _zero(fork_B)])))
    writer_BF = branches.writers(positions_F)
    names, group_B = cast(tuple[Tensor, Tensor], torch.unique(group_ids_B, return_inverse=True))
    ones_BF = torch.ones_like(writer_BF)
    rows_BF = torch.zeros_like(writer_BF).scatter_add_(0, writer_BF, ones_BF)  # by writer
    counts_GF = writer_BF.new_zeros(names.shape[0], writer_BF.shape[1])
    branches_GF = counts_GF.index_add(0, group_B, (rows_BF > 0).long())
    size_G1 = counts_GF[:, :1].index_add(0, group_B, ones_BF[:, :1])
    weight_BF = (size_G1[group_B] / (rows_BF.gather(0, writer_BF) * branches_GF[group_B])).float()
    t = torch.arange(width, device=fork_B.device)
    return weight_BF[:, torch.searchsorted(positions_F, t, right=True) - 1]


def branch_sets(
    token_ids_BT: Tensor, lengths_B: Tensor, group_ids_B: Tensor, branches: Branches
) -> PrefixSets:
    """The process sets of a branched group: completions that took a token over from one another.

    What `prefix_sets` finds by equal tokens, found by branch ids: two completions share a prefix if
    its tokens were generated once. Completions that merely agree do not. Prompts need no part in
    the identity, so the group ids are those of the nominal groups.

    A completion of length 0 (masked out as truncated, say) counts nowhere but in column 0 of V; its
    forks share its tokens nevertheless.

    Args:
        token_ids_BT, lengths_B, group_ids_B: as in `process_set_sizes`.
        branches: parent and fork of each of the B rows.

    Returns:
        Sets with `sizes()` as in `process_set_sizes` and `mean()` as in `prefix_values`.

    Raises:
        ValueError: as `process_set_sizes`; a parent that is no row, is of another group, or comes
            from its own fork; a fork behind the end of either completion; a root with a fork;
            tokens before a fork that differ from the parent's.

    Source: ours.
    """
    check_completions(token_ids_BT, lengths_B, group_ids_B)
    _check(branches, token_ids_BT, lengths_B, group_ids_B)
    T = token_ids_BT.shape[1]
    # The writers change at forks alone, so one position for each fork tells all.
    positions_F = cast(Tensor, torch.unique(torch.cat([branches.fork_B.long(), _zero(lengths_B)])))
    writer_BF = branches.writers(positions_F)
    all_B = torch.full_like(lengths_B, positions_F.shape[0])
    sets = prefix_sets(writer_BF, all_B, group_ids_B)
    # A prefix of n tokens knows the writers at the positions before n.
    known_T1 = torch.searchsorted(positions_F, torch.arange(T + 1, device=positions_F.device))
    return PrefixSets(
        order_B=sets.order_B,
        set_BE=sets.set_BE,
        stretch_T1=sets.stretch_T1[known_T1],
        lengths_B=lengths_B,
        # The first position whose writers all differ.
        longest_shared=int(positions_F[min(sets.longest_shared, positions_F.shape[0] - 1)]),
    )


def _zero(like: Tensor) -> Tensor:
    return torch.zeros(1, dtype=torch.int64, device=like.device)


def _check(
    branches: Branches, token_ids_BT: Tensor, lengths_B: Tensor, group_ids_B: Tensor
) -> None:
    B = lengths_B.shape[0]
    for name, tensor in (("parent", branches.parent_B), ("fork", branches.fork_B)):
        if tensor.shape != (B,):
            raise ValueError(
                f"branches: {name} must have shape ({B},), one for each completion, got "
                f"{tuple(tensor.shape)}."
            )
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"branches: {name} must be integers, got {tensor.dtype}.")
    parent_B, fork_B = branches.parent_B.long(), branches.fork_B.long()
    rows_B = torch.arange(B, device=parent_B.device)
    _refuse(
        (parent_B < 0) | (parent_B >= B),
        lambda i: f"has the parent {int(parent_B[i])}; a parent is a row in [0, {B})",
    )
    _refuse(
        group_ids_B[parent_B] != group_ids_B,
        lambda i: f"has the parent {int(parent_B[i])} of another group",
    )
    _refuse(
        (fork_B < 0) | ((parent_B == rows_B) & (fork_B != 0)),
        lambda i: (
            f"is forked at {int(fork_B[i])} from row {int(parent_B[i])}; a fork stands at "
            "0 or later, a root's (a row that is its own parent) at 0"
        ),
    )
    _refuse(
        parent_B[_ancestor(parent_B)] != _ancestor(parent_B),
        lambda i: "comes from itself: its line of parents never ends at a root",
    )
    _check_shared_tokens(parent_B, fork_B, token_ids_BT, lengths_B)


def _check_shared_tokens(
    parent_B: Tensor, fork_B: Tensor, token_ids_BT: Tensor, lengths_B: Tensor
) -> None:
    # Nothing is known of completions of length 0: they left the counts.
    counted_B = lengths_B > 0
    _refuse(
        (counted_B & (fork_B > lengths_B))
        | (counted_B[parent_B] & (fork_B > lengths_B[parent_B]))
        | (fork_B > token_ids_BT.shape[1]),
        lambda i: (
            f"of {int(lengths_B[i])} tokens is forked at {int(fork_B[i])} from row "
            f"{int(parent_B[i])} of {int(lengths_B[parent_B[i]])} tokens; both must reach the fork"
        ),
    )
    t = torch.arange(token_ids_BT.shape[1], device=token_ids_BT.device)
    checked_B = counted_B & counted_B[parent_B]
    shared_BT = (t < fork_B[:, None]) & checked_B[:, None]
    _refuse(
        ((token_ids_BT != token_ids_BT[parent_B]) & shared_BT).any(1),
        lambda i: (
            f"is forked at {int(fork_B[i])} from row {int(parent_B[i])}, but their tokens "
            "differ before that"
        ),
    )


def _ancestor(parent_B: Tensor) -> Tensor:
    """The parent's parent's … parent, B or more levels up: a root unless the line is a circle."""
    for _ in range(parent_B.shape[0].bit_length()):
        parent_B = parent_B[parent_B]
    return parent_B


def _refuse(wrong_B: Tensor, what: Callable[[int], str]) -> None:
    if bool(wrong_B.any()):
        row = int(wrong_B.int().argmax())
        raise ValueError(f"branches: completion {row} {what(row)}.")
