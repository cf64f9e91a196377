"""Tables for the terminal; no number without the settings it was made with."""

from collections.abc import Mapping, Sequence
from typing import Any

from trl_lambda.evaluation.comparison import Comparison

SETTINGS = ("temperature", "top_p", "max_tokens", "template", "seed", "n")

Table = Any  # rich.table.Table; rich is optional


def settings_line(settings: Mapping[str, Any]) -> str:
    """The settings that every number stands beside."""
    return " ".join(f"{name}={settings[name]}" for name in SETTINGS)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """A table of one benchmark's `summary.json`."""
    settings = summary["settings"]
    table = _table(f"{settings['benchmark']}, N={summary['num_problems']}\n")
    table.title += settings_line(settings)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, metric in summary["metrics"].items():
        table.add_row(name, _percent(metric["value"]), _marked_range(metric))
    table.add_section()
    for name in ("truncated", "format"):
        table.add_row(name, _percent(summary[name]), "")
    table.add_row("tokens, mean", f"{summary['tokens']['mean']:.1f}", "")
    table.add_row("tokens, maximum", str(summary["tokens"]["max"]), "")
    for reason, count in summary["reasons"].items():
        table.add_row(f"graded {reason}", str(count), "")
    if any(metric.get("uncertain") for metric in summary["metrics"].values()):
        table.caption = "* may be too short: fewer than 5 problems differ from all right or wrong"
    return table


def comparison_table(comparison: Comparison) -> Table:
    """A table of the paired differences on one benchmark."""
    a, b = comparison.settings_a, comparison.settings_b
    table = _table(f"{comparison.name}, N={a['num_problems']}, B − A by problem\n")
    table.title += f"A: {settings_line(a)}\nB: {settings_line(b)}"
    table.add_column("metric")
    for name in ("A", "B", "B − A", "95 % interval"):
        table.add_column(name, justify="right")
    table.add_column("excludes 0")
    for row in comparison.differences:
        table.add_row(
            row.metric,
            _percent(row.a),
            _percent(row.b),
            _percent(row.value),
            _range(row.interval),
            "yes" if row.excludes_zero else "no",
        )
    table.caption = "\n".join(comparison.changed) or "all settings are the same"
    return table


def print_tables(tables: Sequence[Table]) -> None:
    """Prints to the terminal."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    for table in tables:
        console.print(table)


def _table(title: str) -> Table:
    try:
        from rich.table import Table
    except ImportError as error:
        raise ImportError(
            "the tables need rich, which is not installed: pip install 'trl-lambda[eval]'. The "
            "results are in summary.json."
        ) from error
    return Table(title=title, title_justify="left", caption_justify="left")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.1f} … {100 * ends[1]:.1f}"


def _marked_range(metric: Mapping[str, Any]) -> str:
    if "interval" not in metric:
        return "one problem"
    return _range(metric["interval"]) + (" *" if metric["uncertain"] else "")
