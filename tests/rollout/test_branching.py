"""Branched groups through the trainer: what is generated, what is credited, what is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import sibling_oracles
import tiny
import tiny_chat
import torch
from datasets import Dataset
from trl import GRPOTrainer

from trl_lambda import LambdaGRPOConfig
from trl_lambda.batch_plan import BatchSizes, plan_batches
from trl_lambda.functional import reward_denominator
from trl_lambda.rollout import BranchRule

UNSET = dict.fromkeys(["trace_style", "process_set_weighting", "advantage_floor"])
BRANCH = {"method": "branch", **UNSET, "loss_type": None, "scale_rewards": None}
SIZES = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 12}


def build(tmp_path, settings=None, **kw):
    trainer = tiny.trainer(tmp_path, settings=BRANCH | SIZES | (settings or {}), **kw)
    trainer.model.train()
    return trainer


def batch_of(trainer) -> list[dict]:
    """Two groups."""
    return [{"prompt": f"{i // 4}+1="} for i in range(8)]


def completions(output) -> list[list[int]]:
    mask = output["completion_mask"].bool()
    return [row[m].tolist() for row, m in zip(output["completion_ids"], mask, strict=True)]


def scored(trainer):
    """(output, rewards) of a batch of two groups."""
    rewards = []

    def noted(completions, **columns):
        rewards[:] = tiny.letter_reward(completions)
        return rewards

    trainer.reward_funcs = [noted]
    return trainer._generate_and_score_completions(batch_of(trainer)), rewards


def assert_credit_of_the_tree(trainer, output, rewards):
    """The credit of every token is that of the naive loop over who wrote what."""
    rollout, rows = trainer._rollout, completions(output)
    assert rows == rollout.completion_ids
    groups = [0] * 4 + [1] * 4
    token = sibling_oracles.by_writers(rollout.parent, rollout.fork)
    rule, lengths = trainer._rule, list(map(len, rows))
    want = sibling_oracles.branch_advantages(
        token, lengths, groups, rewards, max(lengths), rule.sibling_shrinkage, "children"
    )
    scale = trainer.args.scale_rewards or "group"  # the method's own
    unit = reward_denominator(torch.tensor(rewards), torch.tensor(groups), scale=scale)
    want = want / unit[:, None]
    if rule.advantage_floor is not None:
        want = want.clamp(min=rule.advantage_floor)
    if trainer._method.branching.weights == "branches":
        want = want * sibling_oracles.branch_weights(token, groups, max(lengths))
    there = output["completion_mask"].bool().cpu()
    got = output["advantages"].double().cpu()
    torch.testing.assert_close(got[there], want[there].double(), rtol=1e-5, atol=1e-5)
    assert not got[~there].any()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"branch_at": "entropy"},
        {"branch_at": "surprise"},
        {"branch_at": "newline"},
        {"branch_forks": "even", "branch_at": "fraction", "branch_fraction": 0.3},
        {"branch_roots": 1, "branch_levels": 2},
        {"sibling_shrinkage": 0.0, "advantage_floor": -math.inf},
        {"sibling_shrinkage": math.inf, "scale_rewards": "none", "branch_weights": "rows"},
    ],
    ids=str,
)
def test_credit_of_a_branched_batch_is_that_of_its_tree(tmp_path, settings):
    trainer = build(tmp_path, settings)
    output, rewards = scored(trainer)
    assert max(map(len, completions(output))) <= 12
    assert_credit_of_the_tree(trainer, output, rewards)


def test_num_tokens_counts_what_was_generated(tmp_path):
    trainer = build(tmp_path, {"max_steps": 1, "branch_roots": 1})
    trainer.train()
    counts = trainer._rollout.counts()
    assert counts.shared > 0
    (logged,) = [row for row in trainer.state.log_history if "num_tokens" in row]
    assert logged["num_tokens"] == 8 * len("0+1=") + counts.generated
    assert logged["rollout/generated_tokens"] == counts.generated
    assert logged["rollout/shared_tokens"] == counts.shared
    assert logged["rollout/copies"] == counts.copies / 8
    mean_length = sum(map(len, trainer._rollout.completion_ids)) / 8
    assert logged["completions/mean_length"] == pytest.approx(mean_length)


@pytest.mark.parametrize("at", ["random", "entropy"])
def test_the_entropy_at_forks_is_that_of_the_sampling_policy(tmp_path, at):
    settings = {"max_steps": 1, "branch_at": at, "seed": 3}
    trainer = build(tmp_path, settings, train_dataset=Dataset.from_list([{"prompt": "0+1="}] * 8))
    policy = tiny.model()  # TRL has changed the forward pass of the trainer's
    policy.load_state_dict(trainer.model.state_dict())
    policy.double().eval()
    trainer.train()
    rollout, prompt, entropies = trainer._rollout, trainer.processing_class("0+1=")["input_ids"], []
    for ids, fork in zip(rollout.completion_ids, rollout.fork, strict=True):
        if 0 < fork < len(ids):
            logits = policy(torch.tensor([prompt + ids[:fork]])).logits[0, -1]
            entropies.append(torch.distributions.Categorical(logits=logits).entropy().item())
    (logged,) = [row for row in trainer.state.log_history if "num_tokens" in row]
    mean = sum(entropies) / len(entropies)
    assert logged["rollout/fork_entropy"] == pytest.approx(mean, rel=1e-5)


def test_evaluation_is_never_branched(tmp_path):
    trainer = build(tmp_path, {"num_generations_eval": 2})
    asked = []
    turn = GRPOTrainer._generate_single_turn

    def noted(self, prompt_ids, *args):
        asked.append(len(prompt_ids))
        return turn(self, prompt_ids, *args)

    trainer.model.eval()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(GRPOTrainer, "_generate_single_turn", noted)
        trainer._generate_and_score_completions(batch_of(trainer))
        assert asked == [8]
        assert trainer._rollout is None
        trainer.model.train()
        trainer._generate_and_score_completions(batch_of(trainer))
    assert asked[:2] == [8, 4]  # then roots, and what is no copy
    assert asked[2] == 4 - trainer._rollout.counts().copies
    assert len(asked) == 3


def test_the_budget_of_a_fork_is_what_its_prefix_leaves(tmp_path):
    trainer = build(tmp_path, {"branch_forks": "even", "branch_at": "fraction"})
    seen = []
    generate = trainer.model.generate

    def noted(**inputs):
        seen.append((inputs["input_ids"].shape[1], inputs["generation_config"].max_new_tokens))
        # No token ends a completion: all of them reach the budget.
        inputs["generation_config"].suppress_tokens = [tiny.EOS]
        return generate(**inputs)

    trainer.model.generate = noted
    output = trainer._generate_and_score_completions(batch_of(trainer))
    assert completions(output) == trainer._rollout.completion_ids
    assert {len(row) for row in completions(output)} == {12}
    assert seen == [(4, 12), (4 + 6, 12 - 6)]
    assert trainer.generation_config.max_new_tokens == 12


def test_training_twice_from_one_seed_is_the_same(tmp_path):
    def weights(folder):
        trainer = build(folder, {"max_steps": 2})
        trainer.train()
        return trainer.model.state_dict()

    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_v_of_the_tree_is_the_mean_of_children(tmp_path):
    """A root that is forked thrice is worth no more and no less for it: leaves would say so."""
    settings = {"td_error": "tree", "trace_style": "recent", "branch_roots": 1, "seed": 2}
    trainer, seen, rewards = build(tmp_path, settings), [], [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5]
    trainer.reward_funcs = [lambda completions, **columns: rewards]
    assigned = trainer._assigned
    trainer._assigned = lambda signal: seen.append(signal.values_BT1) or assigned(signal)
    trainer._generate_and_score_completions(batch_of(trainer))
    rollout = trainer._rollout
    token = sibling_oracles.by_writers(rollout.parent, rollout.fork)
    lengths = list(map(len, rollout.completion_ids))
    leaves, want = (
        sibling_oracles.values(token, lengths, [0] * 4 + [1] * 4, rewards, max(lengths), averaging)
        for averaging in ("leaves", "children")
    )
    assert not torch.allclose(leaves, want)
    torch.testing.assert_close(seen[0].double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"td_error": "group"},
        {"td_error": "tree", "trace_style": "recent", "trace_lambda": 0.9},
        {"td_error": "group", "process_set_weighting": True, "branch_weights": "rows"},
        {"trace_style": "recent"},
        {"td_error": "terminal", "trace_style": "recent"},
    ],
    ids=str,
)
def test_other_credit_on_a_branched_group(tmp_path, settings):
    """Process sets and V are those of the real tree."""
    trainer = build(tmp_path, {"branch_roots": 1} | settings)
    output = trainer._generate_and_score_completions(batch_of(trainer))
    rollout = trainer._rollout
    assert torch.isfinite(output["advantages"]).all()
    if "process_set_weighting" not in settings:
        return
    token = sibling_oracles.by_writers(rollout.parent, rollout.fork)
    groups = [0] * 4 + [1] * 4
    rows = rollout.completion_ids
    weights = trainer._logs["extra"]["process_set_weight"]
    for i, row in enumerate(rows):
        sizes = []
        for t in range(len(row)):
            members = sibling_oracles.members(token, groups, i, t + 1)
            sizes.append(len([j for j in members if len(rows[j]) > t]))
        want = sum(1 / size for size in sizes) / len(sizes)
        assert weights[i] == pytest.approx(want, rel=1e-5)


def test_weights_of_branches_reach_the_loss_with_one_advantage_a_completion(tmp_path):
    settings = {"td_error": "group", "branch_roots": 1, "advantage_floor": -math.inf}
    trainer = build(tmp_path, settings)
    output = trainer._generate_and_score_completions(batch_of(trainer))
    rollout, there = trainer._rollout, output["completion_mask"].bool()
    token = sibling_oracles.by_writers(rollout.parent, rollout.fork)
    weight = sibling_oracles.branch_weights(token, [0] * 4 + [1] * 4, there.shape[1])
    advantage = torch.tensor(list(trainer._logs["extra"]["group_advantage"]))[:, None]
    want = (advantage * weight).masked_fill(~there, 0.0)
    torch.testing.assert_close(output["advantages"].double(), want, rtol=1e-5, atol=1e-6)
    assert (weight != 1).any()


REFUSED = {
    "uses a rollout_func": ({}, {"rollout_func": tiny.scripted([[5, tiny.EOS]])}, "rollout_func"),
    "continuous batching": (
        {"use_transformers_continuous_batching": True},
        {},
        "use_transformers_continuous_batching=True",
    ),
    "a regex": ({"vllm_structured_outputs_regex": "a+"}, {}, "vllm_structured_outputs_regex"),
    "min_new_tokens": ({"generation_kwargs": {"min_new_tokens": 3}}, {}, "'min_new_tokens'"),
    "a penalty": ({"generation_kwargs": {"presence_penalty": 1.0}}, {}, "'presence_penalty'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_forked_is_refused_before_training(tmp_path, name):
    settings, given, said = REFUSED[name]
    with pytest.raises(ValueError, match=said) as raised:
        build(tmp_path, settings, **given)
    assert "rollout='independent'" in str(raised.value)


def test_an_old_trl_is_refused_by_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr("trl.__version__", "1.14.1")
    with pytest.raises(ValueError, match=r"needs TRL 1\.14\.2 or newer.*this is 1\.14\.1"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"branch_roots": 4}, ["branch_roots=4", "branch_roots to 1 or 2 or 3"]),
        ({"branch_at": "random", "branch_fraction": 0.3}, ["branch_fraction=0.3", "random"]),
        ({"branch_at": "fraction", "branch_surprise": 1.0}, ["branch_surprise=1.0", "fraction"]),
        ({"rollout": "independent", "branch_roots": 2}, ["branch_roots=2", "rollout='branch'"]),
        ({"process_set_weighting": True}, ["branch_weights='branches'", "to 'rows'"]),
        ({"branch_levels": 4}, ["branch_levels=4", "1, 2 or 3"]),
        ({"branch_fraction": 1.0, "branch_at": "fraction"}, ["branch_fraction=1.0", "between"]),
        ({"branch_roots": 1.5}, ["branch_roots=1.5", "whole number"]),
        ({"td_error": "group", "sibling_shrinkage": 0.5}, ["sibling_shrinkage=0.5", "'sibling'"]),
        ({"sibling_shrinkage": -1.0}, ["sibling_shrinkage=-1.0", "≥ 0"]),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(tmp_path, settings, said):
    with pytest.raises(ValueError, match=r"branch|sibling") as raised:
        tiny.config(LambdaGRPOConfig, tmp_path, **(BRANCH | SIZES | settings))
    assert all(part in str(raised.value) for part in said)


def test_the_batch_plan_shows_roots_and_forks(tmp_path):
    plan = str(build(tmp_path, {"num_generations": 8})._batch_plan())
    assert "4 roots and 4 forks of each group: about 75% of the completion tokens" in plan
    plan = str(build(tmp_path, {"branch_at": "entropy", "branch_levels": 2})._batch_plan())
    assert "2 roots and 2 forks of each group in waves of 1 + 1\n" in plan


def test_an_odd_part_of_a_group_on_a_process_is_refused_with_what_fits():
    sizes = BatchSizes(
        per_device_train_batch_size=3,
        gradient_accumulation_steps=1,
        num_generations=6,
        max_completion_length=8,
        num_processes=2,
        branching=BranchRule(3, "spread", "random", 0.5, 2.0, 1),
    )
    with pytest.raises(ValueError, match="generates 3 completions") as raised:
        plan_batches(sizes)
    said = str(raised.value)
    assert "a multiple of 2" in said
    for count in map(int, re.findall(r"per_device_train_batch_size: (\d+)", said)):
        plan_batches(replace(sizes, per_device_train_batch_size=count))
    assert "per_device_train_batch_size: 6" in said


def test_an_engine_in_sleep_mode_stays_awake_between_the_waves(tmp_path):
    trainer = build(tmp_path)
    said = []

    class Engine:
        def sleep(self, level):
            said.append(f"sleep {level}")

        def wake_up(self, tags):
            said.append(f"wake {tags[0]}")

    class Generation:
        """What TRL's VLLMGeneration does around each call."""

        mode, enable_sleep_mode, max_completion_length = "colocate", True, 12
        llm = Engine()
        _llm_weights_sleeping = True

        def generate(self, prompts, images, num_generations, profiler):
            if self._llm_weights_sleeping:
                said.append("sync")
                self._llm_weights_sleeping = False
            self.llm.wake_up(tags=["kv_cache"])
            said.append(f"{len(prompts)} × {self.max_completion_length}")
            length = self.max_completion_length
            self.llm.sleep(level=2)
            self._llm_weights_sleeping = True
            ids = [[5] * length for _ in prompts]
            return prompts, ids, [[[-1.0]] * length for _ in prompts], None

    trainer.use_vllm, trainer.vllm_generation = True, Generation()
    del trainer.generation_config  # TRL makes none for vLLM
    trainer._last_loaded_step = trainer.state.global_step
    trainer._begin_batch()
    prompts = [[3, 4]] * 8
    ids, log_probs = trainer._generate_single_turn(prompts, None, {}, 4)
    first, *middle, last = [s for s in said if not s.startswith("wake")]
    assert (first, last) == ("sync", "sleep 2")
    assert middle[0] == "4 × 12"
    assert len(middle) == 2
    assert middle[1] == f"4 × {12 - min(f for f in trainer._rollout.fork if f)}"
    assert trainer.vllm_generation._llm_weights_sleeping
    assert trainer.vllm_generation.max_completion_length == 12
    assert {len(row) for row in ids} == {len(row) for row in log_probs} == {12}


def test_a_tool_loop_branches_in_its_first_turn_alone(tmp_path):
    """All completions call a tool; what follows its answer is each one's own."""
    call = tiny_chat.tokenizer()("[roll count=2]<eos>")["input_ids"]
    trainer = tiny.trainer(
        tmp_path,
        model=tiny_chat.model(),
        processing_class=tiny_chat.tokenizer(),
        tools=[tiny_chat.dice(["5", "6"])],
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "1+1="}]}] * 8),
        settings=BRANCH | SIZES | {"max_completion_length": 60, "branch_roots": 1},
    )
    trainer.model.train()
    asked = []

    def generate(self, prompt_ids, *args, **kwargs):
        asked.append(len(prompt_ids))
        if len(asked) == 1:
            return [list(call) for _ in prompt_ids], None
        if len(asked) == 2:  # prompts end inside the call
            starts = [len(p) - len(head) for p in prompt_ids for head in [prompts_of(p)]]
            return [list(call[start:]) for start in starts], None
        return [[5 + i % 3, tiny.EOS] for i in range(len(prompt_ids))], None

    def prompts_of(ids):
        ids = list(ids)
        first = max(i for i in range(len(ids)) if ids[i : i + 2] == start_of_answer)
        return ids[: first + 2]

    start_of_answer = tiny_chat.tokenizer()("a:")["input_ids"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(GRPOTrainer, "_generate_single_turn", generate)
        rows = [{"prompt": [{"role": "user", "content": f"{i // 4}+1="}]} for i in range(8)]
        output = trainer._generate_and_score_completions(rows)
    rollout = trainer._rollout
    assert asked == [2, 6 - rollout.counts().copies, 8]
    assert [ids == call for ids in rollout.completion_ids] == [True] * 8
    for row, ids in enumerate(completions(output)):
        assert ids[: len(call)] == call
        assert rollout.fork[row] <= len(call)
    # The tool's answers and what follows are of one row each: from there on credit is a row's own.
    assert torch.isfinite(output["advantages"]).all()
    assert output["advantages"][output["tool_mask"] == 0].abs().sum() == 0


def test_images_are_refused_when_they_come(tmp_path):
    trainer = build(tmp_path)
    trainer._begin_batch()
    with pytest.raises(NotImplementedError, match="prompts hold images"):
        trainer._generate_single_turn([[3, 4]] * 8, [["an image"]] * 8, {}, 4)
    trainer._begin_batch()
    with pytest.raises(NotImplementedError, match="prompts hold images"):
        trainer._generate_single_turn([[3, 4]] * 8, None, {"pixel_values": torch.ones(1)}, 4)


def test_truncated_completions_that_are_masked_out_leave_the_tree(tmp_path):
    trainer = build(tmp_path, {"mask_truncated_completions": True, "max_completion_length": 6})
    output = trainer._generate_and_score_completions(batch_of(trainer))
    truncated = [row[-1] != tiny.EOS for row in trainer._rollout.completion_ids]
    assert any(truncated)
    assert not output["advantages"][torch.tensor(truncated)].any()
    assert torch.isfinite(output["advantages"]).all()
