"""The numbers of benchmarks/speed: intervals, bytes, the alternatives, the cost at scale."""

import json
import random
import time
from types import SimpleNamespace

import pytest
import torch
from benchmarks.speed import __main__ as program
from benchmarks.speed import kernels, measuring, rollout, scaling, step
from benchmarks.speed.measuring import AllocatedBytes, median, megabytes
from benchmarks.speed.shapes import CPU_LIMIT, SHAPES, Shape, cpu_refusal
from transformers import Qwen2Config


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


class Device:
    """In the place of functions of torch.cuda: a stream that is `late` seconds behind the host."""

    NAMES = (
        "Event",
        "synchronize",
        "reset_peak_memory_stats",
        "memory_allocated",
        "max_memory_allocated",
    )

    def __init__(self, late: float = 0.0):
        self.late, self.waits, self.held, self.peak = late, 0, 100, 0
        device = self

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing
                self.at = self.reached = None

            def record(self):
                self.at = time.perf_counter() + device.late

            def synchronize(self):
                assert self.at is not None
                self.reached = True

            def elapsed_time(self, end):
                if not end.reached:
                    raise RuntimeError("device not ready")
                return 1e3 * (end.at - self.at)

        self.Event = Event

    def synchronize(self):
        self.waits += 1

    def reset_peak_memory_stats(self):
        self.peak = self.held

    def memory_allocated(self):
        return self.held

    def max_memory_allocated(self):
        return self.peak


@pytest.fixture
def cuda(monkeypatch):
    """The benchmark's steps run on the CPU, and it measures as on a CUDA device."""
    device = Device()
    for name in Device.NAMES:
        monkeypatch.setattr(torch.cuda, name, getattr(device, name))
    for module in (measuring, step):
        monkeypatch.setattr(module, "on_cuda", lambda: True)
    return device


def test_on_a_cuda_device_the_events_tell_the_time(cuda):
    clock = measuring.step_clock()
    assert isinstance(clock, measuring.CudaClock)
    took = measuring.seconds_by(clock, lambda: setattr(cuda, "late", 5.0))
    assert took == pytest.approx(5.0, abs=0.5)  # the host was done at once
    assert cuda.waits == 1  # for what came before, not inside
    assert measuring.busy_seconds(lambda: setattr(cuda, "late", 9.0)) == pytest.approx(4.0, abs=0.5)


def test_a_mark_on_the_device_waits_for_nothing(cuda):
    clock = measuring.CudaClock()
    start, end = clock.mark(), clock.mark()
    with pytest.raises(RuntimeError, match="not ready"):
        start.elapsed_time(end)
    assert clock.between(start, end) < 1
    assert cuda.waits == 0


def test_on_the_cpu_a_clock_of_the_process_does(monkeypatch):
    monkeypatch.setattr(measuring, "on_cuda", lambda: False)
    ticks = iter([2.0, 5.5])
    assert measuring.seconds_by(measuring.Clock(lambda: next(ticks)), lambda: None) == 3.5
    assert measuring.step_clock().mark is time.perf_counter
    assert measuring.busy_seconds(lambda: time.sleep(0.3)) < 0.2


def test_the_peak_of_a_call_is_above_what_was_there(cuda):
    def call():
        cuda.held += 7
        cuda.peak = max(cuda.peak, cuda.held + 40)

    assert measuring.cuda_peak(call) == 47
    assert measuring.cuda_peak(lambda: None) == 0


TINY = Shape(
    hidden_size=64,
    layers=1,
    groups=2,
    length=28,
    heads=4,
    kv_heads=2,
    dtype=torch.bfloat16,
    tied=True,
    micro_batch=4,
    checkpointing=True,
)


def test_steps_on_a_device_tell_its_time_and_all_that_they_hold(cuda, monkeypatch):
    """The real steps of the named shape, at tiny sizes."""
    made, peaks = {}, {"stock": 1000, "control": 1000, "ours": 1010}
    make, run = step.make_trainer, step.whole_step

    def noted(*args, **kwargs):
        trainer = make(*args, **kwargs)
        made[list(peaks)[len(made)]] = trainer
        return trainer

    def peaking(trainer):
        run(trainer)
        (name,) = [name for name, one in made.items() if one is trainer]
        cuda.peak = cuda.held + peaks[name]

    monkeypatch.setattr(step, "make_trainer", noted)
    monkeypatch.setattr(step, "whole_step", peaking)
    share, ours, control, memory, same = step.training_step(2, TINY)
    weights = 2 * TINY.weights()
    held = step.held_bytes(made["ours"])
    # The policy, its reference, Adam's two moments; a step counter for each parameter.
    assert 4 * weights <= held < 4 * weights + 4096
    assert memory["stock_mb"] == pytest.approx((held + 1000) / 1e6)
    assert memory["ours_mb"] == pytest.approx((held + 1010) / 1e6)
    assert memory["percent"] == pytest.approx(100 * 10 / (held + 1000))
    assert "with weights and optimiser" in memory["what"]
    assert same["percent"] == 0
    assert 0 < share["percent"] < 100
    assert ours["stock_ms"] > 0
    assert control["interval"][0] <= control["percent"] <= control["interval"][1]
    for trainer in made.values():
        assert trainer.args.gradient_accumulation_steps == 4
        assert trainer.model.is_gradient_checkpointing
        assert trainer.model.dtype == trainer.ref_model.dtype == torch.bfloat16
        assert trainer.optimizer.state


def test_a_named_shape_is_that_of_the_model():
    """Qwen2.5-1.5B has 1 543 714 304 weights, of them 1.31 billion outside the embedding."""
    shape = SHAPES["qwen2.5-1.5b"]
    assert shape.weights() == 1_543_714_304
    assert shape.weights() - 151_936 * 1536 == 1_310_340_608
    assert (shape.groups, shape.length, shape.tokens()) == (8, 2048, 8 * 8 * 2048)
    assert shape.dtype == torch.bfloat16


def test_the_named_shape_fits_a_card_of_80_gigabytes():
    """What can be counted: weights, reference and moments of three trainers, gradients of one, and
    four copies of a micro-batch's logits."""
    shape = SHAPES["qwen2.5-1.5b"]
    weights = 2 * shape.weights()
    logits = 2 * shape.micro_batch * shape.length * shape.vocabulary
    assert 3 * 4 * weights + weights + 4 * logits < 55e9
    assert shape.checkpointing


def test_a_cpu_is_not_asked_for_hours_of_work():
    assert cpu_refusal(SHAPES["small"]) is None
    refusal = cpu_refusal(SHAPES["qwen2.5-1.5b"])
    for said in ("1.54 billion", "131072 tokens", "CUDA", "--hidden_size", "--allow_cpu"):
        assert said in refusal
    smaller = SHAPES["qwen2.5-1.5b"].changed(hidden_size=96, layers=2, groups=1, length=64)
    assert smaller.heads == 12
    assert smaller.operations() < CPU_LIMIT
    assert cpu_refusal(smaller) is None


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"hidden_size": 100}, "hidden_size 100 with 12 heads: expected a multiple of 24"),
        ({"vocabulary": 10}, "vocabulary 10: expected 1000"),
        ({"length": 27}, "length 27: expected 28 tokens"),
        ({"micro_batch": 5}, "micro_batch 5: expected a divisor of 64"),
    ],
)
def test_sizes_that_cannot_be_are_named(sizes, said):
    with pytest.raises(ValueError, match=said):
        SHAPES["qwen2.5-1.5b"].changed(**sizes).check()


def test_the_small_model_is_the_one_that_was_measured():
    """The committed numbers are those of these sizes."""
    config = Shape().model_config()
    want = Qwen2Config(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8192,
    )
    assert config.to_dict() == want.to_dict()


def test_a_run_of_one_part_leaves_the_others_in_the_file(tmp_path):
    path = tmp_path / "speed.json"
    path.write_text(json.dumps({"traces": [1], "step": [2], "versions": {"torch": "old"}}))
    shape = SHAPES["qwen2.5-1.5b"]
    name = program.result_name("step", "qwen2.5-1.5b", shape)
    found = program.beside_others(path, {name: [3], "scale": [4]}, shape)
    assert found["traces"] == [1]
    assert found["step"] == [2]
    assert found["versions"] == {"torch": "old"}
    assert found["step qwen2.5-1.5b"] == [3]
    measured_with = found["step qwen2.5-1.5b_versions"]
    assert measured_with["device"] == "cpu"
    assert measured_with["shape"]["hidden_size"] == 1536
    assert "shape" not in found["scale_versions"]
    assert json.loads(json.dumps(found)) == found
    path.write_text("[]")
    with pytest.raises(ValueError, match="expected an object"):
        program.beside_others(path, {}, shape)


def test_changed_sizes_do_not_pass_for_the_named_shape():
    shape = SHAPES["qwen2.5-1.5b"]
    assert program.result_name("step", "qwen2.5-1.5b", shape.changed(layers=2)) != (
        program.result_name("step", "qwen2.5-1.5b", shape)
    )
    assert program.result_name("step", "small", Shape()) == "step"


def test_the_shape_is_for_the_step_alone():
    options = {"shape": "qwen2.5-1.5b", "allow_cpu": True, **dict.fromkeys(program.SIZES)}
    chosen = program.chosen_shape(SimpleNamespace(parts=["step"], **options))
    assert chosen == SHAPES["qwen2.5-1.5b"]
    with pytest.raises(ValueError, match="for --parts step alone"):
        program.chosen_shape(SimpleNamespace(parts=["step", "probe"], **options))
    sizes = {**options, "allow_cpu": False, "layers": 1, "groups": 1, "length": 28}
    small = program.chosen_shape(SimpleNamespace(parts=["step"], **(sizes | {"heads": 6})))
    assert (small.layers, small.heads, small.hidden_size) == (1, 6, 1536)
    with pytest.raises(ValueError, match="--allow_cpu"):
        program.chosen_shape(SimpleNamespace(parts=["step"], **(sizes | {"length": 9000})))


def test_the_command_refuses_on_a_cpu_and_says_what_to_do(monkeypatch, capsys):
    command = ["speed", "--parts", "step", "--shape", "qwen2.5-1.5b"]
    monkeypatch.setattr(program.sys, "argv", command)
    monkeypatch.setattr(program, "on_cuda", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        program.parse_arguments()
    said = capsys.readouterr().err
    assert "--shape qwen2.5-1.5b: a step of 1.54 billion weights" in said
    assert "--allow_cpu" in said
    monkeypatch.setattr(program, "on_cuda", lambda: True)
    _, shape = program.parse_arguments()
    assert shape == SHAPES["qwen2.5-1.5b"]


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
