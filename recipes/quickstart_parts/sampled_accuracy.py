"""Held-out accuracy of a model that samples as it does in training, now and along a run."""

from __future__ import annotations

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from .blanks import PROMPT_TOKENS, SOLUTION_TOKENS, Problem, all_right
from .measuring import MeasuringCallback

BATCH = 256
SEED = 0


def held_out_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[Problem],
    *,
    sample: bool = True,
    show: bool = True,
) -> float:
    """Share of the problems answered right, with one completion each.

    Args:
        sample: at temperature 1 from the whole distribution, as in training; else greedily.
        show: a progress bar.

    The sampling seed is always the same, and the caller's random state is left as it was: a run
    that is measured on the way trains exactly as one that is not.
    """
    starts = range(0, len(problems), BATCH)
    was_training = model.training
    model.eval()
    right = 0.0
    # Without arguments all CUDA devices are forked as well.
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(SEED)
        for start in tqdm(starts, "Held-out problems", leave=False, disable=not show):
            batch = problems[start : start + BATCH]
            completions = _complete(model, tokenizer, [p.prompt for p in batch], sample)
            right += sum(all_right(completions, [p.solution for p in batch]))
    model.train(was_training)
    return right / len(problems)


def _complete(model, tokenizer, prompts: list[str], sample: bool) -> list[str]:
    encoded = tokenizer(prompts, padding=True, return_tensors="pt").to(model.device)
    # top_k=0: generate() would keep the 50 most likely tokens, training keeps all.
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {}
    generated = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        generation_config=GenerationConfig(
            max_new_tokens=SOLUTION_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **sampling,
        ),
    )
    completion_ids = generated[:, encoded["input_ids"].shape[1] :]
    return tokenizer.batch_decode(completion_ids, skip_special_tokens=True)


class AccuracyCurve(MeasuringCallback):
    """Measures `held_out_accuracy` along a run, and counts what the run generated for it.

    Args:
        completions: those of a step, over all processes.

    Attributes:
        points: (step, accuracy) so far.
        generated: completion tokens generated up to each point. Tokens that a completion
            shares with the one that it was forked from were generated once.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        problems: list[Problem],
        every: int,
        completions: int,
    ):
        super().__init__(every)
        self.tokenizer = tokenizer
        self.problems = problems
        self.completions = completions
        self.points: list[tuple[int, float]] = []
        self.generated: list[int] = []

    def measure(self, model, state) -> None:
        shown = state.is_world_process_zero
        accuracy = held_out_accuracy(model, self.tokenizer, self.problems, show=shown)
        self.points.append((state.global_step, accuracy))
        # TRL counts the prompts with what is generated; all prompts have one length here.
        prompts = state.global_step * self.completions * PROMPT_TOKENS
        self.generated.append(int(state.num_input_tokens_seen) - prompts)
