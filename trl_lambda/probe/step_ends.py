"""Where segments of a completion end: with a line, after so many tokens, or as a function says.

Shape suffixes: B completions, T completion positions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional.segments import segment_counts, segment_numbers
from ..methods import LINES
from ..td_errors import imported_function, td_error_name

StepEndsFunction = Callable[[list[int], list[str]], Iterable[int]]
# Each segment costs a probe. A completion with more keeps so many, of neighbours joined evenly.
MAX_SEGMENTS = 64


class StepEnds:
    """Cuts completions into segments.

    Args:
        rule: "newline", a number of policy tokens, or a function (token ids, their texts) of one
            completion -> indices of the tokens that end a segment, or the dotted path of one. Tool
            tokens are among a completion's; what ends on one ends at the last policy token before.
        decode: token ids -> text.
    """

    def __init__(self, rule: str | int | StepEndsFunction, decode: Callable[[list[int]], str]):
        if isinstance(rule, str) and rule != LINES:
            rule = imported_function(rule, f"step_ends={rule!r}")
        self.rule, self._decode = rule, decode
        self._texts: dict[int, str] = {}

    def numbers(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """`(B, T)`: the number of each policy token's segment, −1 elsewhere; at most 64 of them.

        Args:
            ids_BT: token ids, −1 where padded.
            mask_BT: nonzero on policy tokens.

        Raises:
            ValueError, TypeError: the function returned what is no list of token indices.
        """
        if callable(self.rule):
            ends_BT = self._by_function(ids_BT)
        elif self.rule == LINES:
            ends_BT = self._by_line(ids_BT, mask_BT)
        else:
            ends_BT = mask_BT.bool() & (mask_BT.long().cumsum(1) % int(self.rule) == 0)
        number_BT = segment_numbers(ends_BT, mask_BT)
        count_B1 = segment_counts(number_BT)[:, None]
        joined_BT = number_BT * MAX_SEGMENTS // count_B1.clamp(min=1)
        return torch.where((count_B1 > MAX_SEGMENTS) & (number_BT >= 0), joined_BT, number_BT)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        for token in set(ids) - self._texts.keys():
            self._texts[token] = self._decode([token])
        return [self._texts[token] for token in ids]

    def _by_line(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """A line's last token, the last one of blank lines; and what ends a turn of the policy."""
        unique, where_BT = torch.unique(ids_BT.clamp(min=0), return_inverse=True)
        texts = self.texts(unique.tolist())
        device = ids_BT.device
        breaks_BT = torch.tensor(["\n" in text for text in texts], device=device)[where_BT]
        blank = ["\n" in text and not text.strip() for text in texts]
        blank_BT = torch.tensor(blank, device=device)[where_BT] & mask_BT.bool()
        next_blank_BT = torch.nn.functional.pad(blank_BT[:, 1:], (0, 1))
        next_policy_BT = torch.nn.functional.pad(mask_BT.bool()[:, 1:], (0, 1))
        return mask_BT.bool() & ((breaks_BT & ~next_blank_BT) | ~next_policy_BT)

    def _by_function(self, ids_BT: Tensor) -> Tensor:
        ends_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
        for row, ids in enumerate(ids_BT.tolist()):
            tokens = [token for token in ids if token >= 0]
            for end in self._ends(tokens) if tokens else ():
                ends_BT[row, end] = True
        return ends_BT.to(ids_BT.device)

    def _ends(self, tokens: list[int]) -> list[int]:
        name = td_error_name(self.rule)
        returned: Any = self.rule(list(tokens), self.texts(tokens))
        try:
            ends = [operator.index(end) for end in returned]
        except TypeError as error:
            raise TypeError(
                f"step_ends {name!r} returned {returned!r:.200}; expected a list of indices of the "
                "tokens that end a segment."
            ) from error
        for end in ends:
            if not 0 <= end < len(tokens):
                raise ValueError(
                    f"step_ends {name!r} returned {end} for a completion of {len(tokens)} tokens; "
                    f"expected indices of tokens in [0, {len(tokens)})."
                )
        return ends
