"""vLLM's importance-sampling correction under our credit, end to end, with made-up log-probs.

The engine is left out: a rollout hands out completions and the log-probabilities they were
"sampled" with, far from the policy's. A corrected run must be the uncorrected one with the ratio
multiplied into the policy term once, in TRL's four modes and under every trace.
"""

import math
from types import SimpleNamespace

import oracles
import pytest
import tiny
import torch

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
TRACES = {
    "none": {"trace_style": "none"},
    "advantage": {"trace_mode": "advantage", "trace_lambda": 0.9},
    "ratio": {"trace_mode": "ratio", "trace_lambda": 0.9, "trace_style": "both"},
    "weight": {"trace_mode": "weight", "trace_lambda": 0.9},
}
MOST = 1.5
COMPLETIONS = [
    [9, 9, 7, 30, tiny.EOS],
    [9, 9, 13, tiny.EOS],
    [9, 20, tiny.EOS],
    [31, 9, 21, 12, 5, tiny.EOS],
    [18, 18, tiny.EOS],
    [18, 19, 18, 9, tiny.EOS],
    [18, 18, 40, 4, 4, 4, 6, tiny.EOS],
    [8, tiny.EOS],
]
UNTRAINED = -math.log(3 + len(tiny.CHARACTERS))  # the tiny model's, within 0.1


def sampling_logps() -> list[list[float]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (UNTRAINED + 0.5 * torch.randn(len(row), generator=generator)).tolist()
        for row in COMPLETIONS
    ]


def run(tmp_path, settings, *, corrected, mode, change=None):
    """(inputs of the loss, parameters after two steps); `change` edits those inputs first."""
    rollout = tiny.scripted(COMPLETIONS)
    logps = sampling_logps()
    trainer = tiny.trainer(
        tmp_path,
        settings={
            "num_iterations": 2,
            "beta": 0.04,
            "max_steps": 2,  # the second is an iteration on the same completions
            "optim": "sgd",
            "learning_rate": 1.0,
            "max_grad_norm": 0.0,
            "vllm_importance_sampling_correction": corrected,
            "vllm_importance_sampling_mode": mode,
            "vllm_importance_sampling_clip_max": MOST,
        }
        | settings,
        rollout_func=lambda prompts, trainer: rollout(prompts, trainer) | {"logprobs": logps},
    )
    # As TRL sets them for use_vllm=True, which itself wants an engine.
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None)
    inner, seen = trainer.compute_loss, []

    def compute_loss(model, inputs, *args, **kwargs):
        if change is not None:
            inputs = change(len(seen), inputs)
        seen.append({name: inputs[name] for name in inputs})
        return inner(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    trainer.train()
    return seen, tiny.parameters(trainer)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trace", TRACES)
def test_the_ratio_multiplies_the_policy_term_once(tmp_path, trace, mode):
    settings = TRACES[trace]
    seen, parameters = run(tmp_path, settings, corrected=True, mode=mode)
    ratios = [inputs["importance_sampling_ratio"] for inputs in seen]
    for inputs, ratio in zip(seen, ratios, strict=True):
        torch.testing.assert_close(ratio, oracles.sampling_correction(inputs, mode, MOST))
    values = ratios[0][seen[0]["completion_mask"].bool()] if ratios[0].shape[1] > 1 else ratios[0]
    cut = values == (MOST if mode.endswith("truncate") else 0.0)
    assert 0 < cut.sum() < cut.numel(), "the correction both cuts and leaves"

    def into_the_advantage(step, inputs):
        """Where it can stand as well, since it is never negative."""
        assert "importance_sampling_ratio" not in inputs
        advantages = inputs["advantages"]
        return {**inputs, "advantages": advantages * ratios[step]}

    once = run(tmp_path, settings, corrected=False, mode=mode, change=into_the_advantage)[1]
    never = run(tmp_path, settings, corrected=False, mode=mode)[1]
    torch.testing.assert_close(parameters, once, rtol=1e-4, atol=1e-6)
    assert (once - never).abs().max() > 1e-3


def test_credit_does_not_depend_on_how_tokens_were_sampled(tmp_path):
    def credit(corrected):
        settings = {"trace_lambda": 0.9, "max_steps": 1}
        seen, _ = run(tmp_path, settings, corrected=corrected, mode="token_truncate")
        return seen[0]["advantages"], seen[0]["kl_weight"]

    torch.testing.assert_close(credit(True), credit(False), rtol=0, atol=0)
