"""Process sets: the completions of a group that share a prefix, and what their prefix is worth.

Shape suffixes: B completions, T completion positions, E prefix lengths at which some set splits.
A *process set* at (i, t) holds the members j of i's group with y_j[:t+1] = y_i[:t+1] (λ-GRPO, arXiv
2509.21154, section 3). Its mean reward is the process reward model that GRPO induces.

Sorting the completions makes every set a run of neighbours, so one comparison of neighbours tells
all: O(B·T) time and memory. Token ids are compared as they are; what stands past a length never
matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from .normalization import summable_scale

Averaging = Literal["leaves", "children"]
AVERAGINGS: tuple[str, ...] = get_args(Averaging)


def process_set_sizes(token_ids_BT: Tensor, lengths_B: Tensor, group_ids_B: Tensor) -> Tensor:
    """Size of each token's process set.

    size[i, t] = #{ j in the group of i : len_j > t and y_j[:t+1] = y_i[:t+1] }. Over one group
    Σ 1/size is the number of distinct non-empty prefixes.

    Args:
        token_ids_BT: `(B, T)`, integer; all completion tokens, tool tokens and EOS included.
        lengths_B: `(B,)`, integer in [0, T]. A completion of length 0 is in no set.
        group_ids_B: `(B,)`, integer; the prompt is part of a prefix, so members of a group
            whose prompts differ need different ids.

    Returns:
        `(B, T)` int64, at least 1 on a completion's tokens and 0 past its end.

    Raises:
        ValueError: shapes that do not fit, a floating dtype, a length outside [0, T].

    Source: λ-GRPO, arXiv 2509.21154, section 3.
    """
    return prefix_sets(token_ids_BT, lengths_B, group_ids_B).sizes()


def prefix_values(
    rewards_B: Tensor, token_ids_BT: Tensor, lengths_B: Tensor, group_ids_B: Tensor
) -> Tensor:
    """V(prefix): mean reward of the group members that share the prefix.

    Column 0 is V before the first token (the group's mean), column t + 1 is V right after token t.
    Past a completion's end the last value stands. A completion of length 0 (masked out as
    truncated, say) counts in column 0 alone. A reward that is NaN counts nowhere; where nobody with
    a reward shares the prefix any more, the last known value stands (0 if there never was one), so
    that no TD error arises from missing knowledge.

    Args:
        rewards_B: `(B,)`, floating point, NaN where a reward abstains.
        token_ids_BT, lengths_B, group_ids_B: as in `process_set_sizes`.

    Returns:
        `(B, T+1)` in float32 or the wider dtype of `rewards_B`.

    Raises:
        ValueError: as `process_set_sizes`, or rewards that are not `(B,)`.

    Source: TEMPO, arXiv 2509.18314, section 3; λ-GRPO, arXiv 2509.21154, Theorem 1.
    """
    return prefix_sets(token_ids_BT, lengths_B, group_ids_B).mean(rewards_B)


def path_depth(sizes_BT: Tensor, group_size: int) -> Tensor:
    """`(B,)` int64: distinct set sizes in {2 … G−1} along each completion, G the nominal group.

    A group is *trivial* (singletons and the whole group alone) where all its depths are 0.

    Source: λ-GRPO, arXiv 2509.21154, section 3.
    """
    inner_BT = (sizes_BT >= 2) & (sizes_BT <= group_size - 1)
    # Sizes never grow along a completion: a size is new where it differs from the one before.
    inner_BT[:, 1:] &= sizes_BT[:, 1:] != sizes_BT[:, :-1]
    return inner_BT.sum(1)


def intermediate_proportion(sizes_BT: Tensor) -> Tensor:
    """`(B,)` float32: share of a completion's tokens whose set has a second member; NaN if empty.

    Source: λ-GRPO, arXiv 2509.21154, section 3.
    """
    return (sizes_BT >= 2).sum(1) / (sizes_BT >= 1).sum(1)


@dataclass(frozen=True)
class PrefixSets:
    """The process sets of whole groups, from which sizes and means are read.

    Between two lengths at which some set splits all sets stay what they are, so the sets are kept
    per such stretch: column e of `set_SE` holds for all prefixes of the stretch e.

    Attributes:
        order_B: the completions sorted so that each set is a run of neighbours.
        set_BE: number of the set of each sorted completion in each stretch (unique in a column).
        stretch_T1: the stretch of the prefix of n tokens, n = 0 … T.
        lengths_B: lengths, in the caller's order.
        longest_shared: tokens of the longest prefix that two completions share.
    """

    order_B: Tensor
    set_BE: Tensor
    stretch_T1: Tensor
    lengths_B: Tensor
    longest_shared: int

    def sizes(self) -> Tensor:
        """See `process_set_sizes`."""
        t = torch.arange(self.stretch_T1.shape[0] - 1, device=self.lengths_B.device)
        size_BT = (t < self.lengths_B[:, None]).long()
        counted_B = (self.lengths_B > 0)[self.order_B].long()
        size_BE = self.in_caller_order(sum_over_sets(self.set_BE, counted_B[:, None]))
        # Later prefixes are all singletons: usually most of a completion.
        stretch = self.stretch_T1[1 : self.longest_shared + 1]
        size_BT[:, : self.longest_shared] *= size_BE.index_select(1, stretch)
        return size_BT

    def mean(self, rewards_B: Tensor, values: Averaging = "leaves") -> Tensor:
        """V of each prefix as in `prefix_values`, or with the mean of children in place of leaves.

        Args:
            rewards_B: `(B,)`, floating point, NaN where a reward abstains.
            values: `"leaves"`: every completion that shares the prefix counts alike. `"children"`:
                where a set splits, every part counts alike, however many completions it holds, at
                each level. With the sets of `branch_sets` this is what the policy is worth there
                even if forks oversample some roots.

        Returns:
            `(B, T+1)` in float32 or the wider dtype of `rewards_B`.

        Raises:
            ValueError: rewards that are not `(B,)` floating point, an unknown averaging.

        Source: `"children"` is ours.
        """
        self.check_rewards(rewards_B, where="prefix_values")
        rewards_B = rewards_B.to(torch.promote_types(rewards_B.dtype, torch.float32))[self.order_B]
        known_B = ~rewards_B.isnan()
        # A completion of length 0 counts in column 0 alone.
        counted_B = known_B & (self.lengths_B > 0)[self.order_B]
        scale = summable_scale(rewards_B)
        scaled_B = rewards_B.nan_to_num(0.0) * scale
        root_BE, any_root_BE = set_values(self.set_BE, scaled_B, known_B, values)
        inner_BE, any_inner_BE = set_values(self.set_BE, scaled_B, counted_B, values)
        mean_BE = torch.cat([root_BE[:, :1], inner_BE[:, 1:]], 1) / scale
        known_BE = torch.cat([any_root_BE[:, :1], any_inner_BE[:, 1:]], 1)
        # Sets only shrink: a row's stretches with a known member come first. Stay on the last one.
        last_known_B1 = known_BE.sum(1, keepdim=True).sub(1).clamp(min=0)
        tokens_T1 = torch.arange(self.stretch_T1.shape[0], device=rewards_B.device)
        read_BT1 = self.stretch_T1[torch.minimum(tokens_T1, self.lengths_B[:, None])]
        last_known_B1 = self.in_caller_order(last_known_B1)
        return self.in_caller_order(mean_BE).gather(1, torch.minimum(read_BT1, last_known_B1))

    def right_after_tokens(self, values_BE: Tensor) -> Tensor:
        """`(B, T)`: what `(B, E)` values in sorted order say of the prefix that ends with a token.

        Past a completion's end its last value stands.
        """
        T = self.stretch_T1.shape[0] - 1
        values_BE = self.in_caller_order(values_BE)
        at_end_B1 = values_BE.gather(1, self.stretch_T1[self.lengths_B.long()][:, None])
        values_BT = at_end_B1.repeat(1, T)
        # Later prefixes are all singletons: usually most of a completion.
        shared = torch.arange(1, self.longest_shared + 1, device=self.lengths_B.device)
        read = self.stretch_T1[torch.minimum(shared, self.lengths_B[:, None])]
        values_BT[:, : self.longest_shared] = values_BE.gather(1, read)
        return values_BT

    def in_caller_order(self, values_BE: Tensor) -> Tensor:
        """Rows in sorted order, handed back in the order of the caller."""
        return torch.empty_like(values_BE).index_copy_(0, self.order_B, values_BE)

    def check_rewards(self, rewards_B: Tensor, *, where: str) -> None:
        """Raises ValueError, naming `where`, for rewards that are not `(B,)` floating point."""
        if rewards_B.shape != self.lengths_B.shape or not rewards_B.is_floating_point():
            raise ValueError(
                f"{where}: rewards must be floating point of shape "
                f"{tuple(self.lengths_B.shape)}, got {rewards_B.dtype} {tuple(rewards_B.shape)}."
            )


def sum_over_sets(set_BE: Tensor, values_BE: Tensor) -> Tensor:
    """`(B, E)`: the sum over each set, handed to its members.

    Args:
        set_BE: columns of `PrefixSets.set_BE`.
        values_BE: `(B, E)` or `(B, 1)`, rows in sorted order.
    """
    B, E = set_BE.shape
    totals = values_BE.new_zeros(B + 1, E).scatter_add_(0, set_BE, values_BE.expand(B, E))
    return totals.gather(0, set_BE)


def opens_set(set_BE: Tensor) -> Tensor:
    """`(B, E)` bool: whether a row, in sorted order, is the first of its set."""
    first = torch.ones_like(set_BE[:1], dtype=torch.bool)
    return torch.cat([first, set_BE[1:] != set_BE[:-1]])


def set_values(
    set_BE: Tensor, rewards_B: Tensor, known_B: Tensor, values: Averaging
) -> tuple[Tensor, Tensor]:
    """Mean reward of the known rows of each set, and whether it has any; rows in sorted order.

    Returns:
        `(B, E)` in the dtype of `rewards_B` (0 where none is known), and `(B, E)` bool.
    """
    if values not in AVERAGINGS:
        raise ValueError(f"prefix values: values must be one of {AVERAGINGS}, got {values!r}.")
    weight_B1 = known_B[:, None].to(rewards_B.dtype)
    reward_B1 = rewards_B.where(known_B, 0.0)[:, None]
    count_BE = sum_over_sets(set_BE, weight_B1)
    if values == "leaves":
        return sum_over_sets(set_BE, reward_B1) / count_BE.clamp(min=1.0), count_BE > 0
    child_BE = (opens_set(set_BE) & (count_BE > 0))[:, 1:].to(rewards_B.dtype)
    children_BE = sum_over_sets(set_BE[:, :-1], child_BE).clamp(min=1.0)
    # From the leaves (last column) up: the weights of a set's rows always sum to 1.
    share_BE = torch.cat([1.0 / children_BE, weight_B1], 1).flip(1).cumprod(1).flip(1)
    return sum_over_sets(set_BE, share_BE * reward_B1), count_BE > 0


def prefix_sets(token_ids_BT: Tensor, lengths_B: Tensor, group_ids_B: Tensor) -> PrefixSets:
    """Finds all process sets of whole groups at once; arguments as in `process_set_sizes`.

    One call synchronises with the device a few times: it is made once per generated batch, not
    once per optimiser step.
    """
    check_completions(token_ids_BT, lengths_B, group_ids_B)
    T = token_ids_BT.shape[1]
    rows_BT1 = _comparable_rows(token_ids_BT, lengths_B, group_ids_B)
    order_B = _lexicographic_rank(rows_BT1).argsort(stable=True)
    shared_B = _shared_with_row_before(rows_BT1.index_select(0, order_B))
    # The group id leads each row: n shared tokens are n + 1 shared columns. Two rows of different
    # groups (0 columns) never meet, so the shortest prefix that can split is the empty one.
    splits_E = cast(Tensor, torch.unique(shared_B.clamp(min=1)))
    opens_set_BE = shared_B[:, None] < splits_E
    never_BE = torch.ones_like(opens_set_BE[:, :1])  # longer than any shared prefix
    return PrefixSets(
        order_B=order_B,
        set_BE=torch.cat([opens_set_BE, never_BE], 1).cumsum(0),
        stretch_T1=torch.searchsorted(splits_E, torch.arange(1, T + 2, device=splits_E.device)),
        lengths_B=lengths_B,
        longest_shared=min(int(splits_E[-1]) - 1, T),
    )


def split_groups_by_prompt(group_ids_B: Tensor, prompt_ids_BP: Tensor) -> Tensor:
    """`(B,)` int64 group ids that also differ where the prompts do: the prompt is part of a prefix.

    Args:
        group_ids_B: `(B,)`, integer.
        prompt_ids_BP: `(B, P)`, integer, padded alike (same side) with an id that is no token.
    """
    return _lexicographic_rank(torch.cat([group_ids_B[:, None].long(), prompt_ids_BP.long()], 1))


def _lexicographic_rank(rows: Tensor) -> Tensor:
    return cast(Tensor, torch.unique(rows, dim=0, return_inverse=True)[1])


def _comparable_rows(token_ids_BT: Tensor, lengths_B: Tensor, group_ids_B: Tensor) -> Tensor:
    """`(B, T+1)`: group id, tokens, and past the end a filler that is no token."""
    B, T = token_ids_BT.shape
    t = torch.arange(T, device=token_ids_BT.device)
    rows_BT1 = torch.empty(B, T + 1, dtype=torch.int64, device=token_ids_BT.device)
    rows_BT1[:, 0] = group_ids_B
    rows_BT1[:, 1:] = token_ids_BT
    rows_BT1[:, 1:].masked_fill_(t >= lengths_B[:, None], torch.iinfo(torch.int64).min)
    return rows_BT1


def _shared_with_row_before(rows_BT1: Tensor) -> Tensor:
    """`(B,)`: leading columns that a row shares with the row above it; 0 for the first."""
    B, width = rows_BT1.shape
    shared_B = torch.zeros(B, dtype=torch.int64, device=rows_BT1.device)
    differs = (rows_BT1[1:] != rows_BT1[:-1]).view(torch.uint8)
    any_difference, first_difference = differs.max(1)
    shared_B[1:] = torch.where(any_difference.bool(), first_difference, width)
    return shared_B


def check_completions(token_ids_BT: Tensor, lengths_B: Tensor, group_ids_B: Tensor) -> None:
    if token_ids_BT.ndim != 2 or token_ids_BT.shape[0] == 0:
        raise ValueError(
            "process sets: token_ids must be (B, T) with at least one completion, got shape "
            f"{tuple(token_ids_BT.shape)}."
        )
    B, T = token_ids_BT.shape
    for name, tensor in (("lengths", lengths_B), ("group_ids", group_ids_B)):
        if tensor.shape != (B,):
            raise ValueError(
                f"process sets: {name} must have shape ({B},) to go with token_ids of shape "
                f"{(B, T)}, got {tuple(tensor.shape)}."
            )
    for name, tensor in (
        ("token_ids", token_ids_BT),
        ("lengths", lengths_B),
        ("group_ids", group_ids_B),
    ):
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"process sets: {name} must be integers, got {tensor.dtype}.")
    if bool(((lengths_B < 0) | (lengths_B > T)).any()):
        raise ValueError(
            f"process sets: lengths must lie in [0, {T}], got "
            f"{int(lengths_B.min())} … {int(lengths_B.max())}."
        )
