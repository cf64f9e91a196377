"""Branching through TRL's own generation, whichever engine it uses.

`_generate_single_turn` continues whatever token ids it gets. A wave of forks is one more call of
it, with prompts that end in the tokens that were taken over, and a smaller budget.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import trl
from packaging.version import Version
from torch import Tensor
from trl import GRPOTrainer

from ..functional import Branches
from ..rollout import BranchRule, BranchSizes, Rollout, branch
from ..rollout.outcome import Ids
from ..rollout.waves import Engine, Scores
from .packed import PAD, left_padded
from .user_functions import agree_on_largest, raise_everywhere

# Before it `_generate_single_turn` repeats prompts by itself, or the trainer does not say which
# tokens end a completion.
OLDEST_TRL = "1.14.2"

# Settings of generation that would begin anew at a fork, or that make several of one.
COUNTED_ANEW = (
    *("frequency_penalty", "presence_penalty", "min_tokens", "min_new_tokens"),
    *("structured_outputs", "n", "num_return_sequences"),
)


def refuse_branching(args: Any, rollout_func: Any) -> None:
    """Where completions cannot be forked; called before the trainer is built.

    Raises:
        ValueError: the setting, and what to do.
    """
    remedy = "or use rollout='independent'"
    if Version(trl.__version__) < Version(OLDEST_TRL):
        raise ValueError(
            f"rollout='branch' needs TRL {OLDEST_TRL} or newer, whose generation continues single "
            f"prompts, and this is {trl.__version__}. Upgrade TRL, {remedy}."
        )
    if rollout_func is not None:
        raise ValueError(
            "rollout='branch': a rollout_func generates by itself, so nothing can be forked. Leave "
            f"rollout_func out, {remedy}."
        )
    if args.use_transformers_continuous_batching:
        raise ValueError(
            "use_transformers_continuous_batching=True: it was not tried with rollout='branch'. "
            f"Set it to False, {remedy}."
        )
    if args.vllm_structured_outputs_regex is not None:
        raise ValueError(
            "vllm_structured_outputs_regex: a fork would have to match it from its beginning "
            f"again. Leave it out, {remedy}."
        )
    for name in COUNTED_ANEW:
        if (args.generation_kwargs or {}).get(name) is not None:
            raise ValueError(
                f"generation_kwargs[{name!r}]: at a fork it would begin anew, and forks would be "
                f"sampled from another policy than roots. Leave it out, {remedy}."
            )


class BranchingTrainer(GRPOTrainer):
    """`GRPOTrainer` whose training completions may be forked from one another.

    Attributes:
        _rollout: the branched completions of the last batch; None if they are independent.
    """

    def __init__(self, *args, **kwargs):
        self._to_branch = False  # whether TRL's next generation is the first of a batch
        self._rollout: Rollout | None = None
        super().__init__(*args, **kwargs)

    @property
    def _branching(self) -> tuple[BranchRule, BranchSizes] | None:
        """A hook: how completions are forked; None for independent ones."""
        return None

    def _doubts(
        self, rows: list[int], prompts: list[Ids], completions: list[Ids]
    ) -> list[list[float]]:
        """A hook: how uncertain the reward is at the places of rows, see `waves.Doubt`."""
        raise NotImplementedError

    def _token_scores(self, ids_CL: Tensor, mask_CL: Tensor, positions: int) -> tuple:
        """A hook: log-probabilities and entropies of the last positions."""
        raise NotImplementedError

    @property
    def _vllm(self) -> Any:
        """TRL's `VLLMGeneration`, or None."""
        return self.vllm_generation if self.use_vllm else None

    def _begin_batch(self) -> None:
        """To be called before TRL generates a batch."""
        self._rollout = None
        self._to_branch = self.model.training and self._branching is not None

    def _branches(self) -> Branches | None:
        """Where this process's completions come from: parents as rows of all processes."""
        if self._rollout is None:
            return None
        device, first_row = self.accelerator.device, self._first_row(self._rollout.parent)
        return Branches(
            parent_B=torch.tensor(self._rollout.parent, device=device) + first_row,
            fork_B=torch.tensor(self._rollout.fork, device=device),
        )

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        turn = super()._generate_single_turn
        if not self._to_branch:
            return turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        self._to_branch = False  # a tool loop's later turns continue single completions
        raise_everywhere(_fault_of_images(images, multimodal_fields))
        rule, sizes = self._branching
        with _kept_awake(self._vllm) as still_awake:
            engine = self._engine(turn, still_awake)
            self._rollout = branch(engine, rule, sizes, prompt_ids, self._first_row(prompt_ids))
        # TRL's tool loop goes on writing in what it gets.
        return copy.deepcopy((self._rollout.completion_ids, self._rollout.log_probs))

    def _first_row(self, rows: list) -> int:
        """Number of this process's first row among those of all processes."""
        return self.accelerator.process_index * len(rows)

    def _engine(self, turn: Callable[..., Any], still_awake: Callable[[], None]) -> Engine:
        """The rollout's engine: TRL's own `turn`, and the policy's scores."""
        tokenizer, budget = self._tokenizer, self.max_completion_length
        if self._vllm is None:
            holder, name = self.generation_config, "max_new_tokens"
        else:
            holder, name = self._vllm, "max_completion_length"

        def generate(
            prompts: list[Ids], spent: list[int], copies: int
        ) -> tuple[list[Ids], list[list[float]] | None]:
            # Engines that work together take equally many prompts of each process, and have one
            # budget: what the shortest prefix leaves.
            most = agree_on_largest(len(prompts))
            least = -agree_on_largest(-min(spent, default=budget or 0))
            if most == 0:
                return [], []
            filled = [*prompts, *[prompts[-1] if prompts else [PAD]] * (most - len(prompts))]
            with _lowered(holder, name, least):
                ids, log_probs = turn(filled, None, {}, copies)
            still_awake()
            left = [None if budget is None else budget - tokens for tokens in spent]
            ids = [row[:count] for row, count in zip(ids, left, strict=False)]
            if log_probs is not None:
                log_probs = [row[:count] for row, count in zip(log_probs, left, strict=False)]
            return ids, log_probs

        return Engine(
            generate=generate,
            score=self._scores,
            doubt=self._doubts,
            end_ids=frozenset(self.eos_token_ids),
            ends_line=lambda token: "\n" in tokenizer.decode([token]),
            budget=budget,
        )

    @torch.no_grad()
    def _scores(self, prompts: list[Ids], completions: list[Ids]) -> Scores:
        """Log-probabilities and entropies of all completion tokens, a micro-batch at a time."""
        log_probs: list[list[float]] = []
        entropies: list[list[float]] = []
        size = self.args.per_device_train_batch_size
        for start in range(0, agree_on_largest(len(prompts)), size):  # each pass is a collective
            part = slice(start, start + size)
            texts = [p + c for p, c in zip(prompts[part], completions[part], strict=True)]
            ids_CL, mask_CL = left_padded(texts, self.accelerator.device)
            longest = max([1, *map(len, completions[part])])
            found = self._token_scores(ids_CL, mask_CL, longest)
            for kept, tensor_CL in zip((log_probs, entropies), found, strict=True):
                rows = zip(tensor_CL.float().tolist(), completions[part], strict=False)
                kept += [row[longest - len(ids) :] for row, ids in rows]
        return log_probs, entropies


def _fault_of_images(images: Any, multimodal_fields: Any) -> NotImplementedError | None:
    if images is None and not multimodal_fields:
        return None
    return NotImplementedError(
        "rollout='branch' forks text, and these prompts hold images. Use rollout='independent' for "
        "them."
    )


@contextmanager
def _kept_awake(generation: Any) -> Iterator[Callable[[], None]]:
    """A colocated engine in sleep mode stays awake between the waves of a rollout.

    By itself each call ends in sleep: the next would move all weights again, and the prefixes that
    the first wave computed would be lost.

    Args:
        generation: TRL's `VLLMGeneration`, or None.

    Yields:
        The function to call after each wave.
    """
    sleeps = (
        generation is not None and generation.mode == "colocate" and generation.enable_sleep_mode
    )
    if not sleeps:
        yield lambda: None
        return
    llm, sleep = generation.llm, generation.llm.sleep

    def still_awake() -> None:
        generation._llm_weights_sleeping = False  # TRL believes that the call ended in sleep

    llm.sleep = lambda **options: None
    try:
        yield still_awake
    finally:
        llm.sleep = sleep
        llm.sleep(level=2)
        generation._llm_weights_sleeping = True


@contextmanager
def _lowered(holder: Any, name: str, spent: int) -> Iterator[None]:
    """While it lasts, an engine's budget of tokens is `spent` smaller; None has no bound."""
    budget = getattr(holder, name)
    if budget is not None:
        setattr(holder, name, budget - spent)
    try:
        yield
    finally:
        setattr(holder, name, budget)
