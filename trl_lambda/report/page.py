"""The page: one HTML file that holds its data, its script, its style and the chart library.

Nothing in it reaches the network: a content security policy allows the two scripts by their hashes
and nothing else. The data is JSON in which no `<` is left, so no text of a model can end it; each
group and the library are packed (gzip in base64) and unpacked when they are needed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from ..credit_log.format import OPTIONAL_GROUP_LISTS
from ..credit_log.reading import GROUP_LISTS, Run
from .curves import charts, same_but_for_seed
from .opening import decided, how_telling, largest_credit
from .prompts import prompt_ends
from .reliability import reliability
from .selection import spread
from .tree import prefix_tree

SCRIPTS = (
    "text.js",
    "unpack.js",
    "record.js",
    "forks.js",
    "tooltip.js",
    "values.js",
    "completion.js",
    "tree.js",
    "runs.js",
    "page.js",
)
POLICY = (
    "default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
# Characters of a prompt in the list of groups.
PROMPT_END = 60
# Room for what is neither data nor library.
MARGIN = 65_536


def page(runs: list[Run], *, max_bytes: int) -> tuple[str, str]:
    """(the HTML, what it left out or an empty text).

    Args:
        runs: laid over each other in the run view.
        max_bytes: limit of the whole file. Where the records do not fit, groups spread over the
            training are shown, and the page says how many of how many.

    Raises:
        ModuleNotFoundError: plotly is not installed.
        ValueError: not even the library and the curves fit.
    """
    library = _library()
    packed_library = packed(library)
    script = "\n".join(_static(name) for name in SCRIPTS)
    frame = {
        "runs": [_about(run) for run in runs],
        "has_entropy": any(_has_entropy(group) for run in runs for group in run.groups),
        "reliability": reliability(runs),
        **_run_view(runs),
    }
    room = max_bytes - len(packed_library) - len(script) - len(embedded(frame)) - MARGIN
    if room < 0:
        raise ValueError(
            f"report: {max_bytes} bytes are too few: library and curves alone take "
            f"{max_bytes - room}. Raise --max-mb."
        )
    frame["groups"], left_out = _groups(runs, room)
    frame["left_out"] = left_out
    parts = {
        "@policy@": POLICY.format(hashes=f"{_hash(script)} {_hash(library)}"),
        "@style@": _static("page.css"),
        "@data@": embedded(frame),
        "@library@": packed_library,
        "@script@": script,
    }
    return _fill(_static("page.html"), parts), left_out


def embedded(data: Any) -> str:
    r"""JSON for a script element: pure ASCII, and `<` as \u003c so that nothing can close it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def packed(text: str) -> str:
    """gzip in base64: less than half the size, and no character that means something to HTML."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _fill(template: str, parts: dict[str, str]) -> str:
    """Puts each part in its place, in their order; a place is never looked for inside a part."""
    filled = []
    for place, part in parts.items():
        before, template = template.split(place)
        filled += [before, part]
    return "".join([*filled, template])


def _static(name: str) -> str:
    return (files(__package__) / "static" / name).read_text(encoding="utf-8")


def _library() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "report: the page needs plotly, which is not installed: "
            "pip install 'trl-lambda[report]'."
        ) from error
    return get_plotlyjs()


def _hash(script: str) -> str:
    """A script's name in the content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _about(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "started": run.meta.get("started"),
        "settings": run.settings,
        "versions": run.meta.get("versions", {}),
        "dropped": run.dropped,
        "unreadable": run.unreadable,
        "superseded": run.superseded,
    }


def _run_view(runs: list[Run]) -> dict[str, Any]:
    drawn = charts(runs)
    return {
        "lines": list(same_but_for_seed(runs)),
        "charts": [asdict(chart) for chart in drawn if chart.lines],
        "not_logged": [chart.metric for chart in drawn if not chart.lines],
    }


def _groups(runs: list[Run], room: int) -> tuple[list[dict[str, Any]], str]:
    """The groups that fit, and a sentence on those that do not."""
    ends = iter(prompt_ends([group["prompt"] for run in runs for group in run.groups], PROMPT_END))
    groups = [
        _entry(index, group, next(ends)) for index, run in enumerate(runs) for group in run.groups
    ]
    shown = spread([len(embedded(group)) + 1 for group in groups], room)
    if len(shown) == len(groups):
        return groups, ""
    sentence = (
        f"{len(shown)} of {len(groups)} recorded groups fit into this page, spread over the "
        "training; a larger --max-mb shows more."
    )
    return [groups[index] for index in shown], sentence


def _entry(run: int, group: dict[str, Any], prompt_end: str) -> dict[str, Any]:
    """The entry of the list of groups, and the group itself, packed."""
    content = _group(group)
    return {
        "run": run,
        "step": group["step"],
        "mode": group["mode"],
        "mean_reward": content["branches"][0]["mean_reward"],
        "telling": how_telling(group),
        "prompt_end": prompt_end,
        "packed": packed(embedded(content)),
    }


def _has_entropy(group: dict[str, Any]) -> bool:
    return any("entropy" in (completion["update"] or {}) for completion in group["completions"])


def _group(group: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: group[name] for name in ("id", "step", "mode", "prompt")},
        "completions": [
            _completion(completion) | {"decided": decided(group, completion)}
            for completion in group["completions"]
        ],
        "branches": [asdict(branch) for branch in prefix_tree(group["completions"])],
    }


def _completion(completion: dict[str, Any]) -> dict[str, Any]:
    names = ("row", "reward", "group_advantage", "pieces")
    update = completion["update"]
    return {
        **{name: completion[name] for name in names},
        "rewards": completion.get("rewards") or {},
        "extra": completion.get("extra") or {},
        "largest_credit": largest_credit(completion),
        **{name: completion.get(name) for name in ("cut", "parent", "fork")},
        **{name: _short(completion[name]) for name in GROUP_LISTS if name != "pieces"},
        **{n: _short(completion[n]) for n in OPTIONAL_GROUP_LISTS if n in completion},
        "update": update and {name: _short(values) for name, values in update.items()},
    }


def _short(values: list[Any] | None) -> Any:
    """A list of one and the same value as that value: masks and weights often are."""
    return values[0] if values and len(set(values)) == 1 else values
