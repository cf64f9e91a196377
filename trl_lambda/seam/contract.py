"""Compares the installed TRL with what `seam` and `checkpoints` assume of it.

Each assumption is one `Demand`, stated once for all versions. Where TRL's versions differ there is
one demand for each form, with the versions that have it.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import trl
from packaging.version import Version
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

# Oldest and newest TRL that the tests ran with. TRL 1.15 computes log-probabilities on a GPU only,
# so the tests on a CPU compare its methods and its loss, and train with all the others. TRL 1.10
# has no method that names the weights for vLLM, and a server of another kind.
KNOWN_TRL = ("1.11.0", "1.16.0")


@dataclass(frozen=True)
class Demand:
    """Demands on one method of TRL.

    Attributes:
        name: the method.
        parameters: names of its first parameters, `self` included; None where any will do.
        returned: number of values that its return annotation names; None where any will do.
        says: how often the source must match a pattern (None: at least once).
        since: the first version that is held to this demand; None for all old ones.
        before: the first version that is no longer held to it; None for all new ones.
        of: the class, "trainer" or "generation" (TRL's `VLLMGeneration`).
    """

    name: str
    parameters: tuple[str, ...] | None = None
    returned: int | None = None
    says: Mapping[str, int | None] = field(default_factory=dict)
    since: str | None = None
    before: str | None = None
    of: str = "trainer"

    def holds_for(self, version: str) -> bool:
        """Whether `version` is held to this; a pre-release counts as the release it precedes."""
        release = Version(version).release
        return (self.since is None or release >= Version(self.since).release) and (
            self.before is None or release < Version(self.before).release
        )

    def faults(self, classes: Mapping[str, type]) -> Iterator[str]:
        """Says what the method lacks."""
        method = getattr(classes[self.of], self.name, None)
        if method is None:
            yield f"{classes[self.of].__name__}.{self.name} is gone"
            return
        yield from self._signature_faults(method)
        if self.says:
            yield from self._source_faults(method)

    def _signature_faults(self, method: Any) -> Iterator[str]:
        signature = inspect.signature(method)
        if self.parameters is not None:
            found = tuple(signature.parameters)[: len(self.parameters)]
            if found != self.parameters:
                yield f"{self.name} takes {list(found)}, not {list(self.parameters)}"
        if self.returned is not None:
            values = len(get_args(signature.return_annotation))
            if values != self.returned:
                yield f"{self.name} returns {values} values, not {self.returned}"

    def _source_faults(self, method: Any) -> Iterator[str]:
        try:
            source = inspect.getsource(method)
        except (OSError, TypeError):
            yield f"the source of {self.name} cannot be read, so it cannot be compared"
            return
        for pattern, times in self.says.items():
            found = len(re.findall(pattern, source))
            if found != times and not (times is None and found):
                expected = "some" if times is None else times
                yield f"{self.name} has {found} times {pattern!r}, not {expected}"


# Attributes of the trainer that the seam, the checkpoints and our own trainer read.
_ATTRIBUTES = (
    *("beta", "epsilon_high", "epsilon_low", "loss_type"),
    *("max_completion_length", "_tokenizer"),
    *("num_generations", "num_generations_eval", "num_iterations", "ref_model"),
    *("reward_func_names", "reward_funcs", "reward_weights", "rollout_func"),
    *("environment_factories", "environments", "tools", "use_vllm", "vllm_generation"),
    *("_buffered_inputs", "_last_loaded_step", "_last_world_entropy", "_logs", "_metrics"),
    *("_pending_extra_logs", "_pending_metrics", "_step"),
    "vllm_importance_sampling_correction",
)
_LOGPS = "_get_per_token_logps_and_entropies"
_LOGPS_PARAMETERS = ("self", "model", "input_ids", "attention_mask", "logits_to_keep")
_TURN_PARAMETERS = ("self", "prompt_ids", "images", "multimodal_fields")

DEMANDS = (
    # -- for credit --------------------------------------------------------------------------------
    Demand("__init__", says={rf"\bself\.{name}(?::[^=]+)? = ": None for name in _ATTRIBUTES}),
    Demand(
        "_calculate_rewards",
        ("self", "inputs", "prompts", "completions", "completion_ids_list"),
        says={
            # Where a process whose reward function raised meets the others.
            r"torch\.zeros\(len\(prompts\), len\(self\.reward_funcs\), device=device\)": 1,
            r"(?<!asyncio\.)\bgather\(": 1,
        },
    ),
    Demand(
        "_generate_and_score_completions",
        ("self", "inputs"),
        says={
            r"self\._calculate_rewards\(": 1,
            # `scoring.py` waits for it: the first pass over what `_generate` returned, under the
            # policy, and when TRL makes it.
            r"\) = self\._generate\(prompts\)": 1,
            r"generate_every = self\.args\.steps_per_generation \* self\.num_iterations": 1,
            r"if self\.args\.gradient_accumulation_steps % generate_every != 0 or \(\s*"
            r"self\.use_vllm and self\.vllm_importance_sampling_correction\s*\):\s*"
            rf"old_per_token_logps, _, _ = self\.{_LOGPS}\(\s*self\.model,\s*"
            r"prompt_completion_ids,\s*attention_mask,\s*logits_to_keep,\s*"
            r"(?:batch_size=)?batch_size,": 1,
            rf"self\.{_LOGPS}\(": 3,
            r"attention_mask = torch\.cat\(\[prompt_mask, completion_mask\], dim=1\)": 1,
        },
    ),
    Demand(
        "_generate",
        ("self", "prompts"),
        says={r"return prompt_ids, completion_ids, tool_mask, completions, ": 1},
    ),
    Demand("_log_completion_extra", ("self", "column", "values")),
    Demand("_log_metric", ("self", "name", "value")),
    # -- for the loss ------------------------------------------------------------------------------
    # Until 1.14 Liger has a loss of its own, which `refuse_liger_loss` keeps out.
    Demand("compute_loss", says={r"self\._compute_loss\b": 1}, before="1.14"),
    Demand("compute_loss", says={r"self\._compute_loss\b": 2}, since="1.14", before="1.15"),
    Demand("compute_loss", says={r"self\._compute_loss\b": 1}, since="1.15"),
    Demand("compute_loss", says={r"self\.compute_liger_loss\b": 0}, since="1.14"),
    Demand(
        "_compute_loss",
        ("self", "model", "inputs"),
        says={
            rf"self\.{_LOGPS}\(": 1,
            r'inputs\["advantages"\]': None,
            r'inputs\.get\("old_per_token_logps"\)': None,
            r"self\.beta != 0\.0": None,
            r"per_token_logps - old_per_token_logps": 1,
            # A reference that equals the policy makes TRL's KL term exactly 0.
            r'ref_per_token_logps = inputs\["ref_per_token_logps"\]': 1,
            r"torch\.exp\((\w+ - \w+)\) - \(\1\) - 1\s": 1,
            # `ratio.py` repeats it: where the ratio is clipped.
            r"torch\.clamp\(coef_1, 1 - self\.epsilon_low, 1 \+ self\.epsilon_high\)": 1,
            r"torch\.clamp\(coef_1, max=self\.epsilon_high\)": 1,
            r"torch\.clamp\(coef_1, max=self\.args\.delta\)": 1,
            # `loss_terms.py` repeats it: the correction, and the normalisers with their
            # accumulation.
            r"per_token_kl = per_token_kl \* coef_1": 1,
            r"per_token_loss\.size\(0\) \* self\.max_completion_length": 1,
            r'inputs\["num_items_in_batch"\]\.clamp\(min=1\.0\) / '
            r"self\.accelerator\.num_processes": 1,
            r"self\.current_gradient_accumulation_steps / self\.args\.steps_per_generation": 1,
        },
    ),
    # 1.14 chooses between two methods there, and leaves arguments and values to them.
    Demand(_LOGPS, _LOGPS_PARAMETERS, returned=3, before="1.14"),
    Demand(
        _LOGPS,
        ("self", "model", "args", "batch_size", "compute_aux_loss", "kwargs"),
        says={r"return self\._full_logits_logps\(": 1, r"\bself\._chunked_logps\b": 2},
        since="1.14",
        before="1.15",
    ),
    Demand("_full_logits_logps", _LOGPS_PARAMETERS, returned=3, since="1.14", before="1.15"),
    Demand("_chunked_logps", _LOGPS_PARAMETERS, returned=3, since="1.14", before="1.15"),
    Demand(_LOGPS, _LOGPS_PARAMETERS, returned=3, since="1.15"),
    # -- for branching -----------------------------------------------------------------------------
    Demand("_generate_single_turn", _TURN_PARAMETERS, before="1.14.2"),
    Demand(
        "_generate_single_turn",
        (*_TURN_PARAMETERS, "num_generations"),
        says={
            r"generation_config=self\.generation_config": None,
            r"self\.vllm_generation\.generate\(": 1,
            r"self\.eos_token_ids": None,
        },
        since="1.14.2",
    ),
    Demand("generate", ("self", "prompts", "images"), before="1.14.2", of="generation"),
    Demand(
        "generate",
        ("self", "prompts", "images", "num_generations"),
        says={
            r"max_completion_length = self\.max_completion_length": 1,
            r"self\.llm\.sleep\(level=2\)": 1,
            r"self\._llm_weights_sleeping = True": 1,
        },
        since="1.14.2",
        of="generation",
    ),
    # -- for checkpoints ---------------------------------------------------------------------------
    Demand(
        "_prepare_inputs",
        ("self", "generation_batch"),
        says={
            # `checkpoints/trainer.py` saves it: the place in the window, and its completions.
            r"generate_every = self\.args\.steps_per_generation \* self\.num_iterations": 1,
            r"self\._step % generate_every == 0 or self\._buffered_inputs is None": 1,
            r"self\._buffered_inputs\[self\._step % self\.args\.steps_per_generation\]": 1,
        },
    ),
    Demand("_get_train_sampler", ("self", "dataset")),
    Demand(
        "_init_training_state",
        (
            *("self", "max_steps", "num_update_steps_per_epoch", "num_train_epochs"),
            "resume_from_checkpoint",
        ),
        returned=2,
    ),
    Demand("_save_checkpoint", ("self", "model", "trial")),
    Demand("_save_rng_state", ("self", "output_dir")),
    Demand("_load_rng_state", ("self", "checkpoint")),
    Demand("_load_from_checkpoint", ("self", "resume_from_checkpoint", "model")),
    Demand("_load_best_model", ("self",)),
    Demand("_load_optimizer_and_scheduler", ("self", "checkpoint")),
    # -- for vLLM ----------------------------------------------------------------------------------
    Demand("_iter_named_params", ("self",), of="generation"),
)


class IncompatibleTRLError(ImportError):
    """The installed TRL is not the one this package knows how to stand on."""


def check_seam(
    trainer_class: type = GRPOTrainer,
    version: str = trl.__version__,
    generation_class: type = VLLMGeneration,
) -> None:
    """Raises IncompatibleTRLError unless TRL has the methods and shapes we build on.

    A TRL outside the versions that were tried, with nothing of this changed, gets a warning.
    """
    classes = {"trainer": trainer_class, "generation": generation_class}
    demands = [demand for demand in DEMANDS if demand.holds_for(version)]
    faults = [fault for demand in demands for fault in demand.faults(classes)]
    oldest, newest = KNOWN_TRL
    if faults:
        raise IncompatibleTRLError(
            f"trl_lambda does not fit trl {version}: {'; '.join(faults)}. It is known to work with "
            f'trl {oldest} to {newest}: pip install "trl>={oldest},<={newest}", or look for a '
            "newer trl-lambda."
        )
    if not Version(oldest) <= Version(version) <= Version(newest):
        warnings.warn(
            f"trl_lambda was tried with trl {oldest} to {newest}, not with {version}; "
            "nothing it builds on has changed there as far as its check can tell.",
            stacklevel=2,
        )
