"""The loss through TRL's own `_compute_loss`, against an independent float64 implementation."""

import itertools
from dataclasses import replace

import oracles
import pytest
import tiny
import torch
from trl import GRPOTrainer

LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]
MASK = torch.tensor(
    [[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
)
TIGHT = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    settings = {"beta": 0.04, "steps_per_generation": 4, "gradient_accumulation_steps": 2}
    trainer = tiny.trainer(tmp_path_factory.mktemp("loss"), settings=settings)
    trainer.current_gradient_accumulation_steps = 2
    return trainer


def batch(seed=0, spread=0.3):
    """Leaf log-probs and what the loss gets beside them, float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(scale):
        return scale * torch.randn(MASK.shape, dtype=torch.float64, generator=generator)

    logps = draw(1.0) - 2
    return {
        "logps": logps,
        "old": logps + draw(spread),
        "reference": logps + draw(0.5),
        "advantage": draw(1.0),
        "weight": torch.rand(MASK.shape, dtype=torch.float64, generator=generator) + 0.1,
    }


def compute(trainer, monkeypatch, rule, case, *, loss_type, beta, with_old=True, **extra):
    """(loss, gradient with respect to the log-probs) of the trainer."""
    leaf = case["logps"].clone().requires_grad_()
    entropies = torch.zeros_like(leaf)
    monkeypatch.setattr(
        GRPOTrainer,
        "_get_per_token_logps_and_entropies",
        lambda *args, **kwargs: (leaf, entropies, None),
    )
    method = replace(trainer._method, credit=rule)
    for name, value in {"_method": method, "loss_type": loss_type, "beta": beta}.items():
        monkeypatch.setattr(trainer, name, value)
    inputs = {
        "prompt_ids": torch.ones(4, 1, dtype=torch.long),
        "prompt_mask": torch.ones(4, 1, dtype=torch.long),
        "completion_ids": torch.ones(MASK.shape, dtype=torch.long),
        "completion_mask": torch.ones(MASK.shape, dtype=torch.long),
        "tool_mask": MASK,
        "advantages": case["advantage"],
        "num_items_in_batch": torch.tensor(40),
        "ref_per_token_logps": case["reference"],
    }
    if with_old:
        inputs["old_per_token_logps"] = case["old"]
    if rule.process_set_weighting and beta:
        inputs["kl_weight"] = case["weight"]
    inputs |= extra
    before = {k: v.clone() for k, v in inputs.items()}
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    assert all(torch.equal(inputs[k], before[k]) for k in before), "the buffer is used again"
    assert trainer.beta == beta
    return loss.detach(), leaf.grad


def expected(rule, case, *, loss_type, beta, with_old=True, training=True, **options):
    leaf = case["logps"].clone().requires_grad_()
    weight = case["weight"] if rule.process_set_weighting else torch.ones_like(leaf)
    loss = oracles.loss(
        rule,
        leaf,
        case["old"] if with_old else leaf.detach(),
        case["advantage"],
        weight,
        MASK,
        loss_type=loss_type,
        beta=beta,
        reference=case["reference"],
        max_completion_length=8,
        items=40,
        accumulation=2 if training else 1,
        per_generation=4 if training else 1,
        **options,
    )
    loss.backward()
    return loss.detach(), leaf.grad


def rules():
    for style, mode, normalize, weighting in itertools.product(
        ("none", "recent", "both"), ("advantage", "ratio", "weight"), (True, False), (True, False)
    ):
        if style != "none" or (mode == "advantage" and normalize):
            yield tiny.rule(
                trace_style=style,
                trace_mode=mode,
                normalize_trace=normalize,
                process_set_weighting=weighting,
                decay=0.9,
            )


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradient(trainer, monkeypatch, loss_type, beta):
    trainer.model.train()
    for rule, with_old in itertools.product(rules(), (True, False)):
        case, options = batch(), {"loss_type": loss_type, "beta": beta, "with_old": with_old}
        loss, gradient = compute(trainer, monkeypatch, rule, case, **options)
        want_loss, want_gradient = expected(rule, case, **options)
        torch.testing.assert_close(gradient, want_gradient, **TIGHT, msg=f"{rule} {options}")
        if loss_type != "cispo" or rule.traces_ratio:
            # TRL's cispo loss contains log π itself, of which z is the traced part only.
            torch.testing.assert_close(loss, want_loss, **TIGHT)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_evaluation_does_not_accumulate(trainer, monkeypatch, loss_type):
    rule = tiny.rule(trace_mode="ratio", decay=0.9)
    trainer.model.eval()
    try:
        options = {"loss_type": loss_type, "beta": 0.04}
        loss, _ = compute(trainer, monkeypatch, rule, batch(), **options)
    finally:
        trainer.model.train()
    torch.testing.assert_close(loss, expected(rule, batch(), training=False, **options)[0], **TIGHT)


def test_kl_without_bias_correction(trainer, monkeypatch):
    monkeypatch.setattr(trainer.args, "use_bias_correction_kl", False)
    rule, options = tiny.rule(decay=0.9), {"loss_type": "dapo", "beta": 0.04}
    _, gradient = compute(trainer, monkeypatch, rule, batch(), **options)
    want = expected(rule, batch(), bias_correction=False, **options)[1]
    torch.testing.assert_close(gradient, want, **TIGHT)


def test_weights_of_one_leave_stock_kl(trainer, monkeypatch):
    """Our KL term equals TRL's own, for every loss type."""
    case = batch() | {"weight": torch.ones(MASK.shape, dtype=torch.float64)}
    for loss_type in LOSS_TYPES:
        options = {"loss_type": loss_type, "beta": 0.04}
        ours = compute(trainer, monkeypatch, tiny.rule(), case, **options)
        stock_rule = tiny.rule(process_set_weighting=False)
        stock = compute(trainer, monkeypatch, stock_rule, case, **options)
        torch.testing.assert_close(ours, stock, **TIGHT)


@pytest.mark.parametrize("style", ["recent", "both"])
@pytest.mark.parametrize("normalize", [True, False])
def test_ratio_and_advantage_agree_on_policy(trainer, monkeypatch, style, normalize):
    """GRPO-λ, Theorem 1, token by token; with weights, `ratio` gives Wᵀ(w·δ)."""
    delta, weight = batch()["advantage"], batch()["weight"]
    options = {"decay": 0.9, "normalize": normalize}

    def gradient(mode, advantage):
        rule = tiny.rule(
            trace_style=style,
            trace_mode=mode,
            normalize_trace=normalize,
            decay=0.9,
            process_set_weighting=False,
        )
        case = batch() | {"advantage": advantage}
        return compute(
            trainer, monkeypatch, rule, case, loss_type="dr_grpo", beta=0.0, with_old=False
        )[1]

    def transposed(values):
        return oracles.transposed(values, MASK, 0.9, style, options["normalize"])

    ratio, advantage = gradient("ratio", delta), gradient("advantage", transposed(delta))
    torch.testing.assert_close(ratio, advantage, **TIGHT)
    weighted_ratio = gradient("ratio", weight * delta)
    weighted_advantage = gradient("advantage", weight * transposed(delta))
    torch.testing.assert_close(weighted_ratio, gradient("advantage", transposed(weight * delta)))
    assert not torch.allclose(weighted_ratio, weighted_advantage)


def test_a_large_trace_is_clamped_and_logged(trainer, monkeypatch):
    rule = tiny.rule(trace_mode="ratio", normalize_trace=False, process_set_weighting=False)
    case = batch()
    case["old"] = case["logps"] - 30.0
    trainer._metrics["train"].clear()
    loss, gradient = compute(trainer, monkeypatch, rule, case, loss_type="dr_grpo", beta=0.0)
    assert torch.isfinite(loss)
    assert not gradient.any()
    logged = trainer._metrics["train"]
    assert logged["trace/z_clamped"] == [1.0]
    assert logged["trace/ratio_clipped"] == [1.0]
    assert logged["trace/z_abs_max"][0] > 100


@pytest.mark.parametrize("shape", [(4, 1), (4, 6)])
def test_sampling_correction_multiplies_the_policy_term_once(trainer, monkeypatch, shape):
    """vLLM's ratio (per token or per sequence) weighs the policy term and leaves the KL alone."""
    monkeypatch.setattr(trainer, "use_vllm", True)
    monkeypatch.setattr(trainer, "vllm_importance_sampling_correction", True)
    ratio = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    for mode in ("advantage", "ratio", "weight"):
        rule, options = tiny.rule(trace_mode=mode), {"loss_type": "dr_grpo", "beta": 0.04}
        corrected = compute(
            trainer, monkeypatch, rule, batch(), importance_sampling_ratio=ratio, **options
        )
        # It is positive, so it can stand in the advantage as well.
        case = batch()
        case["advantage"] = case["advantage"] * ratio
        want = expected(rule, case, **options)
        torch.testing.assert_close(corrected[1], want[1], **TIGHT)


def test_policy_loss_contains_the_kl_term(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "_entropy_bonus_enabled", True)
    case = batch() | {"weight": torch.ones(MASK.shape, dtype=torch.float64)}
    for loss_type in LOSS_TYPES:
        logged = []
        for weighting in (True, False):
            trainer._metrics["train"].clear()
            rule = tiny.rule(process_set_weighting=weighting)
            compute(trainer, monkeypatch, rule, case, loss_type=loss_type, beta=0.04)
            metrics = trainer._metrics["train"]
            logged.append((metrics["policy_loss"][0], metrics["kl"][0]))
        assert logged[0] == pytest.approx(logged[1], rel=1e-6), loss_type


def test_the_logged_policy_loss_is_the_mean_over_processes(trainer, monkeypatch):
    """Of its KL term, too: here a second process has three times the loss of the first."""
    monkeypatch.setattr(trainer, "_entropy_bonus_enabled", True)
    case = batch() | {"weight": torch.ones(MASK.shape, dtype=torch.float64)}
    rule, options = tiny.rule(), {"loss_type": "dapo", "beta": 40.0}
    metrics, logged = trainer._metrics["train"], []
    for gather in (trainer.accelerator.gather, lambda own: torch.stack([own, 3 * own])):
        monkeypatch.setattr(trainer.accelerator, "gather", gather)
        metrics.clear()
        compute(trainer, monkeypatch, rule, case, **options)
        logged.append(metrics["policy_loss"][0])
    alone, mean = logged
    assert mean == pytest.approx(2 * alone)


@pytest.mark.parametrize("mode", ["advantage", "ratio"])
def test_the_logged_kl_is_unweighted(trainer, monkeypatch, mode):
    """Its weights are the loss's business: `kl` is comparable over methods, and stock's."""
    case = batch()
    logged = []
    for rule in (
        tiny.rule(trace_mode=mode, process_set_weighting=True),
        tiny.rule(process_set_weighting=False),
    ):
        trainer._metrics["train"].clear()
        compute(trainer, monkeypatch, rule, case, loss_type="dapo", beta=0.04)
        logged.append(trainer._metrics["train"]["kl"])
    d = case["reference"] - case["logps"]
    ratio = (case["logps"] - case["old"]).exp()
    want = (((d.exp() - d - 1) * ratio * MASK).sum() / MASK.sum()).item()
    assert logged == [[pytest.approx(want, rel=1e-6)]] * 2


def test_a_failing_loss_leaves_nothing_behind(trainer, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    rule = tiny.rule(trace_mode="ratio")
    compute(trainer, monkeypatch, rule, batch(), loss_type="dapo", beta=0.04)
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        compute(trainer, monkeypatch, rule, batch(), loss_type="dapo", beta=0.04)
    assert trainer.beta == 0.04
    assert trainer._loss_plan is None
