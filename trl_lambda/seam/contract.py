"""Compares the installed TRL with what `seam.py` and `resume.py` assume of it."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import get_args

import trl
from packaging.version import Version
from trl import GRPOTrainer

# Oldest and newest TRL that the tests ran with. 1.15 has the same methods, but its log-probability
# kernel runs on a GPU only, so no test here could train with it.
KNOWN_TRL = ("1.16.0", "1.16.0")

_SIGNATURES = {
    # for credit
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_per_token_logps_and_entropies": [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
    ],
    # for checkpoints
    "_prepare_inputs": ["self", "generation_batch"],
    "_get_train_sampler": ["self", "dataset"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_save_rng_state": ["self", "output_dir"],
    "_load_rng_state": ["self", "checkpoint"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_load_best_model": ["self"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
}
# What the source of a method must say, and how often (None: at least once).
_SOURCE: dict[str, dict[str, int | None]] = {
    # Where a process whose reward function raised meets the others.
    "_calculate_rewards": {
        r"torch\.zeros\(len\(prompts\), len\(self\.reward_funcs\), device=device\)": 1,
        r"(?<!asyncio\.)\bgather\(": 1,
    },
    "_compute_loss": {
        r"self\._get_per_token_logps_and_entropies\(": 1,
        r'inputs\["advantages"\]': None,
        r'inputs\.get\("old_per_token_logps"\)': None,
        r"self\.beta != 0\.0": None,
        r"per_token_logps - old_per_token_logps": 1,
        # What `kl.py` repeats: the correction, and the normalisers with their accumulation.
        r"per_token_kl = per_token_kl \* coef_1": 1,
        r"per_token_loss\.size\(0\) \* self\.max_completion_length": 1,
        r'inputs\["num_items_in_batch"\]\.clamp\(min=1\.0\) / self\.accelerator\.num_processes': 1,
        r"self\.current_gradient_accumulation_steps / self\.args\.steps_per_generation": 1,
    },
    # What `resume.py` saves: the place in the window, and the completions in it.
    "_prepare_inputs": {
        r"generate_every = self\.args\.steps_per_generation \* self\.num_iterations": 1,
        r"self\._step % generate_every == 0 or self\._buffered_inputs is None": 1,
        r"self\._buffered_inputs\[self\._step % self\.args\.steps_per_generation\]": 1,
    },
}


class IncompatibleTRLError(ImportError):
    """The installed TRL is not the one this package knows how to stand on."""


def check_seam(trainer_class: type = GRPOTrainer, version: str = trl.__version__) -> None:
    """Raises IncompatibleTRLError unless TRL has the methods and shapes we build on.

    A TRL newer than all that were tried, with nothing of this changed, gets a warning.
    """
    faults = [*_signature_faults(trainer_class), *_source_faults(trainer_class)]
    if faults:
        oldest, newest = KNOWN_TRL
        raise IncompatibleTRLError(
            f"trl_lambda does not fit trl {version}: {'; '.join(faults)}. It is known to work with "
            f'trl {oldest} to {newest}: pip install "trl>={oldest},<={newest}", or look for a '
            "newer trl-lambda."
        )
    if Version(version) > Version(KNOWN_TRL[1]):
        warnings.warn(
            f"trl_lambda was tried with trl {KNOWN_TRL[0]} to {KNOWN_TRL[1]}, not with {version}; "
            "nothing it builds on has changed there as far as its check can tell.",
            stacklevel=2,
        )


def _signature_faults(trainer_class: type) -> list[str]:
    faults = []
    for name, expected in _SIGNATURES.items():
        method = getattr(trainer_class, name, None)
        if method is None:
            faults.append(f"{trainer_class.__name__}.{name} is gone")
            continue
        found = list(inspect.signature(method).parameters)[: len(expected)]
        if found != expected:
            faults.append(f"{name} takes {found}, not {expected}")
    logps = getattr(trainer_class, "_get_per_token_logps_and_entropies", None)
    if logps is not None:
        returned = get_args(inspect.signature(logps).return_annotation)
        if len(returned) != 3:
            faults.append(f"{logps.__name__} returns {len(returned)} values, not 3")
    return faults


def _source_faults(trainer_class: type) -> list[str]:
    faults = []
    for name, patterns in _SOURCE.items():
        method = getattr(trainer_class, name, None)
        if method is None:
            continue  # the signatures tell
        try:
            source = inspect.getsource(method)
        except OSError:
            faults.append(f"the source of {name} cannot be read, so it cannot be compared")
            continue
        for pattern, times in patterns.items():
            found = len(re.findall(pattern, source))
            if found == 0 or times not in (None, found):
                faults.append(f"{name} has {found} times {pattern!r}, not {times or 'some'}")
    return faults
