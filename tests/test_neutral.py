"""Neutral settings are TRL's GRPO bit for bit: parameters, losses and logged metrics."""

import itertools

import pytest
import tiny
import torch
from trl import GRPOTrainer

from trl_lambda import LambdaGRPOTrainer

LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]
# (gradient_accumulation_steps, steps_per_generation)
WINDOWS = [(1, 1), (1, 2), (2, 4), (4, 2)]


def run(cls, output_dir, settings):
    trainer = tiny.trainer(output_dir, cls, settings=settings)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("loss_type", "beta", "num_iterations", "window"),
    [
        # Every loss type with every β and μ; over the loss types each of these meets all windows.
        (loss_type, beta, mu, WINDOWS[(i + i // 4) % len(WINDOWS)])
        for i, (loss_type, beta, mu) in enumerate(
            itertools.product(LOSS_TYPES, (0.0, 0.04), (1, 2))
        )
    ],
)
def test_equals_stock_bit_for_bit(tmp_path, loss_type, beta, num_iterations, window):
    accumulation, per_generation = window
    settings = {
        "loss_type": loss_type,
        "scale_rewards": "group",
        "beta": beta,
        "num_iterations": num_iterations,
        "gradient_accumulation_steps": accumulation,
        "steps_per_generation": per_generation,
        "per_device_train_batch_size": 4,
    }
    stock = run(GRPOTrainer, tmp_path / "stock", settings)
    ours = run(LambdaGRPOTrainer, tmp_path / "ours", settings | tiny.NEUTRAL)
    tiny.assert_same_run(ours, stock)


@pytest.mark.parametrize(
    "special",
    [
        {"importance_sampling_level": "sequence"},
        {"importance_sampling_level": "sequence", "loss_type": "luspo"},
        {"loss_type": "vespo"},
        {"off_policy_mask_threshold": 0.1, "num_iterations": 2},
        {"multi_objective_aggregation": "normalize_then_sum"},
        {"entropy_coef": 0.01, "top_entropy_quantile": 0.5},
    ],
    ids=str,
)
def test_what_token_level_credit_refuses_is_stock_when_neutral(tmp_path, special):
    settings = {"scale_rewards": "group", "loss_type": "dapo"} | special
    stock = run(GRPOTrainer, tmp_path / "stock", settings)
    ours = run(LambdaGRPOTrainer, tmp_path / "ours", settings | tiny.NEUTRAL)
    tiny.assert_same_run(ours, stock)


def test_not_neutral_differs(tmp_path):
    """The comparison above can fail."""
    settings = {"loss_type": "dapo", "scale_rewards": "group"}
    stock = run(GRPOTrainer, tmp_path / "stock", settings)
    ours = run(LambdaGRPOTrainer, tmp_path / "ours", settings | {"process_set_weighting": False})
    assert not torch.equal(tiny.parameters(ours), tiny.parameters(stock))


def test_no_trace_left_is_stock(tmp_path):
    """λ = 0, recent, every mode: GRPO, through the token-level path."""
    stock = run(GRPOTrainer, tmp_path / "stock", {"loss_type": "dapo", "scale_rewards": "group"})
    for mode in ("advantage", "ratio", "weight"):
        ours = run(
            LambdaGRPOTrainer,
            tmp_path / mode,
            {
                "loss_type": "dapo",
                "scale_rewards": "group",
                "trace_mode": mode,
                "trace_lambda": 0.0,
                "process_set_weighting": False,
            },
        )
        assert torch.equal(tiny.parameters(ours), tiny.parameters(stock)), mode


@pytest.mark.parametrize(
    "sequence_level",
    [
        {"importance_sampling_level": "sequence", "loss_type": "grpo"},  # GSPO
        {"importance_sampling_level": "sequence", "loss_type": "luspo"},
        {"loss_type": "vespo"},
        {"off_policy_mask_threshold": 0.1, "num_iterations": 2},
    ],
    ids=str,
)
def test_the_defaults_of_the_package_are_stock_where_credit_of_tokens_cannot_be(
    tmp_path, sequence_level
):
    stock = run(GRPOTrainer, tmp_path / "stock", sequence_level)
    ours = run(LambdaGRPOTrainer, tmp_path / "ours", tiny.DEFAULT | sequence_level)
    tiny.assert_same_run(ours, stock)


@pytest.mark.parametrize("method", [{}, {"method": "default"}, {"method": "grpo"}], ids=str)
def test_the_default_and_grpo_are_what_trl_trains_with_nothing_set(tmp_path, method):
    stock = run(GRPOTrainer, tmp_path / "stock", {})
    ours = run(LambdaGRPOTrainer, tmp_path / "ours", tiny.DEFAULT | method)
    tiny.assert_same_run(ours, stock)


def test_the_default_of_earlier_versions_is_two_options_away(tmp_path):
    stock = run(GRPOTrainer, tmp_path / "stock", {})
    ours = run(LambdaGRPOTrainer, tmp_path / "ours", tiny.TRACE_AND_FLOOR)
    assert not torch.equal(tiny.parameters(ours), tiny.parameters(stock))
