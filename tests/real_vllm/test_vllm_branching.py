"""Branched groups with real vLLM: what it generated, what its prefix cache had, and how likely."""

import pytest
import tiny
import torch

pytestmark = pytest.mark.vllm

UNSET = dict.fromkeys(["trace_style", "process_set_weighting", "advantage_floor"])
SETTINGS = {
    "method": "branch",
    **UNSET,
    "loss_type": None,
    "scale_rewards": None,
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "max_completion_length": 80,
    "learning_rate": 2e-2,
    "max_steps": 2,
}
BLOCK = 128  # tokens that the cache keeps together on a CPU
PROMPTS = ["1+1=" * 25, "2+2=" * 25]  # 100 tokens: a block ends inside the completion
MEAN, MOST = 0.01, 0.05  # bfloat16, as in test_vllm_colocate.py


def build(make_trainer, **settings):
    data = tiny.Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS * 4])
    made = make_trainer(settings=SETTINGS | settings, train_dataset=data)
    made.model.train()
    return made


@pytest.fixture
def trainer(make_trainer):
    return build(make_trainer)


@pytest.fixture
def endless(make_trainer):
    """No completion ends before its fork."""
    return build(make_trainer, generation_kwargs={"logit_bias": {tiny.EOS: -100.0}})


def batch() -> list[dict]:
    return [{"prompt": PROMPTS[i // 4]} for i in range(8)]


@pytest.fixture
def calls(endless, monkeypatch):
    """What the engine returned, call by call."""
    seen = []
    llm = endless.vllm_generation.llm
    generate = llm.generate

    def noted(*args, **kwargs):
        seen.append(generate(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(llm, "generate", noted)
    return seen


def test_the_shared_part_is_generated_once_and_found_in_the_prefix_cache(endless, calls):
    endless._generate_and_score_completions(batch())
    rollout, counts = endless._rollout, endless._rollout.counts()
    roots, forks = calls
    assert len(roots) == 4
    assert len(forks) == 4
    assert counts.copies == 0

    def sampled(outputs):
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    beyond = sampled(roots) + sampled(forks) - counts.generated
    # One budget for the wave: forks behind the first one run on, and are cut.
    forked = [f for f, ids in zip(rollout.fork, rollout.completion_ids, strict=True) if f]
    assert 0 <= beyond <= sum(forked) - len(forked) * min(forked)
    assert max(map(len, rollout.completion_ids)) <= 80
    assert all(len(o.outputs[0].token_ids) <= 80 - min(forked) for o in forks)

    lengths = [len(output.prompt_token_ids) for output in forks]
    hits = [output.num_cached_tokens for output in forks]
    assert hits == [BLOCK if length > BLOCK else 0 for length in lengths]
    assert any(hits), "no fork stands far enough in: choose another seed"


def test_log_probabilities_are_those_of_one_pass_over_the_whole_row(trainer):
    output = trainer._generate_and_score_completions(batch())
    rollout, tokenizer = trainer._rollout, tiny.tokenizer()
    mask = output["completion_mask"].bool()
    for row, ids in enumerate(rollout.completion_ids):
        prompt = tokenizer(PROMPTS[row // 4])["input_ids"]
        whole = torch.tensor([prompt + ids])
        with torch.no_grad():
            logps = trainer.model(input_ids=whole).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        want = logps.gather(1, torch.tensor(ids)[:, None])[:, 0]
        distance = (torch.tensor(rollout.log_probs[row]) - want).abs()
        assert distance.mean() < MEAN
        assert distance.max() < MOST
        # TRL's importance-sampling correction gets the same ones.
        kept = output["sampling_per_token_logps"][row][mask[row]]
        torch.testing.assert_close(kept, torch.tensor(rollout.log_probs[row]))


def test_forks_at_surprising_tokens_need_no_pass_of_the_policy(make_trainer):
    """vLLM hands out the log-probabilities."""
    trainer = make_trainer(settings=SETTINGS | {"branch_at": "surprise"})
    trainer.model.train()
    trainer._scores = None  # would be called
    trainer._generate_and_score_completions([{"prompt": f"{i // 4}+1="} for i in range(8)])
    assert trainer._rollout.counts().forks


@pytest.mark.parametrize("at", ["random", "entropy"])
def test_it_trains(make_trainer, at):
    trainer = make_trainer(settings=SETTINGS | {"branch_at": at, "max_steps": 3})
    start = tiny.parameters(trainer).clone()
    trainer.train()
    assert not torch.equal(tiny.parameters(trainer), start)
    logs = [log for log in trainer.state.log_history if "rollout/shared_tokens" in log]
    assert len(logs) == 3
    assert all(log["sampling/sampling_logp_difference/mean"] < MEAN for log in logs)
