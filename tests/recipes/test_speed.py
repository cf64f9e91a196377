"""The numbers of benchmarks/speed: intervals, bytes, the alternatives, the cost at scale."""

import json
import random

import pytest
import torch
from benchmarks.speed import kernels, rollout, scaling
from benchmarks.speed.measuring import AllocatedBytes, median, megabytes


@pytest.mark.parametrize("axis", scaling.SWEEPS)
def test_memory_is_linear_in_tokens(axis):
    """Bytes are counted, not timed: this holds to the percent. The largest sizes are left out."""
    rows = [scaling.measured(shape, repeats=1) for shape in scaling.SWEEPS[axis][:4]]
    assert scaling.exponent(rows, "mb") == pytest.approx(1.0, abs=0.02)
    assert rows[-1]["bytes_per_token"] < 60


def test_the_count_sees_what_is_alive_at_once():
    with AllocatedBytes() as memory:
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
    assert scaling.exponent(rows, "ms") == pytest.approx(1.5)


def test_the_large_run_is_what_its_sizes_say():
    run = scaling.large_run(ns_per_token=100.0)
    assert run["completions_per_gpu"] * 256 == 512 * 16
    assert run["gathered_mb_if_groups_straddle"] == pytest.approx(8192 * 4609 * 8 / 1e6)
    assert run["credit_ms_whole_groups"] == pytest.approx(32 * 4096 * 100e-6)


def test_the_interval_of_a_median_covers_it():
    rng = random.Random(0)
    covered = 0
    for _ in range(2000):
        value, low, high = median([rng.expovariate(1.0) for _ in range(25)])
        covered += low <= 0.6931 <= high
        assert low <= value <= high
    assert 0.945 <= covered / 2000 <= 0.985
    # By the table of the binomial distribution: with 25 values the 8th and the 18th.
    assert median(range(1, 26)) == (13, 8, 18)
    assert median([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_megabytes_of_a_call():
    assert megabytes(lambda: torch.ones(1000) + torch.ones(1000)) == pytest.approx(0.012)


def test_all_ways_to_count_process_sets_agree_on_ragged_groups():
    ids = torch.tensor([[1, 2, 3], [1, 2, 0], [1, 4, 3], [5, 0, 0], [5, 0, 0], [6, 7, 0]])
    lengths = torch.tensor([3, 2, 3, 1, 1, 2])
    expected = [[3, 2, 1], [3, 2, 0], [3, 1, 1], [2, 0, 0], [2, 0, 0], [1, 1, 0]]
    assert kernels.pairwise_sizes(ids, lengths, 3).tolist() == expected
    groups = [[[1, 2, 3], [1, 2], [1, 4, 3]], [[5], [5], [6, 7]]]
    tree = kernels.prefix_tree_sizes(groups)
    assert tree == [[n for n in row if n] for row in expected]


def test_a_dense_matrix_that_does_not_fit_is_not_built(monkeypatch):
    monkeypatch.setattr(kernels, "LARGEST_MATRIX", 4 * 64 * 64)
    small, large = kernels.traces(1, lengths=(64,)), kernels.traces(1, lengths=(65,))
    assert all("baseline_ms" in row and row["ours_mb"] > 0 for row in small)
    assert [row["baseline"] for row in large] == ["dense W does not fit"] * 4


def test_a_branched_rollout_generates_what_is_not_shared(monkeypatch):
    monkeypatch.setattr(rollout, "LENGTHS", (8,))
    monkeypatch.setattr(rollout.importlib.util, "find_spec", lambda name: None)
    half, late = rollout.rows(groups=2, repeats=1)
    assert half["tokens, independent"] == late["tokens, independent"] == 2 * 8 * 8
    assert half["tokens"] == 2 * (4 * 8 + 4 * 4)
    assert late["tokens"] == 2 * (4 * 8 + 4 * 2)
    assert min(half["seconds"], half["seconds, independent"]) > 0


@pytest.mark.slow
def test_the_command_writes_what_it_shows(run_recipe, tmp_path):
    """With a model so small that our share of time and memory is large."""
    small = ("--hidden_size", "64", "--layers", "1", "--groups", "1", "--length", "64")
    command = ("--parts", "step", "--rounds", "6", "--json", "speed.json", *small)
    process = run_recipe("benchmarks/speed", *command)
    rows = json.loads((tmp_path / "speed.json").read_text())["step"]
    share, ours, control, memory, same = rows
    assert 0 < share["interval"][0] <= share["percent"] <= share["interval"][1] < 100
    for pairs in (ours, control):
        assert pairs["interval"][0] <= pairs["percent"] <= pairs["interval"][1]
    assert memory["percent"] > 0 == same["percent"]
    assert all(row["what"][:20] in process.stdout for row in rows)


@pytest.mark.slow
def test_steps_with_a_probe_are_compared_in_each_way(run_recipe, tmp_path):
    small = ("--hidden_size", "64", "--layers", "1", "--groups", "1", "--probe_lengths", "64")
    command = ("--parts", "probe", "--rounds", "6", "--json", "speed.json", *small)
    process = run_recipe("benchmarks/speed", *command)
    rows = json.loads((tmp_path / "speed.json").read_text())["probe"]
    assert len({(row["old_pass"], row["way"]) for row in rows}) == len(rows) == 7
    for row in rows:
        low, high = row["interval"]
        assert 0 < low <= row["time_ratio"] <= high
        assert row["memory_ratio"] >= 1
    assert "one by one" in process.stdout
