"""The numbers of the benchmark on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def show(console: Console, name: str, rows: list[dict]) -> None:
    """The table of a part; behind its name may stand that of a shape."""
    shown = {
        "step": show_step,
        "probe": show_probes,
        "scale": show_scale,
        "rollout": show_rollouts,
    }
    shown.get(name.split()[0], show_kernels)(console, name, rows)


def show_kernels(console: Console, name: str, rows: list[dict]) -> None:
    columns = ("what", "T", "ours, ms", "MB", "baseline", "ms", "MB", "times faster")
    table = Table(*columns, title=name, title_justify="left")
    for row in rows:
        times = row.get("baseline_ms")
        table.add_row(
            row["what"],
            str(row["T"]),
            f"{row['ours_ms']:.2f}",
            f"{row['ours_mb']:.1f}",
            row["baseline"],
            f"{times:.1f}" if times else "",
            f"{row['baseline_mb']:.0f}" if "baseline_mb" in row else "",
            f"{times / row['ours_ms']:.3g}" if times else "",
        )
    console.print(table)


def show_step(console: Console, name: str, rows: list[dict]) -> None:
    table = Table("what", "%", "95 % interval of the median", title=name, title_justify="left")
    for row in rows:
        low, high = row["interval"]
        interval = "" if low == high else f"{low:+.2f} … {high:+.2f}"
        table.add_row(row["what"], f"{row['percent']:+.2f}", interval)
    console.print(table)


def show_probes(console: Console, name: str, rows: list[dict]) -> None:
    columns = ("tokens", "TRL's pass", "probes", "time / stock", "95 % interval", "memory / stock")
    table = Table(*columns, title=name, title_justify="left")
    for row in rows:
        low, high = row["interval"]
        table.add_row(
            str(row["length"]),
            "yes" if row["old_pass"] else "no",
            row["way"],
            f"{row['time_ratio']:.3f}",
            f"{low:.3f} … {high:.3f}",
            f"{row['memory_ratio']:.3f}",
        )
    console.print(table)


def show_rollouts(console: Console, name: str, rows: list[dict]) -> None:
    columns = ("engine", "completions", "length", "fork at", "tokens", "% of independent")
    table = Table(*columns, "seconds", "% of independent", title=name, title_justify="left")
    for row in rows:
        cells = [str(row[column]) for column in columns[:5]]
        for what in ("tokens", "seconds"):
            share = f"{100 * row[what] / row[f'{what}, independent']:.0f}"
            cells += [share] if what == "tokens" else [f"{row[what]:.2f}", share]
        table.add_row(*cells)
    console.print(table)


def show_scale(console: Console, name: str, rows: list[dict]) -> None:
    columns = ("axis", "groups", "size", "length", "ms", "ns_per_token", "bytes_per_token")
    table = Table(*columns, "exponent of ms, of MB", title=name, title_justify="left")
    *sweeps, paper = rows
    for row in sweeps:
        cells = [
            f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name])
            for name in columns
        ]
        slopes = [f"{row[name]:.2f}" for name in ("ms_exponent", "mb_exponent") if name in row]
        table.add_row(*cells, ", ".join(slopes))
    console.print(table)
    for label, value in paper.items():
        console.print(label, value if isinstance(value, str) else f"{value:.4g}", sep=": ")
