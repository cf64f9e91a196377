"""TD errors of the method: the built-in ones and users' own, through the same door.

A TD error δ says what each token newly tells about the reward. It is a function

    f(batch: CreditBatch) -> Tensor        (B, T), floating point, finite on policy tokens

and `TD_ERRORS` lists the built-in ones. What becomes of δ is the same for all of them:
`credit.assign_credit` bounds A_i by `advantage_floor` before f sees it, traces δ, weighs it by
process sets and sets masked tokens to 0.

Shape suffixes: B completions of this process, N of all processes, T completion positions,
P prompt positions.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .functional import terminal_td_errors, tree_td_errors
from .functional.segments import SegmentValues, segment_td_errors
from .functional.td_errors import Steps, place_steps

if TYPE_CHECKING:
    from .groups import WholeGroups

Continuation = tuple[int, int, Sequence[int]]
"""(row, start, token ids): these tokens after the prompt and the first `start` tokens of a row."""


@dataclass(frozen=True)
class Signal:
    """The numbers that a batch of completions has once they are scored.

    Attributes:
        mask_BT: nonzero on policy tokens; 0 on padding, tool tokens and masked-out completions.
        advantage_B: A_i, the group-normalised reward, no lower than `advantage_floor`; with
            td_error='process' 0 unless `reward_weights` is set; with td_error='probe' 0 for rows
            whose credit comes from values, and the whole credit of the other rows.
        sizes_BT: process-set sizes, int64; 0 on padding and on completions masked out as
            truncated.
        values_BT1: `(B, T+1)`, V of the prefix before each token and after the last: the mean
            reward of the group's completions that share it.
        denominator_B: divides centred rewards, as `scale_rewards` says; infinite where no
            reward is known.
        branch_weight_BT: weights of tokens of forked completions, see `functional.branch_weights`;
            None where all completions weigh alike.
        sibling_gain_BT: r − b of each token (td_error='sibling' only), or V − b of branched groups.
        steps: normalised step rewards (td_error='process' only).
        segment_BT: number of the step or segment that each policy token is in, int64, −1 on masked
            tokens (td_error='probe', and 'process' with trace_per='step').
        segments: the answer probe's values before each segment (td_error='probe' only).
    """

    mask_BT: Tensor
    advantage_B: Tensor
    sizes_BT: Tensor
    values_BT1: Tensor | None = None
    denominator_B: Tensor | None = None
    branch_weight_BT: Tensor | None = None
    sibling_gain_BT: Tensor | None = None
    steps: Steps | None = None
    segment_BT: Tensor | None = None
    segments: SegmentValues | None = None


@dataclass(frozen=True, kw_only=True)
class CreditBatch(Signal):
    """All that a TD error may read of a generated batch, after TRL scored it.

    Rows are the B completions of this process; a group is `group_size` consecutive completions of
    the N of all processes and may have members elsewhere. Beside what follows there are the
    attributes of `Signal`.

    Attributes:
        reward_B: weighted sum of the reward functions; NaN where all of them abstain.
        group_B: number of each completion's group, int64, the same on all processes.
        group_size: completions of a group.
        completion_ids_BT: token ids, −1 where padded; tool tokens and EOS included.
        prompt_ids_BP: token ids, padded with −1 on the left.
        lengths_B: completion tokens, tool tokens included; 0 if masked out as truncated.
        reward_N, group_N: `reward_B` and `group_B` of all processes.
        rows: this process's rows among the N.
        groups: the process sets of all groups that have a completion here, of whole groups.
        prompts, completions: as reward functions get them: texts, or lists of messages.
        columns: the data set's other columns, one value for each completion.
    """

    reward_B: Tensor
    group_B: Tensor
    group_size: int
    completion_ids_BT: Tensor
    prompt_ids_BP: Tensor
    lengths_B: Tensor
    reward_N: Tensor
    group_N: Tensor
    rows: slice
    groups: WholeGroups
    prompts: Sequence[Any]
    completions: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]
    _decode: Callable[[list[int]], str]
    _score: Callable[[Sequence[Continuation]], list[Tensor]]

    @cached_property
    def texts(self) -> list[str]:
        """The completions as text, special tokens left out."""
        rows = self.completion_ids_BT.tolist()
        return [self._decode([token for token in row if token >= 0]) for row in rows]

    def log_probs(self, continuations: Sequence[Continuation]) -> list[Tensor]:
        """Log-probabilities that the sampling policy gives to continuations, without gradient.

        Each is (row, start, token ids): how likely are these tokens after the row's prompt and its
        first `start` completion tokens? At the temperature of the training, without dropout. The
        continuations of a row are scored in one forward pass, packed behind it, where the model's
        attention takes any mask, else each in a row of its own; `per_device_train_batch_size` rows
        at a time. All processes must call this equally often; the number of continuations may
        differ, and may be 0.

        Returns:
            One `(tokens,)` float32 tensor for each continuation.

        Raises:
            ValueError: a row, a start or token ids that cannot be.
            NotImplementedError: the prompts hold images.
        """
        return self._score(continuations)


TDErrorFunction = Callable[[CreditBatch], Tensor]


@dataclass(frozen=True)
class TDError:
    """A TD error, and how it composes with the rest of the method.

    Attributes:
        function: see the module's docstring. The built-in ones read no more than a `Signal`.
        sparse: δ stands on few tokens, so that a normalised trace would leave little of it.
        shares_prefixes: δ depends on which completions share a prefix.
        adds_advantage: the untraced A_i is added to the traced δ.
        reads_steps: δ is made of step rewards.
        takes_floor: `advantage_floor` bounds what it trains on.
        bounded: `advantage_floor` acts on δ, which is a token's credit, and not on A_i.
        probes: δ comes from what the policy says of the known answer (`trl_lambda.probe`).
        options: options of the method that this TD error alone reads, or a few do.
    """

    function: TDErrorFunction
    sparse: bool = False
    shares_prefixes: bool = False
    adds_advantage: bool = False
    reads_steps: bool = False
    bounded: bool = False
    takes_floor: bool = True
    probes: bool = False
    options: tuple[str, ...] = ()

    @property
    def compares_siblings(self) -> bool:
        """Whether δ needs `sibling_gain_BT`."""
        return "sibling_shrinkage" in self.options

    @property
    def has_steps(self) -> bool:
        """Whether completions are cut into steps, which a trace may count."""
        return "trace_per" in self.options


def group(batch: Signal) -> Tensor:
    """A_i on every token. Source: GRPO-λ, arXiv 2510.00194, section 3.3."""
    return batch.advantage_B[:, None] * batch.mask_BT


def terminal(batch: Signal) -> Tensor:
    """A_i on the last policy token alone, as a critic V = 0 has it."""
    return terminal_td_errors(batch.advantage_B, batch.mask_BT)


def tree(batch: Signal) -> Tensor:
    """Change of V over a token, V the mean reward of the completions that share the prefix."""
    assert batch.values_BT1 is not None
    assert batch.denominator_B is not None
    return tree_td_errors(batch.values_BT1, batch.mask_BT, batch.denominator_B)


def sibling(batch: Signal) -> Tensor:
    """(r_i − b)/std, b the mean reward of the completions that part from this one at a token."""
    assert batch.sibling_gain_BT is not None
    assert batch.denominator_B is not None
    return batch.sibling_gain_BT / batch.denominator_B[:, None]


def process(batch: Signal) -> Tensor:
    """Rewards of steps where the steps end; an outcome reward is one more step, the last."""
    assert batch.steps is not None
    return place_steps(batch.steps, batch.mask_BT) + terminal(batch)


def probe(batch: Signal) -> Tensor:
    """Change of V over a segment, on its last token; V is how likely the policy finds the answer.

    The λ-return over it is ours; as shaping: SPAE, arXiv 2601.03823; GRPO-VPS, arXiv 2604.20659.
    """
    assert batch.segments is not None
    assert batch.segment_BT is not None
    assert batch.denominator_B is not None
    return segment_td_errors(batch.segments, batch.segment_BT, batch.denominator_B)


TD_ERRORS: Mapping[str, TDError] = MappingProxyType(
    {
        "group": TDError(group),
        "terminal": TDError(terminal, sparse=True),
        "tree": TDError(tree, shares_prefixes=True, adds_advantage=True),
        "sibling": TDError(
            sibling, shares_prefixes=True, bounded=True, options=("sibling_shrinkage",)
        ),
        "process": TDError(
            process,
            sparse=True,
            reads_steps=True,
            takes_floor=False,
            options=("trace_per",),
        ),
        "probe": TDError(
            probe,
            sparse=True,
            adds_advantage=True,
            takes_floor=False,
            probes=True,
            options=("trace_per", "probe_text", "step_ends", "probe_calibration"),
        ),
    }
)
# Options that a TD error reads, or does not.
TD_ERROR_OPTIONS = tuple(dict.fromkeys(o for entry in TD_ERRORS.values() for o in entry.options))


def is_built_in(td_error: str | TDErrorFunction) -> bool:
    """Whether it is a name of the table; a function need not be hashable."""
    return isinstance(td_error, str) and td_error in TD_ERRORS


def find_td_error(td_error: str | TDErrorFunction) -> TDError:
    """The entry of a built-in name, or one for a user's function or the dotted path of one.

    Raises:
        ValueError: a name that is neither, or a path at which there is no function.
    """
    if callable(td_error):
        return TDError(td_error)
    if is_built_in(td_error):
        return TD_ERRORS[td_error]
    return TDError(imported_function(td_error, f"td_error={td_error!r}"))


def td_error_name(td_error: str | TDErrorFunction) -> str:
    """A text that names it: the built-in name, or the dotted path of a function."""
    if isinstance(td_error, str):
        return td_error
    name = getattr(td_error, "__qualname__", type(td_error).__qualname__)
    return f"{getattr(td_error, '__module__', '')}.{name}".lstrip(".")


def imported_function(path: str, said: str) -> Callable[..., Any]:
    """The function at a dotted path; modules in the working directory are found as well.

    Args:
        path: package.module.function.
        said: the user's words, for messages.

    Raises:
        ValueError: there is no such module, or no function in it.
    """
    module_name, _, attribute = path.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a script's own folder is there instead
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{said}: importing {module_name} failed ({error}). Modules are looked for in the "
            "working directory, in PYTHONPATH and among the installed packages."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        there = [n for n in vars(module) if not n.startswith("_") and callable(vars(module)[n])]
        found = "nothing of that name" if function is None else f"a {type(function).__name__}"
        raise ValueError(
            f"{said}: expected a function, found {found} in {module_name}. It has "
            f"{', '.join(there) or 'no functions'}."
        )
    return function


def checked_td_errors(td_error: str | TDErrorFunction, batch: Signal) -> Tensor:
    """δ, `(B, T)`, exactly 0 on masked tokens.

    Raises:
        TypeError, ValueError: a function returned something else; the message names the function,
            what came and what was expected.
    """
    delta_BT = find_td_error(td_error).function(batch)  # type: ignore[arg-type]
    masked_BT = ~batch.mask_BT.bool()
    if is_built_in(td_error):
        return delta_BT.masked_fill(masked_BT, 0.0)
    name, shape = td_error_name(td_error), tuple(batch.mask_BT.shape)
    if not isinstance(delta_BT, Tensor) or not delta_BT.is_floating_point():
        came = delta_BT.dtype if isinstance(delta_BT, Tensor) else type(delta_BT).__name__
        raise TypeError(
            f"td_error {name!r} returned {came}; expected a floating-point tensor of TD errors of "
            f"shape (B, T) = {shape}."
        )
    if delta_BT.shape != batch.mask_BT.shape:
        raise ValueError(
            f"td_error {name!r} returned the shape {tuple(delta_BT.shape)}; expected one TD error "
            f"for each token, (B, T) = {shape}: for one value a completion, multiply it by "
            "batch.mask_BT."
        )
    # In the precision of the credit: what does not fit into it is not finite there.
    delta_BT = delta_BT.detach().to(batch.advantage_B).masked_fill(masked_BT, 0.0)
    unusable = (~torch.isfinite(delta_BT)).nonzero()
    if len(unusable):
        row, token = unusable[0].tolist()
        raise ValueError(
            f"td_error {name!r} returned {delta_BT[row, token].item()} for token {token} of "
            f"completion {row} of this process; TD errors must be finite on policy tokens (a "
            "reward may be NaN: batch.advantage_B is 0 there)."
        )
    return delta_BT
