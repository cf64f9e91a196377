"""The answer probe for a batch: what is asked, and what the answers are worth as values.

All processes see the probes of all, so each has the same calibration, values and metrics.

Shape suffixes: B completions of this process, N of all processes, T completion positions, K
segments, P groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional.calibration import leave_one_out_mean
from ..functional.normalization import STD_EPSILON
from ..functional.segments import SegmentValues, segment_counts, segment_starts
from ..methods import AUTO
from ..rule import CreditRule, named
from ..scored_batch import SampledBatch, ScoredBatch
from ..td_errors import Continuation
from .asking import ProbeTokens, find_answer_column, golds_of, probe_after
from .calibration import Calibration, Observed
from .early import early_pairs, told
from .step_ends import StepEnds
from .worth import RecentAuc, auc, calibration_error

QUARTERS = ("first", "second", "third", "last")


@dataclass(frozen=True)
class Asked:
    """The probes of this process's completions.

    Attributes:
        continuations: (row, start, probe and gold) of each.
        gold_tokens: how many of the last tokens of each are the gold's.
        segments: which segment of its row each is before.
        number_BT: segment of each policy token, −1 elsewhere.
        has_gold_B: bool.
    """

    continuations: list[Continuation]
    gold_tokens: list[int]
    segments: list[int]
    number_BT: Tensor
    has_gold_B: Tensor


class _Ahead(NamedTuple):
    """A question that was asked before a batch was scored: of which golds, prompts, completions
    and masks."""

    golds: list[str]
    text: tuple[Tensor, Tensor, Tensor]
    asked: Asked

    def is_about(self, golds: list[str], text: tuple[Tensor, Tensor, Tensor]) -> bool:
        return self.golds == golds and all(map(torch.equal, self.text, text))


@dataclass(frozen=True)
class Probed:
    """The credit of this process's completions, as far as the probe gives it.

    Attributes:
        values: V before each segment, and which rows are credited with them.
        advantage_B: credit of every token of the other rows: the reward less the mean of the
            group's others, over the denominator, or A_i where the group has no gold.
        denominator_B: divides the values' changes.
        log_phi_BK: log Φ_k, NaN where nothing was asked.
        metrics: by name; what cannot be told is left out.
    """

    values: SegmentValues
    advantage_B: Tensor
    denominator_B: Tensor
    log_phi_BK: Tensor
    metrics: dict[str, float]


class AnswerProbe:
    """Asks the policy for the known answer before each segment of its completions.

    Args:
        rule: `probe_text`, `step_ends`, `probe_calibration`.
        answer_column: as in `LambdaGRPOConfig`.
        tokenizer: the policy's.
        columns: the data set's; None where they are not known yet.
        mark: from `probe_mark`; a checkpoint's calibration is for one mark.

    Raises:
        ValueError: no column of answers, or no function at `step_ends`.
    """

    def __init__(
        self,
        rule: CreditRule,
        tokenizer: Any,
        columns: Sequence[str] | None,
        *,
        answer_column: str | None = None,
        mark: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.rule, self.mark, self._encoder = rule, dict(mark), tokenizer
        self._wanted = answer_column
        self.column = None if columns is None else find_answer_column(columns, answer_column)
        self._ends = StepEnds(rule.step_ends, tokenizer.decode)
        self._tokens = ProbeTokens(tokenizer)
        self._ahead: _Ahead | None = None
        self.calibration, self.recent = Calibration(), RecentAuc()

    def ask(self, batch: SampledBatch, *, training: bool, ahead: bool = False) -> Asked:
        """The continuations of a batch to score; no collective.

        Args:
            ahead: the same will be asked again once the batch is scored; what is found now is
                found then, if nothing has changed.

        Raises:
            ValueError, TypeError: a column that is not there, an answer that is none, segments that
                cannot be.
            NotImplementedError: prompts or completions hold images.
        """
        before, self._ahead = self._ahead, None
        if batch.has_images:
            raise NotImplementedError(
                "td_error='probe' asks for the answer after text, and these prompts or completions "
                "hold images: choose another td_error."
            )
        if training and (self.column is None or self.column not in batch.columns):
            self.column = find_answer_column(batch.columns, self.column or self._wanted)
        golds = golds_of(batch.columns, self.column, batch.lengths_B.shape[0])
        text = (batch.prompt_ids_BP, batch.completion_ids_BT, batch.mask_BT)
        if before is not None and before.is_about(golds, text):
            return before.asked
        asked = self._asked(batch, golds)
        self._ahead = _Ahead(golds, text, asked) if ahead else None
        return asked

    def _asked(self, batch: SampledBatch, golds: list[str]) -> Asked:
        number_BT = self._ends.numbers(batch.completion_ids_BT, batch.mask_BT)
        starts, counts = segment_starts(number_BT).tolist(), segment_counts(number_BT).tolist()
        continuations, gold_tokens, segments, has_gold = [], [], [], []
        for row, (gold, count) in enumerate(zip(golds, counts, strict=True)):
            probes = self._probes(batch, row, starts[row][:count]) if gold else []
            own = [self._tokens.encoded(probe, gold) for probe in probes]
            has_gold.append(bool(gold) and all(length for _, length in own))
            for segment, (ids, length) in enumerate(own if has_gold[-1] else ()):
                continuations.append((row, starts[row][segment], ids))
                gold_tokens.append(length)
                segments.append(segment)
        has_gold_B = torch.tensor(has_gold, device=number_BT.device)
        return Asked(continuations, gold_tokens, segments, number_BT, has_gold_B)

    def doubts(self, asked: Asked, log_probs: Sequence[Tensor]) -> Tensor:
        """V(1 − V) of the prefix before each token, V a share of the rewards' range; −∞ where no
        segment begins, or nothing was asked. `(B, T)`; no collective.

        Args:
            log_probs: the golds', in the order of `asked.continuations`.
        """
        number_BT = asked.number_BT.cpu()
        log_phi_BK, _ = _answers(asked, log_probs, asked.number_BT >= 0, gather=lambda one: one)
        B = number_BT.shape[0]
        seen = Observed(
            log_phi_NK=log_phi_BK.double().cpu(),
            reward_N=torch.full((B,), torch.nan).double(),
            group_N=torch.zeros(B, dtype=torch.long),
            groups=1,
            lacks_gold_N=~asked.has_gold_B.cpu(),
        )
        if self.rule.probe_calibration:
            value_BK = self.calibration.share(seen)
        else:
            value_BK = seen.log_phi_NK.exp()
        doubt_BK = (value_BK * (1 - value_BK)).nan_to_num(-torch.inf)
        start_BK = segment_starts(number_BT)[:, : doubt_BK.shape[1]]
        doubt_BT1 = torch.full((B, number_BT.shape[1] + 1), -torch.inf, dtype=torch.float64)
        return doubt_BT1.scatter(1, start_BK, doubt_BK)[:, :-1]

    def answer(
        self,
        asked: Asked,
        log_probs: Sequence[Tensor],
        batch: ScoredBatch,
        denominator_B: Tensor,
        gather: Callable[[Tensor], Tensor],
        *,
        training: bool,
    ) -> Probed:
        """Values of a batch. All processes call it together.

        Args:
            log_probs: the golds', in the order of `asked.continuations`.
            denominator_B: A_i's; infinite where no reward is known.
            gather: a tensor of this process -> those of all, along the first dimension.
            training: whether the calibration learns of the batch.
        """
        log_phi_BK, share_BK = _answers(asked, log_probs, batch.mask_BT, gather)
        columns = (asked.has_gold_B[:, None].float(), log_phi_BK, share_BK)
        gathered = gather(torch.cat(columns, 1)).double().cpu()
        gold_N1, log_phi_NK, share_NK = gathered.split([part.shape[1] for part in columns], 1)
        seen = _observed(batch, gold_N1[:, 0] > 0, log_phi_NK)
        value_NK, in_use = self._values(seen, training)
        baseline_N = leave_one_out_mean(seen.reward_N, seen.group_N, seen.groups)
        unknown_NK = seen.log_phi_NK.isnan()
        used_N = in_use & ~unknown_NK.all(1) & (~value_NK.isnan() | unknown_NK).all(1)
        shown_NK = torch.where(used_N[:, None], value_NK, baseline_N[:, None])
        shown_NK = shown_NK.masked_fill(unknown_NK, torch.nan)
        metrics = _statistics(seen, share_NK, value_NK, shown_NK, used_N)
        early = early_pairs(seen, share_NK)
        metrics |= early.metrics()
        if training:
            metrics["probe/auc_recent"] = self.recent.add(*early.all_pairs)
        rows, like = batch.rows, denominator_B
        used_B, lacks_B = (flag_N[rows].to(like.device) for flag_N in (used_N, seen.lacks_gold_N))
        final_B = seen.reward_N[rows].nan_to_num(0.0).to(like)
        own_B = (seen.reward_N - baseline_N)[rows].nan_to_num(0.0).to(like) / denominator_B
        credit_B = torch.where(lacks_B, batch.advantage_B.to(like), own_B)
        return Probed(
            values=SegmentValues(shown_NK[rows].to(like), final_B, used_B),
            advantage_B=credit_B.masked_fill(used_B, 0.0),
            denominator_B=torch.where(like < 2 * STD_EPSILON, torch.inf, like),
            log_phi_BK=log_phi_BK,
            metrics={name: value for name, value in metrics.items() if value == value},
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "mark": self.mark,
            "calibration": self.calibration.state(),
            "recent": self.recent.state(),
        }

    def restore(self, state: Mapping[str, Any] | None) -> bool:
        """Goes on with a checkpoint's calibration, if it is for this mark; whether it does."""
        fits = state is not None and state["mark"] == self.mark
        if fits:
            self.calibration.restore(state["calibration"])
            self.recent.restore(state.get("recent", ()))
        return fits

    def _probes(self, batch: SampledBatch, row: int, starts: Sequence[int]) -> list[str]:
        """The probe before each segment."""
        if self.rule.probe_text != AUTO:
            return [self.rule.probe_text] * len(starts)
        prompt_ids = batch.prompt_ids_BP[row]
        prompt = self._encoder.decode(prompt_ids[prompt_ids >= 0].tolist())
        ids = batch.completion_ids_BT[row].tolist()
        return [probe_after(AUTO, prompt, self._encoder.decode(ids[:start])) for start in starts]

    def _values(self, seen: Observed, training: bool) -> tuple[Tensor, bool]:
        if not self.rule.probe_calibration:
            return seen.log_phi_NK.exp(), True
        predicted = self.calibration.predict(seen, learn=training)
        return predicted.value_NK, predicted.in_use


def _answers(
    asked: Asked,
    log_probs: Sequence[Tensor],
    mask_BT: Tensor,
    gather: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """log Φ_k and b_k/n, `(B, K)` float32; NaN where nothing was asked. K is that of all."""
    device, B = mask_BT.device, mask_BT.shape[0]
    widest = max([0, *asked.segments]) + 1
    K = int(gather(torch.tensor([widest], device=device)).max())
    log_phi_BK = torch.full((B, K), torch.nan, device=device)
    share_BK = torch.full((B, K), torch.nan, device=device)
    if asked.continuations:
        rows, starts, _ = zip(*asked.continuations, strict=True)
        where = torch.tensor([rows, asked.segments], device=device).unbind(0)
        lengths = torch.tensor(asked.gold_tokens, device=device)
        owner = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
        sums = torch.zeros(len(lengths), device=device).index_add_(
            0, owner, torch.cat([*log_probs])
        )
        log_phi_BK[where] = sums / lengths
        before_BT = mask_BT.long().cumsum(1) - mask_BT.long()
        share_BT = before_BT / mask_BT.sum(1, keepdim=True).clamp(min=1)
        share_BK[where] = share_BT[where[0], torch.tensor(starts, device=device)]
    return log_phi_BK, share_BK


def _observed(batch: ScoredBatch, has_gold_N: Tensor, log_phi_NK: Tensor) -> Observed:
    """The probes of groups of which every completion has a gold."""
    group_N = batch.group_ids_N.cpu()
    groups = int(group_N.amax()) + 1
    lacks_P = torch.zeros(groups, dtype=torch.bool)
    lacks_P[group_N[~has_gold_N]] = True
    return Observed(
        log_phi_NK=log_phi_NK.masked_fill(lacks_P[group_N][:, None], torch.nan),
        reward_N=batch.reward_N.double().cpu(),
        group_N=group_N,
        groups=groups,
        lacks_gold_N=lacks_P[group_N],
    )


def _statistics(
    seen: Observed, share_NK: Tensor, value_NK: Tensor, shown_NK: Tensor, used_N: Tensor
) -> dict[str, float]:
    """Formulas: the README of this folder."""
    known_NK, told_NK, high_NK = told(seen)
    reward_NK = seen.reward_N[:, None].expand(known_NK.shape)
    asked_N = known_NK.any(1)
    quarter_NK = (4 * share_NK).floor()

    def auc_where(chosen_NK: Tensor) -> float:
        chosen_NK = chosen_NK & known_NK
        return auc(told_NK[chosen_NK], high_NK[chosen_NK])

    predicted_NK = known_NK & ~value_NK.isnan()
    return {
        **{
            f"probe/auc_{name}_quarter": auc_where(quarter_NK == number)
            for number, name in enumerate(QUARTERS)
        },
        "probe/value_mean": shown_NK[known_NK].mean().item(),
        "probe/in_use": used_N[asked_N].double().mean().item(),
        "probe/share_fallback": seen.lacks_gold_N.double().mean().item(),
        "probe/calibration_error": calibration_error(
            value_NK[predicted_NK], reward_NK[predicted_NK]
        ),
    }


def probe_mark(rule: CreditRule, answer_column: str | None, data: Any) -> dict[str, Any]:
    """Names what a calibration is for: the probe, and the data set's columns, size and some rows.

    A stream tells its columns alone.
    """
    columns = getattr(data, "column_names", None)
    mark: dict[str, Any] = {
        "probe": [rule.probe_text, answer_column, str(named(rule.step_ends))],
        "columns": sorted(columns) if columns else None,
    }
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        rows = len(data)
        some = [repr(data[i * rows // 8]) for i in range(8)] if rows else []
        digest = hashlib.sha256("\n".join(some).encode("utf-8", "replace")).hexdigest()
        mark |= {"rows": rows, "some": digest}
    return mark
