"""Where a reader begins: at a group and a completion that have credit, at a fork that decided."""

from __future__ import annotations

from typing import Any

from ..credit_log.forks import is_copy
from .tree import prefix_tree


def largest_credit(completion: dict[str, Any]) -> float:
    """The credit of the policy token that got most, or was blamed most; 0 where there is none."""
    tokens = zip(completion["advantage"], completion["mask"], strict=True)
    credit = (value or 0.0 for value, policy in tokens if policy)
    return max(credit, key=abs, default=0.0)


def has_credit(group: dict[str, Any]) -> bool:
    return any(map(largest_credit, group["completions"]))


def decided(group: dict[str, Any], completion: dict[str, Any]) -> bool:
    """Whether a completion was forked from one that got another reward, and has credit for it."""
    if not completion.get("fork") or is_copy(completion):
        return False
    parent = group["completions"][completion["parent"]]
    return parent["reward"] != completion["reward"] and bool(largest_credit(completion))


def how_telling(group: dict[str, Any]) -> int:
    """0: there is no credit to see; 1: there is; 2: there is a fork that decided."""
    return has_credit(group) + any(decided(group, row) for row in group["completions"])


def most_credited(group: dict[str, Any]) -> dict[str, Any]:
    """The completion with the largest credit or blame, of the forks that decided if there are any;
    the first of equals."""
    return max(
        group["completions"], key=lambda row: (decided(group, row), abs(largest_credit(row)))
    )


def telling_group(groups: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest group with a fork that decided, or else with credit, if possible one in which some
    completions share a prefix.

    None where there is no group.
    """
    newest_first = sorted(groups, key=lambda group: group["step"], reverse=True)
    return max(newest_first, key=lambda g: (how_telling(g), _shares_prefixes(g)), default=None)


def _shares_prefixes(group: dict[str, Any]) -> bool:
    """Whether a process set lies between a single completion and the whole group."""
    rows = group["completions"]
    return any(1 < len(branch.rows) < len(rows) for branch in prefix_tree(rows))
