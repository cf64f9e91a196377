"""How fast the credit is: ratios measured in one run, on this machine.

    python recipes/benchmark_speed.py                 # everything, about two minutes on two cores
    python recipes/benchmark_speed.py --parts traces process_sets

Four parts: traces against the dense T×T product, process sets against a Python prefix tree, a
training step with everything on against stock GRPO, with stock against stock beside it as control,
and time and memory of the credit against the sizes of a batch, with a large run on paper.
Absolute times depend on the machine; quote the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import credit_scaling
import scripted
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from trl import GRPOConfig, GRPOTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer
from trl_lambda.functional import eligibility_trace, lambda_return, process_set_sizes


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    """Median over `repeats` calls, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def dense_trace_matrix(T: int, decay: float, style: str) -> torch.Tensor:
    t = torch.arange(T, dtype=torch.float32)
    lag = t[:, None] - t
    weight = decay ** lag.clamp(min=0)
    if style == "both":
        weight = torch.maximum(weight, decay**t)
    return weight.where(lag >= 0, 0.0)


def traces(repeats: int) -> list[dict]:
    """Against x @ W.T, with W built as for each new T, and with W (268 MB) at hand."""
    B, T, decay = 16, 8192, 0.99
    x, mask = torch.randn(B, T), torch.ones(B, T)
    rows = []
    for style in ("recent", "both"):
        W = dense_trace_matrix(T, decay, style)
        product = milliseconds(lambda W=W: x @ W.T, 5)
        build = milliseconds(lambda style=style: dense_trace_matrix(T, decay, style), 3)
        for function in (eligibility_trace, lambda_return):
            ours = milliseconds(
                lambda f=function, style=style: f(x, mask, decay=decay, style=style), repeats
            )
            for baseline, dense in (("build W, multiply", build + product), ("multiply", product)):
                name = f"{function.__name__}, {style}; dense: {baseline}"
                rows.append({"what": name, "ours_ms": ours, "baseline_ms": dense})
    return rows


def prefix_tree_sizes(groups: list[list[list[int]]]) -> list[list[int]]:
    """Process-set sizes by a prefix tree in Python: nodes are numbers, one dict holds the edges."""
    sizes = []
    for completions in groups:
        edges: dict[tuple[int, int], int] = {}
        counts: list[int] = []
        paths = []
        for tokens in completions:
            node, path = -1, []
            for token in tokens:
                edge = (node, token)
                node = edges.get(edge, -1)
                if node < 0:
                    node = edges[edge] = len(counts)
                    counts.append(0)
                counts[node] += 1
                path.append(node)
            paths.append(path)
        sizes += [[counts[node] for node in path] for path in paths]
    return sizes


def ragged_completions(groups: int, size: int, longest: int) -> list[list[list[int]]]:
    """Completions of uneven length that leave each other after up to 64 shared tokens."""
    generator = torch.Generator().manual_seed(0)

    def draw(high: int, count: int) -> list[int]:
        return torch.randint(0, high, (count,), generator=generator).tolist()

    result = []
    for _ in range(groups):
        stem = draw(50_000, 64)
        lengths = [longest - n for n in draw(longest // 2, size)]
        shared = draw(64, size)
        result.append(
            [stem[:own] + draw(50_000, n - own) for n, own in zip(lengths, shared, strict=True)]
        )
    return result


def process_sets(repeats: int) -> list[dict]:
    rows = []
    identical = [[[7] * 16384] * 8] * 8
    for name, groups in (
        ("8 groups × 8 completions, up to 4096 tokens", ragged_completions(8, 8, 4096)),
        ("worst case, 8 groups × 8 identical, 16384 tokens", identical),
    ):
        flat = [tokens for group in groups for tokens in group]
        lengths = torch.tensor([len(tokens) for tokens in flat])
        ids = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, flat)), batch_first=True)
        group_ids = torch.arange(len(flat)) // 8
        tree = milliseconds(lambda groups=groups: prefix_tree_sizes(groups), 5)
        arguments = (ids, lengths, group_ids)
        ours = milliseconds(lambda arguments=arguments: process_set_sizes(*arguments), repeats)
        found = process_set_sizes(*arguments)
        assert [row[row > 0].tolist() for row in found] == prefix_tree_sizes(groups)
        rows.append(
            {"what": f"{name}, against a prefix tree", "ours_ms": ours, "baseline_ms": tree}
        )
    return rows


def training_step(rounds: int) -> list[dict]:
    """Steps of three trainers in turn: stock, stock again (the control), ours with all on."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            "stock": _trainer(GRPOTrainer, GRPOConfig, folder),
            "control": _trainer(GRPOTrainer, GRPOConfig, folder),
            "ours": _trainer(LambdaGRPOTrainer, LambdaGRPOConfig, folder),
        }
        own_calls = _time_own_calls(trainers["ours"])
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        own_share = []
        for turn in track(range(-1, rounds), description="training steps"):
            # The order rotates, so that no trainer always runs on the warmest cache.
            for name in _rotated(list(trainers), turn):
                own_calls.clear()
                elapsed = _step_seconds(trainers[name])
                if turn < 0:
                    continue  # warms up
                seconds[name].append(elapsed)
                if name == "ours":
                    own_share.append(100 * sum(own_calls) / elapsed)
    share = statistics.median(own_share)
    return [
        {"what": "share of a step inside our own calls", "percent": share},
        _compared(f"step, ours / stock, {rounds} pairs", seconds["ours"], seconds["stock"]),
        _compared(f"step, stock / stock, {rounds} pairs", seconds["control"], seconds["stock"]),
    ]


def _rotated(names: list[str], turn: int) -> list[str]:
    first = turn % len(names)
    return names[first:] + names[:first]


def _compared(what: str, seconds: list[float], baseline: list[float]) -> dict:
    """Percent by which the pairs differ: median and quartiles."""
    percent = [100 * (a / b - 1) for a, b in zip(seconds, baseline, strict=True)]
    quartiles = statistics.quantiles(percent, n=4)
    middle_half = [quartiles[0], quartiles[2]]
    return {"what": what, "percent": statistics.median(percent), "quartiles": middle_half}


def _step_seconds(trainer: GRPOTrainer) -> float:
    """Score a batch, one forward and backward pass, one optimiser step; no sampling."""
    batch = [{"prompt": "3"}] * trainer.args.generation_batch_size
    start = time.perf_counter()
    inputs = trainer._prepare_inputs(batch)
    trainer.compute_loss(trainer.model, inputs).backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    trainer._step += 1
    return time.perf_counter() - start


def _time_own_calls(trainer: LambdaGRPOTrainer) -> list[float]:
    """Wraps what the subclass adds to a step; the list receives the seconds of each call."""
    spent: list[float] = []

    def timed(function):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - start)

        return wrapper

    plan_of = trainer.loss_plan

    def loss_plan(inputs, mask):
        plan = timed(plan_of)(inputs, mask)
        plan.trace = timed(plan.trace)
        return plan

    trainer.credit = timed(trainer.credit)
    trainer.loss_plan = loss_plan
    trainer._kl_term = timed(trainer._kl_term)
    return spent


def _trainer(trainer_class, config_class, folder: str):
    """Three million parameters: the model, not the credit, is what takes the time."""
    extra = {}
    if config_class is LambdaGRPOConfig:
        extra = {"trace_mode": "ratio", "trace_style": "both"}
    config = config_class(
        output_dir=folder,
        per_device_train_batch_size=16,
        num_generations=8,
        max_completion_length=256,
        max_steps=1,
        beta=0.04,
        loss_type="dapo",
        **scripted.QUIET,
        **extra,
    )
    trainer = scripted.trainer(
        trainer_class,
        config,
        scripted.branching_completions(groups=2, size=8, length=256),
        hidden_size=256,
        num_hidden_layers=4,
        model_folder=Path(folder) / "model",
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def scale(repeats: int) -> list[dict]:
    """Sweeps over the axes of a batch; the last row is the large run on paper."""
    rows = []
    for axis, sweep in credit_scaling.scaling(min(repeats, 5)).items():
        exponents = {
            f"{value}_exponent": credit_scaling.exponent(sweep, value) for value in ("ms", "mb")
        }
        rows += [{"axis": axis, **row} for row in sweep]
        rows[-1] |= exponents
    slowest = max(row["ns_per_token"] for row in rows)
    return [*rows, {"axis": "256 GPUs, on paper", **credit_scaling.large_run(slowest)}]


PARTS = {"traces": traces, "process_sets": process_sets, "step": training_step, "scale": scale}


def show_scale(console: Console, rows: list[dict]) -> None:
    columns = ("axis", "groups", "size", "length", "ms", "ns_per_token", "bytes_per_token")
    table = Table(*columns, "exponent of ms, of MB", title="scale", title_justify="left")
    *sweeps, paper = rows
    for row in sweeps:
        cells = [
            f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name])
            for name in columns
        ]
        slopes = [f"{row[name]:.2f}" for name in ("ms_exponent", "mb_exponent") if name in row]
        table.add_row(*cells, ", ".join(slopes))
    console.print(table)
    for name, value in paper.items():
        console.print(name, value if isinstance(value, str) else f"{value:.4g}", sep=": ")


def show(console: Console, name: str, rows: list[dict]) -> None:
    if name == "scale":
        return show_scale(console, rows)
    table = Table(title=name, title_justify="left")
    if "percent" in rows[0]:
        for column in ("what", "%", "middle half"):
            table.add_column(column)
        for row in rows:
            low_high = " … ".join(f"{q:+.2f}" for q in row.get("quartiles", ()))
            table.add_row(row["what"], f"{row['percent']:+.2f}", low_high)
    else:
        for column in ("what", "ours, ms", "baseline, ms", "times faster"):
            table.add_column(column)
        for row in rows:
            ratio = row["baseline_ms"] / row["ours_ms"]
            cells = f"{row['ours_ms']:.2f}", f"{row['baseline_ms']:.1f}", f"{ratio:.0f}"
            table.add_row(row["what"], *cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of a kernel (20)")
    parser.add_argument("--rounds", type=int, default=20, help="pairs of training steps (20)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1: less noise)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results = {}
    for name in options.parts:
        results[name] = PARTS[name](options.rounds if name == "step" else options.repeats)
        show(Console(), name, results[name])
    if options.json:
        options.json.write_text(json.dumps(results | {"torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
