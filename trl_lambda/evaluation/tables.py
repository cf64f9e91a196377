"""Tables for the terminal; no number without the settings it was made with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trl_lambda.evaluation.comparison import Comparison, Difference, average_differences
from trl_lambda.evaluation.intervals import ONE_PROBLEM
from trl_lambda.evaluation.summary import averages

FEW_NOTE = """\
* may be too short: fewer than 5 problems, or fewer than 5 not all wrong, or not all right"""
PAIRED_NOTE = """\
B − A need not lie in the middle of its interval, which leans towards 0: it is made as if there were
two problems more, on which A and B are equal on average."""
AVERAGE_NOTE = """\
average: each benchmark counts the same; its interval is made from those of the benchmarks.
pass@k and maj@K are not averaged, as K may differ."""
LONGEST_LINE = 10_000
SETTINGS = ("temperature", "top_p", "max_tokens", "template", "seed", "n")
PROMPT_SETTINGS = ("conversational", "system_prompt", "chat_template_kwargs")

Printable = Any  # a type of rich, which is optional


def require_rich() -> None:
    """Raises an ImportError if the tables cannot be printed."""
    try:
        import rich  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the tables need rich, which is not installed: pip install 'trl-lambda[eval]'."
        ) from error


def settings_line(settings: Mapping[str, Any]) -> str:
    """The settings that every number stands beside."""
    there = [name for name in PROMPT_SETTINGS if name in settings]
    return " ".join(f"{name}={_setting(settings[name])}" for name in (*SETTINGS, *there))


def model_line(settings: Mapping[str, Any]) -> str:
    """The model, the adapter and the engine that every number stands beside."""
    made_by = settings["generator"]
    names = {"model": "not named", "adapter": None, "engine": "not named", "dtype": "", "step": ""}
    said = {name: made_by.get(name, default) for name, default in names.items()}
    return " ".join(
        f"{name}={'none' if value is None else value}"
        for name, value in said.items()
        if value != ""
    )


def summary_table(summary: Mapping[str, Any]) -> Printable:
    """A table of one benchmark's `summary.json`."""
    table = _table("metric", "value", "95 % interval")
    for name, metric in summary["metrics"].items():
        table.add_row(name, _value(metric), _marked_range(metric))
    table.add_section()
    for name in ("truncated", "format"):
        if name in summary:
            table.add_row(name, _percent(summary[name]), "")
    table.add_row("tokens, mean", f"{summary['tokens']['mean']:.1f}", "")
    table.add_row("tokens, maximum", str(summary["tokens"]["max"]), "")
    for reason, count in summary.get("reasons", {}).items():
        table.add_row(f"graded {reason}", str(count), "")
    settings = summary["settings"]
    heading = f"{settings['benchmark']}, N={summary['num_problems']}\n{model_line(settings)}\n"
    few = any(metric.get("uncertain") for metric in summary["metrics"].values())
    return _framed(heading + settings_line(settings), table, FEW_NOTE if few else "")


def overall_tables(summaries: Sequence[Mapping[str, Any]]) -> list[Printable]:
    """A table of all benchmarks with the average, for avg@K and for each reward.

    Args:
        summaries: The `summary.json` of each, made by one model with the same sampling.
    """
    return [_overall_table(name, one, summaries) for name, one in averages(summaries).items()]


def _overall_table(
    metric: str, average: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]]
) -> Printable:
    table = _table("benchmark", "N", "K", f"{metric}@K", "95 % interval", "pass@K", "truncated")
    best = metric.removesuffix("avg") + "pass"
    for one in summaries:
        found, k = one["metrics"], one["n"]
        own = found[f"{metric}@{k}"]
        passed = _value(found[f"{best}@{k}"]) if f"{best}@{k}" in found else "–"
        name, count = one["settings"]["benchmark"], str(one["num_problems"])
        truncated = _percent(one["truncated"])
        table.add_row(name, count, str(k), _value(own), _marked_range(own), passed, truncated)
    table.add_section()
    table.add_row("average", "", "", _value(average), _marked_range(average), "", "")
    named = ", ".join(one["settings"]["benchmark"] for one in summaries)
    heading = f"{named}\n{_common_lines([one['settings'] for one in summaries])}"
    few = any(one["metrics"][f"{metric}@{one['n']}"].get("uncertain") for one in summaries)
    note = f"{AVERAGE_NOTE}\n{FEW_NOTE}" if few else AVERAGE_NOTE
    return _framed(heading, table, note)


def _common_lines(settings: Sequence[Mapping[str, Any]]) -> str:
    """Model and settings of several benchmarks; those that differ are listed once each."""
    lines = [model_line(settings[0])] if len(set(map(model_line, settings))) == 1 else []
    without_k = [settings_line({**one, "n": "K"}) for one in settings]
    return "\n".join([*(lines or map(model_line, settings)), *dict.fromkeys(without_k)])


def comparison_table(comparison: Comparison) -> Printable:
    """A table of the paired differences on one benchmark."""
    a, b = comparison.settings_a, comparison.settings_b
    heading = f"{comparison.name}, N={a['num_problems']}, B − A by problem\n"
    heading += f"A: {settings_line(a)}\n   {model_line(a)}\n"
    heading += f"B: {settings_line(b)}\n   {model_line(b)}"
    changed = [f"{name}: {a!r} in A, {b!r} in B" for name, a, b in comparison.changed]
    notes = [PAIRED_NOTE, *(changed or ["all settings are equal"])]
    return _framed(heading, _difference_table("metric", comparison.differences), "\n".join(notes))


def average_comparison_tables(comparisons: Sequence[Comparison]) -> list[Printable]:
    """A table of the differences on all benchmarks with their average, one for each metric."""
    tables = []
    for average in average_differences(comparisons):
        rows = {
            one.name: next(row for row in one.differences if row.metric == average.metric)
            for one in comparisons
        }
        named = [replace(row, metric=name) for name, row in rows.items()]
        table = _difference_table("benchmark", named)
        table.add_section()
        table.add_row(*_difference_cells(replace(average, metric="average")))
        heading = f"{average.metric}, B − A by problem, {', '.join(rows)}\n"
        heading += "\n".join(
            f"{side}: {line}"
            for side, made in (("A", "settings_a"), ("B", "settings_b"))
            for line in dict.fromkeys(model_line(getattr(one, made)) for one in comparisons)
        )
        tables.append(_framed(heading, table, f"{PAIRED_NOTE}\n{AVERAGE_NOTE}"))
    return tables


def _difference_table(first: str, rows: Sequence[Difference]) -> Printable:
    table = _table(first, "A", "B", "B − A", "95 % interval", "excludes 0")
    for row in rows:
        table.add_row(*_difference_cells(row))
    return table


def _difference_cells(row: Difference) -> tuple[str, ...]:
    shown = _percent if row.is_share else _number
    return (
        row.metric,
        shown(row.a),
        shown(row.b),
        shown(row.value),
        _range(row.interval, row.is_share) if row.interval else row.no_interval,
        ("yes" if row.excludes_zero else "no") if row.interval else "–",
    )


def print_tables(tables: Sequence[Printable]) -> None:
    """Prints to the terminal, which may break long lines: names and paths stay whole."""
    require_rich()
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(markup=False, highlight=False)
    for table in tables:
        unbroken = console.options.update(max_width=LONGEST_LINE)
        longest = Measurement.get(console, unbroken, table).maximum
        Console(markup=False, highlight=False, width=max(console.width, longest)).print(table)


def _table(*columns: str) -> Printable:
    require_rich()
    from rich.table import Table

    table = Table()
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table


def _framed(heading: str, table: Printable, note: str) -> Printable:
    # Not the table's own title, which is broken to the width of the table.
    from rich.console import Group
    from rich.text import Text

    return Group(Text(heading), table, Text(note))


def _setting(value: Any) -> str:
    """As it is if it is a number or a name; other texts, such as templates, in quotes."""
    plain = not isinstance(value, str) or value.isidentifier()
    return str(value) if plain else repr(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _value(metric: Mapping[str, Any]) -> str:
    if metric["value"] is None:
        return "–"
    return _number(metric["value"]) if "unit" in metric else _percent(metric["value"])


def _range(ends: Sequence[float], is_share: bool) -> str:
    if is_share:
        return f"{100 * ends[0]:.1f} … {100 * ends[1]:.1f}"
    return f"{_number(ends[0])} … {_number(ends[1])}"


def _marked_range(metric: Mapping[str, Any]) -> str:
    if "interval" not in metric:
        return metric.get("no_interval", ONE_PROBLEM)
    return _range(metric["interval"], "unit" not in metric) + (" *" if metric["uncertain"] else "")
