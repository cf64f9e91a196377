"""The three views as PNG figures, for papers and trackers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.cm
import matplotlib.lines
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..credit_log.forks import first_entry, has_forks, is_copy, token_count
from ..credit_log.reading import Run
from .curves import Chart, Line, charts
from .opening import most_credited, telling_group
from .tree import Branch, prefix_tree
from .visible import visible

# Okabe-Ito: told apart by colour-blind readers; the dashes tell lines apart in grey too.
STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", ":"), ("#CC79A7", "-."))
TAKEN_OVER = "#00785A"
CREDIT = LinearSegmentedColormap.from_list("credit", ["#E67E14", "#FFFFFF", "#2C7BC4"])
COLUMNS, LINES = 96, 44  # the size of a completion's figure
POINTS = 8  # its font size
ADVANCE = 0.602  # width of a character of the monospace font, in font sizes


def write_figures(runs: list[Run], stem: Path) -> list[Path]:
    """Writes `<stem>-run.png`, and where groups are recorded `-tree.png` and `-completion.png`.

    Tree and completion are those of the newest group with credit, if possible one in which some
    completions share a prefix; the completion is the one with the largest credit.
    """
    figures = {"run": run_figure(charts(runs))}
    group = telling_group([group for run in runs for group in run.groups])
    if group:
        figures["tree"] = tree_figure(group)
        figures["completion"] = completion_figure(most_credited(group))
    paths = []
    for name, figure in figures.items():
        paths.append(stem.with_name(f"{stem.name}-{name}.png"))
        figure.savefig(paths[-1], dpi=200, facecolor="white")
    return paths


def _credit(completion: dict[str, Any]) -> list[float]:
    """Credit of each token, 0 where the record has none."""
    return [value or 0.0 for value in completion["advantage"]]


def run_figure(drawn: list[Chart]) -> Figure:
    """A panel per metric that was logged."""
    logged = [chart for chart in drawn if chart.lines]
    rows = max(1, -(-len(logged) // 3))
    figure = Figure(figsize=(10, 2.6 * rows + 0.4), layout="constrained")
    for place, chart in enumerate(logged, start=1):
        _draw_chart(figure.add_subplot(rows, 3, place), chart)
    names = {line.name: None for chart in logged for line in chart.lines}
    handles = [_plot(None, name, index) for index, name in enumerate(names)]
    handles += _meanings([line for chart in logged for line in chart.lines])
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False)
    return figure


def _meanings(lines: list[Line]) -> list[Any]:
    """Legend entries for what markers and bands say, where there are any."""
    marks = matplotlib.lines.Line2D([], [], color="grey", marker="o", label="held-out prompts")
    band = Rectangle((0, 0), 1, 1, color="grey", alpha=0.3, lw=0, label="95 % interval of seeds")
    held_out, banded = any(line.held_out for line in lines), any(line.low for line in lines)
    return [mark for mark, used in ((marks, held_out), (band, banded)) if used]


def _plot(axes: Axes | None, name: str, index: int, **drawn: Any) -> Any:
    """A line in the style of run `index`; off the axes it is the legend's."""
    colour, dashes = STYLES[index % len(STYLES)]
    line = matplotlib.lines.Line2D(
        drawn.pop("x", []), drawn.pop("y", []), color=colour, linestyle=dashes, **drawn
    )
    line.set_label(_plain(name))
    return line if axes is None else axes.add_line(line)


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return visible(text).replace("$", r"\$")


def _draw_chart(axes: Axes, chart: Chart) -> None:
    order = list(dict.fromkeys(line.name for line in chart.lines))
    for line in chart.lines:
        index = order.index(line.name)
        marker = "o" if line.held_out else None
        _plot(axes, line.name, index, x=line.steps, y=line.mean, marker=marker, markersize=3)
        if line.low and line.high:
            colour = STYLES[index % len(STYLES)][0]
            axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.15, lw=0)
    axes.autoscale_view()
    axes.set_title(_plain(chart.title), loc="left", fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def tree_figure(group: dict[str, Any]) -> Figure:
    """The process sets of a group: width by completions, colour by mean reward."""
    branches = prefix_tree(group["completions"])
    lefts, levels = tree_places(branches)
    figure = Figure(figsize=(9, 0.62 * (max(levels) + 1) + 0.7), layout="constrained")
    axes = figure.add_subplot()
    rewards = [b.mean_reward for b in branches if b.mean_reward is not None] or [0.0]
    scale = matplotlib.cm.ScalarMappable(Normalize(min(rewards), max(rewards)), "cividis")
    parents = {branch.parent for branch in branches}
    for number, (branch, left, level) in enumerate(zip(branches, lefts, levels, strict=True)):
        ends = leaf_name(group, branch) if number and number not in parents else ""
        _draw_branch(axes, group, branch, left, level, scale, ends)
    axes.set(xlim=(0, len(branches[0].rows)), ylim=(max(levels) + 1, 0), yticks=[])
    axes.set_xlabel("completions")
    axes.spines[:].set_visible(False)
    forked = ", forked where they part" if has_forks(group["completions"]) else ""
    axes.set_title(f"Process sets{forked}, step {group['step']}", loc="left", fontsize=10)
    figure.colorbar(scale, ax=axes, label="mean reward", pad=0.01)
    return figure


def leaf_name(group: dict[str, Any], branch: Branch) -> str:
    """Which completions of a branched group end in a branch; empty for independent ones."""
    completions = group["completions"]
    if not has_forks(completions):
        return ""
    return ", ".join(
        f"#{row + 1}, copy of #{completions[row]['parent'] + 1}"
        if is_copy(completions[row])
        else f"#{row + 1}"
        for row in branch.rows
    )


def tree_places(branches: list[Branch]) -> tuple[list[int], list[int]]:
    """(left edge in completions, level) of each branch: children stand below, side by side."""
    lefts, levels, taken = [], [], [0] * len(branches)
    for branch in branches:  # parents come before their children
        if branch.parent is None:
            lefts.append(0)
            levels.append(0)
            continue
        lefts.append(lefts[branch.parent] + taken[branch.parent])
        levels.append(levels[branch.parent] + 1)
        taken[branch.parent] += len(branch.rows)
    return lefts, levels


def _draw_branch(
    axes: Axes,
    group: dict[str, Any],
    branch: Branch,
    left: int,
    level: int,
    scale: Any,
    ends: str,
) -> None:
    known = branch.mean_reward is not None
    face = scale.to_rgba(branch.mean_reward) if known else (0.8, 0.8, 0.8, 1.0)
    width = len(branch.rows)
    box = Rectangle((left, level), width, 1, facecolor=face, edgecolor="white", linewidth=1.5)
    axes.add_patch(box)
    first = group["completions"][branch.rows[0]]
    start, end = (first_entry(first, token) for token in (branch.start, branch.end))
    pieces = first["pieces"][start:end]
    room = int(90 * width / len(group["completions"])) - 2
    words = visible("".join(pieces[:room]))[:room] if room > 3 else ""
    ink = "black" if sum(face[:3]) > 1.4 else "white"
    value = f"{branch.mean_reward:.3g}" if known else "–"
    axes.text(
        left + 0.04,
        level + 0.5,
        f"{words}\n{ends} {value}".replace("\n ", "\n"),
        va="center",
        fontsize=7,
        family="monospace",
        color=ink,
        clip_on=True,
        parse_math=False,
    ).set_clip_path(box)


def completion_figure(completion: dict[str, Any]) -> Figure:
    """A completion as text, each token shaded by its credit; of a long one the beginning.

    Credit and blame have a scale each: a floor leaves of blame a small part of what credit is. What
    was taken over from another completion has a line above, and a bar stands at the fork.
    """
    fragments = list(laid_out(completion["pieces"]))
    lines = fragments[-1][2] + 1 if fragments else 1
    drawn = min(lines, LINES)
    origin = origin_words(completion)
    title = 0.65 if origin else 0.45
    figure = Figure(figsize=(COLUMNS * ADVANCE * POINTS / 72 + 0.4, drawn * 0.19 + title))
    height = figure.get_size_inches()[1]
    axes = figure.add_axes((0.02, 0.1 / height, 0.96, drawn * 0.19 / height))
    axes.set(xlim=(0, COLUMNS), ylim=(drawn, 0))
    axes.axis("off")
    credit = _credit(completion)
    blamed, credited = -min(credit, default=0.0), max(credit, default=0.0)
    for t, column, line, text in fragments:
        if line < drawn:
            largest = credited if credit[t] > 0 else blamed
            _draw_token(axes, credit[t] / (largest or 1.0), column, line, text)
    if origin:
        _draw_taken_over(axes, first_entry(completion, completion["fork"]), fragments)
    cut = f". First {drawn} of {lines} lines" if drawn < lines else ""
    axes.set_title(f"{origin}{credit_scales(blamed, credited)}{cut}", loc="left", fontsize=9)
    return figure


def origin_words(completion: dict[str, Any]) -> str:
    """A line on what a completion took over from which; empty where it took over nothing."""
    if not completion.get("fork"):
        return ""
    parent = completion["parent"] + 1
    if is_copy(completion):
        return f"A copy of completion {parent}, which ended before its fork: all is shared\n"
    return (
        f"Forked from completion {parent} behind {completion['fork']} of "
        f"{token_count(completion)} tokens, which are shared (line above)\n"
    )


def _draw_taken_over(axes: Axes, fork: int, fragments: list[tuple[int, int, int, str]]) -> None:
    """A line above the entries before the fork, and a bar before the one that begins there."""
    bottom = axes.get_ylim()[0]
    drawn = [fragment for fragment in fragments if fragment[2] < bottom]
    for t, column, line, text in drawn:
        if t < fork:
            ends = [column, column + _width(text)]
            axes.plot(ends, [line, line], color=TAKEN_OVER, linewidth=1.4)
    for column, line in [(column, line) for t, column, line, _ in drawn if t == fork][:1]:
        axes.plot([column, column], [line, line + 0.92], color=TAKEN_OVER, linewidth=2.4)


def credit_scales(blamed: float, credited: float) -> str:
    """Says what the colours mean; both numbers are the largest there is, 0 for none."""
    parts = [
        f"credit up to {credited:.3g} (darkest blue)" if credited > 0 else "no credit",
        f"blame down to −{blamed:.3g} (darkest orange)" if blamed > 0 else "no blame",
    ]
    return "Tokens with " + ", ".join(parts)


def laid_out(pieces: list[str]) -> Iterator[tuple[int, int, int, str]]:
    """(token, column, line, text) of tokens as text of `COLUMNS`, wrapped; far lines are left."""
    column = line = 0
    for t, piece in enumerate(pieces):
        start, shown = column, ""
        for character in piece[: COLUMNS * LINES]:
            for glyph in visible(character):
                width = 2 if unicodedata.east_asian_width(glyph) in "WF" else 1
                if column + width > COLUMNS:
                    yield t, start, line, shown
                    start, shown, column, line = 0, "", 0, line + 1
                shown, column = shown + glyph, column + width
            if character == "\n":
                yield t, start, line, shown
                start, shown, column, line = 0, "", 0, line + 1
        if shown:
            yield t, start, line, shown


def _width(text: str) -> int:
    """Columns that a text takes."""
    return sum(2 if unicodedata.east_asian_width(glyph) in "WF" else 1 for glyph in text)


def _draw_token(axes: Axes, credit: float, column: int, line: int, text: str) -> None:
    colour = CREDIT(0.5 + 0.5 * credit)
    axes.add_patch(Rectangle((column, line), _width(text), 0.92, facecolor=colour, linewidth=0))
    axes.text(
        column,
        line + 0.46,
        text,
        fontsize=POINTS,
        family="monospace",
        va="center",
        parse_math=False,
    )
