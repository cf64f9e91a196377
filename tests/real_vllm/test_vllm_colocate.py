"""Training with vLLM in the same process: the weights it samples from, everything switched on."""

import itertools
import logging
import math

import oracles
import peft
import pytest
import tiny
import torch

pytestmark = pytest.mark.vllm

TEXT = "12+34=46, as 2+4=6 and 1+3=4; the answer is 46"
# bfloat16 keeps 8 bits: seen are 0.002 on average and 0.01 at most, here and in training.
MEAN, MOST = 0.01, 0.05
IMPORTANCE_MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
WATCH = "trl_lambda.health.sampling_mismatch"
LOGGED = "sampling/sampling_logp_difference/mean"


def engine_logps(trainer) -> torch.Tensor:
    """Log-probabilities of TEXT's tokens but the first, as the engine scores them."""
    from vllm import SamplingParams

    ids = tiny.tokenizer()(TEXT)["input_ids"]
    scoring = SamplingParams(max_tokens=1, prompt_logprobs=0)
    llm = trainer.vllm_generation.llm
    [output] = llm.generate([{"prompt_token_ids": ids}], scoring, use_tqdm=False)
    scored = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
    return torch.tensor([position[token].logprob for token, position in scored])


def trainer_logps(trainer) -> torch.Tensor:
    ids = torch.tensor([tiny.tokenizer()(TEXT)["input_ids"]])
    with torch.no_grad():
        logps = trainer.model.eval()(input_ids=ids).logits.log_softmax(-1)
    return logps[0, :-1].gather(1, ids[0, 1:, None])[:, 0]


def assert_same_weights(trainer, why=""):
    distance = (engine_logps(trainer) - trainer_logps(trainer)).abs()
    assert distance.mean() < MEAN, why
    assert distance.max() < MOST, why


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_every_parameter_arrives(make_trainer, kind):
    """Each changed by itself, so that none can hide behind the others."""
    trainer = make_trainer(kind)
    trainer.vllm_generation.sync_weights()
    assert_same_weights(trainer)
    at_first = trainer_logps(trainer)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        kept = parameter.detach().clone()
        # Enough that a change of the scores stands out from rounding, and not so much that the
        # rounding grows with it.
        scale = 0.03 if "embed" in name or "lm_head" in name else 0.3
        if name.endswith(("q_proj.bias", "k_proj.bias", "norm.weight")):
            scale = 3.0
        with torch.no_grad():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
        trainer.vllm_generation.sync_weights()
        effect = (trainer_logps(trainer) - at_first).abs().mean()
        error = (trainer_logps(trainer) - engine_logps(trainer)).abs().mean()
        assert error < 0.15 * effect, name
        with torch.no_grad():
            parameter.copy_(kept)


@pytest.mark.parametrize("adapter", [False, True], ids=["all", "lora"])
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_trained_weights_arrive(make_trainer, kind, adapter):
    lora = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    trainer = make_trainer(
        kind,
        {"max_steps": 4, "learning_rate": 2e-2},
        peft_config=lora if adapter else None,
        eval_dataset=tiny.prompts(),
    )
    trainer.vllm_generation.sync_weights()
    before = engine_logps(trainer)
    assert_same_weights(trainer)
    trainer.train()
    trainer.evaluate()  # samples, so sends the weights of the last step
    assert_same_weights(trainer)
    assert (engine_logps(trainer) - before).abs().mean() > 10 * MEAN
    differences = [log[LOGGED] for log in trainer.state.log_history if LOGGED in log]
    assert len(differences) == 4
    assert max(differences) < MEAN


def test_tokens_of_old_weights_leave_the_prefix_cache(make_trainer):
    """A prompt longer than one of its blocks (128 tokens), the same in each step."""
    prompt = "1+1=" * 36
    assert len(prompt) > 128
    data = tiny.Dataset.from_list([{"prompt": prompt}] * 8)
    trainer = make_trainer(settings={"max_steps": 4, "learning_rate": 2e-2}, train_dataset=data)
    trainer.train()
    differences = [log[LOGGED] for log in trainer.state.log_history if LOGGED in log]
    assert max(differences) < MEAN


@pytest.mark.parametrize("trace", ["none", "advantage", "ratio", "weight"])
def test_everything_on(make_trainer, trace):
    """Traces, process sets, KL and two iterations, with each of TRL's four corrections."""
    traced = {"trace_style": "none"} if trace == "none" else {"trace_mode": trace}
    for mode, most in itertools.product(IMPORTANCE_MODES, (3.0, 1.0)):
        settings = traced | {
            "vllm_importance_sampling_mode": mode,
            "vllm_importance_sampling_clip_max": most,
            "num_iterations": 2,
            "steps_per_generation": 2,
            "per_device_train_batch_size": 4,
            "beta": 0.04,
            "max_steps": 8,
        }
        trainer = make_trainer(settings=settings)
        seen, start = tiny.capture_inputs(trainer), tiny.parameters(trainer)
        trainer.train()
        assert not torch.equal(tiny.parameters(trainer), start)
        assert torch.isfinite(tiny.parameters(trainer)).all()
        assert len(seen) == 8
        for inputs in seen:
            assert inputs["advantages"].shape == inputs["completion_mask"].shape
            torch.testing.assert_close(
                inputs["importance_sampling_ratio"], oracles.sampling_correction(inputs, mode, most)
            )
        logs = trainer.state.log_history
        differences = [log[LOGGED] for log in logs if LOGGED in log]
        assert len(differences) == 2  # each batch of completions serves four steps
        assert max(differences) < MEAN
        assert all(math.isfinite(v) for log in logs for v in log.values())
        assert any("process_sets/size" in log for log in logs)
        assert any("trace/z_abs_max" in log for log in logs) == (trace == "ratio")


def warnings_of(trainer, caplog) -> list[str]:
    with caplog.at_level(logging.WARNING, WATCH):
        trainer.train()
    return [r.getMessage() for r in caplog.records if r.name == WATCH]


def test_a_sync_that_does_not_arrive_is_reported(make_trainer, caplog):
    settings = {"max_steps": 12, "learning_rate": 1e-2}
    trainer = make_trainer(settings=settings)
    trainer.vllm_generation.sync_weights()
    trainer.vllm_generation.sync_weights = lambda: None
    [message] = warnings_of(trainer, caplog)
    assert "vLLM seems to sample from other weights than the trainer's" in message
    caplog.clear()
    assert warnings_of(make_trainer(settings=settings), caplog) == []


def test_sleep_mode_is_refused(make_trainer):
    with pytest.raises(ValueError, match=r"vllm_enable_sleep_mode=True: vLLM runs on a CPU here"):
        make_trainer(settings={"vllm_enable_sleep_mode": True})
