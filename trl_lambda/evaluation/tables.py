"""Tables for the terminal; no number without the settings it was made with."""

from collections.abc import Mapping, Sequence
from typing import Any

from trl_lambda.evaluation.comparison import Comparison

FEW_NOTE = "* may be too short: fewer than 5 problems are not all wrong, or not all right"
SETTINGS = ("temperature", "top_p", "max_tokens", "template", "seed", "n")

Printable = Any  # of rich, which is optional


def settings_line(settings: Mapping[str, Any]) -> str:
    """The settings that every number stands beside."""
    return " ".join(f"{name}={settings[name]}" for name in SETTINGS)


def summary_table(summary: Mapping[str, Any]) -> Printable:
    """A table of one benchmark's `summary.json`."""
    table = _table("metric", "value", "95 % interval")
    for name, metric in summary["metrics"].items():
        table.add_row(name, _percent(metric["value"]), _marked_range(metric))
    table.add_section()
    for name in ("truncated", "format"):
        table.add_row(name, _percent(summary[name]), "")
    table.add_row("tokens, mean", f"{summary['tokens']['mean']:.1f}", "")
    table.add_row("tokens, maximum", str(summary["tokens"]["max"]), "")
    for reason, count in summary["reasons"].items():
        table.add_row(f"graded {reason}", str(count), "")
    settings = summary["settings"]
    heading = f"{settings['benchmark']}, N={summary['num_problems']}\n{settings_line(settings)}"
    few = any(metric.get("uncertain") for metric in summary["metrics"].values())
    return _framed(heading, table, FEW_NOTE if few else "")


def comparison_table(comparison: Comparison) -> Printable:
    """A table of the paired differences on one benchmark."""
    table = _table("metric", "A", "B", "B − A", "95 % interval", "excludes 0")
    for row in comparison.differences:
        table.add_row(
            row.metric,
            _percent(row.a),
            _percent(row.b),
            _percent(row.value),
            _range(row.interval),
            "yes" if row.excludes_zero else "no",
        )
    a, b = comparison.settings_a, comparison.settings_b
    heading = f"{comparison.name}, N={a['num_problems']}, B − A by problem\n"
    heading += f"A: {settings_line(a)}\nB: {settings_line(b)}"
    changed = [f"{name}: {a!r} in A, {b!r} in B" for name, a, b in comparison.changed]
    return _framed(heading, table, "\n".join(changed) or "all settings are equal")


def print_tables(tables: Sequence[Printable]) -> None:
    """Prints to the terminal."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    for table in tables:
        console.print(table)


def _table(*columns: str) -> Printable:
    try:
        from rich.table import Table
    except ImportError as error:
        raise ImportError(
            "the tables need rich, which is not installed: pip install 'trl-lambda[eval]'. The "
            "results are in summary.json."
        ) from error
    table = Table()
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table


def _framed(heading: str, table: Printable, note: str) -> Printable:
    # Not the table's own title, which is broken to the width of the table.
    from rich.console import Group
    from rich.text import Text

    return Group(Text(heading), table, Text(note))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.1f} … {100 * ends[1]:.1f}"


def _marked_range(metric: Mapping[str, Any]) -> str:
    if "interval" not in metric:
        return "one problem"
    return _range(metric["interval"]) + (" *" if metric["uncertain"] else "")
