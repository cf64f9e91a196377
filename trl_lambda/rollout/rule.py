"""How a group branches: roots, forks and levels, and which sizes go with them.

A group of G completions is R *roots*, generated from the prompt, and G − R *forks*. A fork takes
over the first tokens of a completion that is there, and goes on by itself. Forks are made in waves,
one for each level: those of level 2 may be forked from those of level 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Places that depend on what a completion says after them.
HINDSIGHT = ("entropy", "value")


@dataclass(frozen=True)
class BranchRule:
    """How completions are forked; the fields are the options `branch_…` of the same name.

    Attributes:
        roots: completions of a group that start at the prompt; None for half of them.
        forks: "spread", each fork at another token of any root, or "even", all roots alike.
        at: the name of the rule of places, see `places`.
        fraction: share of the other roots' mean length, from which on completions are forked.
        surprise: a completion is forked behind a token less likely than exp(−surprise).
        levels: waves of forks.
        weights: "rows", all completions alike, or "branches", those that share a token together as
            one (see `functional.branch_weights`).
    """

    roots: int | None
    forks: str
    at: str
    fraction: float
    surprise: float
    levels: int
    weights: str = "rows"

    def values(self) -> dict[str, Any]:
        """By option."""
        return {f"branch_{name}": value for name, value in vars(self).items()}

    @property
    def hindsight(self) -> bool:
        """Whether places depend on later tokens, which tilts the mean gradient."""
        return self.at in HINDSIGHT

    def sizes(self, group: int) -> BranchSizes:
        """Completions of each wave of a group.

        Raises:
            ValueError: a group that cannot branch so; the message has the nearest that can.
        """
        roots = group // 2 if self.roots is None else self.roots
        if fault := self._fault(group, roots):
            raise ValueError(fault)
        return BranchSizes(group, self._waves(group, roots))

    def _fault(self, group: int, roots: int) -> str | None:
        if group < 2 or not 1 <= roots < group:
            return (
                f"branch_roots={roots}: a group of num_generations={group} completions has to have "
                f"at least one root and one fork; {self._nearest(group, roots)}."
            )
        forks = group - roots
        if self.forks == "spread" and forks < self.levels:
            return (
                f"branch_levels={self.levels}: each level needs a fork, and a group of "
                f"num_generations={group} with branch_roots={roots} has {forks}; "
                f"{self._nearest(group, roots)}."
            )
        if self.forks == "even" and _ways(group, roots, self.levels) is None:
            power = "" if self.levels == 1 else f" to the power of {self.levels}"
            return (
                f"branch_roots={roots}: with branch_forks='even' num_generations={group} has to be "
                f"branch_roots times a whole number ≥ 2{power}; {self._nearest(group, roots)}."
            )
        return None

    def _nearest(self, group: int, roots: int) -> str:
        fit = [r for r in range(1, group) if self._waves_fit(group, r)]
        parts = []
        if fit:
            near = sorted(sorted(fit, key=lambda r: abs(r - roots))[:3])
            parts.append(f"set branch_roots to {' or '.join(map(str, near))}")
        groups = [g for g in range(2, 4 * max(group, roots) + 9) if self._waves_fit(g, roots)]
        if groups:
            near = sorted(sorted(groups, key=lambda g: abs(g - group))[:2])
            parts.append(f"num_generations to {' or '.join(map(str, near))}")
        return ", or ".join(parts) or "leave branch_levels out"

    def _waves_fit(self, group: int, roots: int) -> bool:
        if not 1 <= roots < group:
            return False
        if self.forks == "even":
            return _ways(group, roots, self.levels) is not None
        return group - roots >= self.levels

    def _waves(self, group: int, roots: int) -> tuple[int, ...]:
        if self.forks == "even":
            ways = _ways(group, roots, self.levels)
            assert ways is not None
            return (roots, *(roots * ways**n * (ways - 1) for n in range(self.levels)))
        each, more = divmod(group - roots, self.levels)
        return (roots, *(each + (n < more) for n in range(self.levels)))

    @property
    def generated_share(self) -> float | None:
        """Expected share of its tokens that a fork generates, of completions of one length.

        None where it depends on the text.
        """
        if self.at == "random":
            return 0.5
        if self.at == "fraction" and self.levels == 1 and self.forks == "even":
            return 1.0 - self.fraction
        return None


@dataclass(frozen=True)
class BranchSizes:
    """Completions of each wave.

    Attributes:
        group: all of them, G.
        waves: roots, then the forks of each level.
    """

    group: int
    waves: tuple[int, ...]

    @property
    def roots(self) -> int:
        return self.waves[0]

    @property
    def unit(self) -> int:
        """Smallest part of a group in which each wave has a whole number of completions."""
        return self.group // math.gcd(self.group, *self.waves)

    def of_share(self, rows: int) -> tuple[int, ...]:
        """Completions of each wave of `rows` completions of a group; a multiple of `unit`."""
        return tuple(wave * rows // self.group for wave in self.waves)

    def shares(self, first_row: int, rows: int) -> Iterator[slice]:
        """The parts of groups that a process has: slices of its rows.

        Args:
            first_row: number of the process's first completion among those of all processes.
            rows: its completions.
        """
        start = 0
        while start < rows:
            end = min(rows, start + self.group - (first_row + start) % self.group)
            yield slice(start, end)
            start = end

    def share_fault(self, rows: int) -> str | None:
        """Says what is wrong with a process's number of completions; None where nothing is."""
        if rows % self.unit == 0:
            return None
        return (
            f"rollout='branch': each process generates {rows} completions at a time and forks its "
            f"part of a group by itself; waves of {' + '.join(map(str, self.waves))} completions "
            f"come in units of {self.unit}, so the completions of a process have to be a multiple "
            f"of {self.unit} (or branch_roots another number)."
        )


def _ways(group: int, roots: int, levels: int) -> int | None:
    """Into how many ways each level forks, or None if there is no whole number."""
    if group % roots:
        return None
    each = group // roots
    ways = round(each ** (1 / levels))
    return ways if ways >= 2 and ways**levels == each else None
