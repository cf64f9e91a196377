"""Where the loss clips: as the gradients of TRL's own loss tell it, and in the records of a run."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from test_loss import LOSS_TYPES, MASK, batch, compute

from trl_lambda.report import load_run
from trl_lambda.seam.ratio import RatioRule

NOWHERE = 1e9


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    trainer = tiny.trainer(tmp_path_factory.mktemp("ratio"), settings=tiny.NEUTRAL)
    trainer.current_gradient_accumulation_steps = 2
    return trainer


def gradient(trainer, monkeypatch, case, loss_type, *, low, high, delta=None):
    """TRL's, with these limits."""
    for owner, name, value in (
        (trainer, "epsilon_low", low),
        (trainer, "epsilon_high", high),
        (trainer.args, "delta", delta),
    ):
        monkeypatch.setattr(owner, name, value)
    rule = tiny.rule(trace_style="none", process_set_weighting=False)
    return compute(trainer, monkeypatch, rule, case, loss_type=loss_type, beta=0.0)[1]


@pytest.mark.parametrize("delta", [None, 1.5, 1.1])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_clipped_is_where_trls_gradient_is_another_than_that_of_the_ratio(
    trainer, monkeypatch, loss_type, delta
):
    limits = {"low": 0.1, "high": 1.2 if loss_type == "cispo" else 0.3, "delta": delta}
    found = 0
    for seed in range(10):
        case = batch(seed, spread=0.5)
        case["advantage"][1, 0] = 0.0
        free = gradient(trainer, monkeypatch, case, loss_type, low=NOWHERE, high=NOWHERE)
        held = gradient(trainer, monkeypatch, case, loss_type, **limits)
        rule = trainer._ratio_rule
        ratio = (case["logps"] - case["old"]).exp()
        clipped = rule.clipped(ratio, case["advantage"]) & MASK.bool()
        assert torch.equal(clipped, ~torch.isclose(free, held, rtol=1e-9, atol=0))
        found += int(clipped.sum())
    assert (found > 20) == (loss_type != "sapo")


def test_the_metrics_of_trl_count_the_same(trainer, monkeypatch):
    """TRL's own counts, of the losses that have one."""
    for loss_type, name in (("grpo", "clip_ratio/region_mean"), ("cispo", "cispo_clip_ratio")):
        case = batch(3, spread=0.5)
        trainer._metrics[trainer._mode].clear()
        gradient(trainer, monkeypatch, case, loss_type, low=0.1, high=1.1)
        ratio = (case["logps"] - case["old"]).exp()
        clipped = trainer._ratio_rule.clipped(ratio, case["advantage"]) & MASK.bool()
        if loss_type == "cispo":  # TRL counts those with a positive advantage alone
            clipped &= case["advantage"] > 0
        (logged,) = trainer._metrics[trainer._mode][name]
        assert logged == pytest.approx((clipped.sum() / MASK.sum()).item())


def test_no_token_is_clipped_without_an_advantage_or_a_ratio():
    rule = RatioRule("grpo", 0.2, 0.2)
    ratio = torch.tensor([0.1, 9.0, math.nan, 9.0, 0.1])
    advantage = torch.tensor([0.0, 0.0, 1.0, -1.0, 1.0])
    assert not rule.clipped(ratio, advantage).any()


LIMITS = {
    "grpo": (0.75, 1.5),
    "luspo": (0.75, 1.5),
    "cispo": (-math.inf, 0.5),  # epsilon_high is the cap itself
    "sapo": (-math.inf, math.inf),
    "vespo": (-math.inf, math.inf),
}


@pytest.mark.parametrize("loss_type", LIMITS)
def test_limits_of_the_ratio(loss_type):
    assert RatioRule(loss_type, 0.25, 0.5).limits == LIMITS[loss_type]


# Of seven tokens; an eighth is masked.
OUTSIDE = {"grpo": 5, "cispo": 6, "sapo": 0}


@pytest.mark.parametrize("loss_type", OUTSIDE)
def test_the_metric_of_the_traced_ratio_has_the_limits_of_the_loss(trainer, monkeypatch, loss_type):
    for name, value in (("epsilon_low", 0.1), ("epsilon_high", 0.5), ("loss_type", loss_type)):
        monkeypatch.setattr(trainer, name, value)
    trainer._metrics[trainer._mode].clear()
    z = torch.tensor([[0.4, 0.6, 2.0, 9.0], [0.8, 1.2, 1.4, 1.6]]).log()
    trainer._observer.observe_ratio(z, torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]))
    (share,) = trainer._metrics[trainer._mode]["trace/ratio_clipped"]
    assert share == pytest.approx(OUTSIDE[loss_type] / 7)


def test_one_ratio_for_a_sequence():
    rule = RatioRule("grpo", 0.2, 0.2, level="sequence")
    x = torch.tensor([[0.2, 0.4, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    torch.testing.assert_close(rule.log_ratio(x, mask), torch.tensor([[0.3] * 3, [0.0] * 3]))
    assert RatioRule("grpo", 0.2, 0.2).log_ratio(x, mask) is x


# Through a training: four micro-batches of a generated batch, an optimiser step each.

STEPS = {"per_device_train_batch_size": 4, "steps_per_generation": 4, "max_steps": 4}
COMPLETIONS = [[5, 6, 7, tiny.EOS], [5, 6, 8, tiny.EOS], [5, 9, tiny.EOS], [4, 6, tiny.EOS]]


def rewards(completions, **columns):
    return [float(i % 3) for i in range(len(completions))]


def recorded(folder, **settings):
    """All tokens of a run, (ratio, advantage, clipped), and what it logged."""
    trainer = tiny.trainer(
        folder,
        reward_funcs=rewards,
        rollout_func=tiny.scripted(COMPLETIONS * 4),
        settings=STEPS | {"credit_log_steps": 1, "learning_rate": 0.05} | settings,
    )
    trainer.train()
    rows = [row for group in load_run(folder).groups for row in group["completions"]]
    tokens = [
        token
        for row in rows
        for token in zip(
            row["update"]["ratio"], row["advantage"], row["update"]["clipped"], strict=True
        )
    ]
    return tokens, trainer


def by_sign(ratio, advantage):
    return (ratio < 0.99 and advantage < 0) or (ratio > 1.2 and advantage > 0)


EXPECTED = {
    "grpo": by_sign,
    "dapo": by_sign,
    "cispo": lambda ratio, advantage: ratio > 1.2 and advantage != 0,
    "sapo": lambda ratio, advantage: False,
}


@pytest.mark.parametrize("mode", ["advantage", "ratio"])
@pytest.mark.parametrize("loss_type", EXPECTED)
def test_the_record_says_what_the_loss_clipped(tmp_path, loss_type, mode):
    high = 1.2 if loss_type == "cispo" else 0.2
    tokens, trainer = recorded(
        tmp_path, loss_type=loss_type, trace_mode=mode, epsilon=0.01, epsilon_high=high
    )
    clipped = [bool(clipped) for _, _, clipped in tokens]
    assert clipped == [EXPECTED[loss_type](ratio, advantage) for ratio, advantage, _ in tokens]
    assert any(clipped) == (loss_type != "sapo")
    if mode == "ratio":
        shares = [log["trace/ratio_clipped"] for log in trainer.state.log_history[:-1]]
        assert (max(shares) > 0) == (loss_type != "sapo")


def test_delta_clips_what_is_blamed_from_above(tmp_path):
    tokens, _ = recorded(tmp_path, epsilon=0.01, epsilon_high=0.02, delta=1.05)
    blamed = [(ratio, bool(clipped)) for ratio, advantage, clipped in tokens if advantage < 0]
    assert all(clipped == (ratio < 0.99 or ratio > 1.05) for ratio, clipped in blamed)
    assert any(clipped for ratio, clipped in blamed if ratio > 1.05)


def test_one_ratio_for_a_sequence_is_recorded_as_one(tmp_path):
    settings = tiny.NEUTRAL | {"importance_sampling_level": "sequence", "epsilon": 0.01}
    recorded(tmp_path, **settings)
    rows = [row for group in load_run(tmp_path).groups for row in group["completions"]]
    assert all(len(set(row["update"]["ratio"])) == 1 for row in rows)
    assert all(len(set(row["update"]["clipped"])) == 1 for row in rows)
    assert any(row["update"]["clipped"][0] for row in rows)


def test_a_token_that_the_loss_does_not_count_is_not_clipped(tmp_path):
    """Stock credit has an advantage on every token, a tool's too."""
    masks = [[1, 0] + [1] * (len(row) - 2) for row in COMPLETIONS]
    trainer = tiny.trainer(
        tmp_path,
        reward_funcs=rewards,
        rollout_func=tiny.scripted(COMPLETIONS * 4, env_mask=masks * 4),
        settings=STEPS
        | tiny.NEUTRAL
        | {"credit_log_steps": 1, "learning_rate": 0.05}
        | {"epsilon": 0.001},
    )
    trainer.train()
    rows = [row for group in load_run(tmp_path).groups for row in group["completions"]]
    assert {row["mask"][1] for row in rows} == {0}
    assert {row["update"]["clipped"][1] for row in rows} == {0}
    assert any(1 in row["update"]["clipped"] for row in rows)
