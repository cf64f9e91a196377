"""The cost of credit grows with the number of tokens, and with nothing else."""

import credit_scaling
import pytest
import torch


@pytest.mark.parametrize("axis", credit_scaling.SWEEPS)
def test_memory_is_linear_in_tokens(axis):
    """Bytes are counted, not timed: this holds to the percent. The largest sizes are left out."""
    rows = [credit_scaling.measured(shape, repeats=1) for shape in credit_scaling.SWEEPS[axis][:4]]
    assert credit_scaling.exponent(rows, "mb") == pytest.approx(1.0, abs=0.02)
    assert rows[-1]["bytes_per_token"] < 60


def test_the_count_sees_what_is_alive_at_once():
    with credit_scaling.AllocatedBytes() as memory:
        first = torch.ones(1000)
        view = first[10:]  # no new bytes
        view += 1
        second = first * 2
        del first, view
        third = torch.zeros(500)
    assert memory.peak == 8000
    assert memory.now == 6000
    assert second.numel() + third.numel() == 1500


def test_an_exponent_is_a_slope():
    rows = [{"tokens": n, "ms": 3.0 * n**1.5} for n in (10, 100, 1000)]
    assert credit_scaling.exponent(rows, "ms") == pytest.approx(1.5)


def test_the_large_run_is_what_its_sizes_say():
    run = credit_scaling.large_run(ns_per_token=100.0)
    assert run["completions_per_gpu"] * 256 == 512 * 16
    assert run["gathered_mb_if_groups_straddle"] == pytest.approx(8192 * 4609 * 8 / 1e6)
    assert run["credit_ms_whole_groups"] == pytest.approx(32 * 4096 * 100e-6)
