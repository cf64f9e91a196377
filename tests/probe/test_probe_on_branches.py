"""The answer probe on branched groups: where they fork, and what V is at a fork."""

from __future__ import annotations

import asked
import pytest
import sibling_oracles
import tiny
import torch
from asked import GOLDS, RAW, REWARDS, rewarded, rows, score

from trl_lambda.probe.critic import Asked

GROUPS = [0] * 4 + [1] * 4
STEP = 3  # tokens of a segment
BRANCH = {"rollout": "branch", "branch_at": "value", "step_ends": STEP, "branch_roots": 2}


def build(tmp_path, settings=None, **kw):
    model = tiny.model(vocab_size=asked.NEWLINE + 1)
    with torch.no_grad():  # so that answers are told apart, and Φ is not that of chance
        model.lm_head.weight.mul_(20.0)
    sizes = {"max_completion_length": 12, "per_device_train_batch_size": 8, "num_generations": 4}
    return tiny.trainer(
        tmp_path,
        reward_funcs=kw.pop("reward_funcs", None) or rewarded(REWARDS),
        settings=tiny.DEFAULT | RAW | BRANCH | sizes | {"seed": 1} | (settings or {}),
        model=model,
        processing_class=asked.tokenizer(),
        train_dataset=tiny.Dataset.from_list(rows()),
        **kw,
    )


def phi_of(trainer, completion_ids) -> list[dict[int, float]]:
    """Φ before each segment of each row, by its position, one prefix at a time."""
    exact = asked.in_double(trainer.accelerator.unwrap_model(trainer.model))
    return [
        {
            b: asked.phi(exact, asked.encode(f"{i // 4}+1="), ids[:b], GOLDS[i // 4])
            for b in range(0, len(ids), STEP)
        }
        for i, ids in enumerate(completion_ids)
    ]


def test_forks_stand_where_the_answer_is_most_uncertain(tmp_path):
    trainer = build(tmp_path)
    score(trainer)
    rollout = trainer._rollout
    phis = phi_of(trainer, rollout.completion_ids)
    for first in (0, 4):
        doubts = [
            (phi * (1 - phi), root, b)
            for root in (first, first + 1)
            for b, phi in phis[root].items()
            if 0 < b < len(rollout.completion_ids[root])
        ]
        want = sorted((root, b) for _, root, b in sorted(doubts)[-2:])
        assert len(doubts) > 2
        forks = [(rollout.parent[i], rollout.fork[i]) for i in (first + 2, first + 3)]
        assert sorted(forks) == want


def test_a_value_near_its_bounds_leaves_no_doubt(tmp_path):
    """V(1 − V) before each segment: 0.9 is as sure as 0.1, and elsewhere nothing is told."""
    phis, begins = [0.9, 0.5, 0.1, 0.95], [0, 3, 6, 9]
    number_BT = torch.tensor([[0] * 3 + [1] * 3 + [2] * 3 + [3]])
    continuations = [(0, begin, [5]) for begin in begins]
    asked_of = Asked(continuations, [1] * 4, [0, 1, 2, 3], number_BT, torch.tensor([True]))
    got = build(tmp_path)._probe.doubts(asked_of, [torch.tensor([phi]).log() for phi in phis])
    want = torch.full((1, 10), -torch.inf, dtype=torch.float64)
    want[0, begins] = torch.tensor([phi * (1 - phi) for phi in phis], dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("at", ["value", "random"])
@pytest.mark.parametrize("lost", [False, True])
def test_v_of_a_fork_is_the_mean_of_the_probe_and_the_other_children(tmp_path, at, lost):
    """A = r − V on each segment; a reward that is unknown leaves its group the probe's values."""
    rewards = [None, *REWARDS[1:]] if lost else REWARDS
    trainer = build(tmp_path, {"branch_at": at}, reward_funcs=rewarded(rewards))
    output = score(trainer)
    rollout, ids = trainer._rollout, trainer._rollout.completion_ids
    writer = sibling_oracles.by_writers(rollout.parent, rollout.fork)
    phis, mixed = phi_of(trainer, ids), 0
    for i, phi in enumerate(phis):
        if rewards[i] is None:
            continue
        for b, own in phi.items():
            others = []
            if b > 0 and None not in [rewards[j] for j in range(8) if GROUPS[j] == GROUPS[i]]:
                sharing = sibling_oracles.members(writer, GROUPS, i, b)
                branches = sibling_oracles.parts(writer, sharing, b)
                others = [
                    sibling_oracles.value(writer, rewards, one, b + 1, 12, "children")
                    for one in branches
                    if i not in one
                ]
            mixed += bool(others)
            want = rewards[i] - (own + sum(others)) / (1 + len(others))
            got = output["advantages"][i, b : min(b + STEP, len(ids[i]))]
            torch.testing.assert_close(got, torch.full_like(got, want), rtol=1e-4, atol=1e-5)
    assert mixed > 3 or at == "random"


def test_training_with_both(tmp_path):
    trainer = build(tmp_path, {"max_steps": 2, "probe_calibration": True, "trace_lambda": 0.8})
    trainer.train()
    logs = [log for log in trainer.state.log_history if "rollout/shared_tokens" in log]
    assert len(logs) == 2
    assert all(log["rollout/shared_tokens"] > 0 and "probe/value_mean" in log for log in logs)


def test_it_needs_a_probe(tmp_path):
    settings = {"method": "grpo", "rollout": "branch", "branch_at": "value"}
    with pytest.raises(ValueError, match=r"branch_at='value'.*td_error='group'.*set td_error"):
        tiny.trainer(tmp_path, settings=settings)
