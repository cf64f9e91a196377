"""Probes packed behind a completion, under SDPA's masks on CUDA, against each prefix alone."""

import asked
import pytest
from asked import assert_close, build, found, naive, packs, score, sharp

pytestmark = pytest.mark.gpu

# float32 on the device against float64 on the CPU, and against float32 in another order.
CLOSE = {"rtol": 1e-3, "atol": 1e-6}
TWICE = {"num_iterations": 2}  # TRL makes a pass for old log-probabilities


def probing(tmp_path, device, settings=None):
    own = {"use_cpu": device.type == "cpu"}
    model = sharp()
    model.set_attn_implementation("sdpa")
    return build(tmp_path, model=model, settings=own | (settings or {}))


def test_packed_they_are_those_of_one_prefix_at_a_time(tmp_path, device):
    trainer = probing(tmp_path, device)
    output = score(trainer)
    assert output["advantages"].device.type == device.type
    packed = found(output)
    assert packs(trainer)
    trainer._continuations._packs = False
    alone = found(score(trainer))
    wanted = naive(trainer)
    assert_close(alone, wanted, **CLOSE)
    assert_close(packed, alone, **CLOSE)
    spread = [value for own in wanted for value in own]
    assert max(spread) > 2 * min(spread)  # numbers worth comparing


def test_credit_of_a_training_is_the_same_in_both_ways(tmp_path, device):
    """As the method has it: calibrated, with its λ, divided by the batch's deviation."""
    settings = {"probe_calibration": True, "trace_lambda": 0.8, "scale_rewards": "batch"}
    trainer = probing(tmp_path / "packed", device, settings)
    packed = score(trainer)["advantages"]
    assert packs(trainer)
    trainer = probing(tmp_path / "alone", device, settings)
    trainer._continuations._packs = False
    alone = score(trainer)["advantages"]
    assert_close(packed.tolist(), alone.tolist(), rtol=1e-3, atol=1e-4)
    assert packed.std() > 0.1


def test_they_go_along_with_trls_pass(tmp_path, device):
    trainer = probing(tmp_path, device, TWICE)
    values = found(score(trainer))
    assert trainer._continuations.shares
    assert_close(values, naive(trainer), **CLOSE)


def test_under_bfloat16_they_are_within_its_precision(tmp_path, device):
    trainer = probing(tmp_path, device, {"bf16": True})
    values = found(score(trainer))
    assert packs(trainer)
    assert_close(values, naive(trainer), rtol=0.3, atol=1e-4)
    assert len(values) == len(asked.TEXTS)
