"""Sizes of branched groups: waves, parts of groups on a process, and the nearest that fit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_lambda.rollout import BranchRule


def rule(roots=None, forks="spread", levels=1, at="random") -> BranchRule:
    return BranchRule(roots, forks, at, fraction=0.5, surprise=2.0, levels=levels)


@pytest.mark.parametrize(
    ("made", "group", "waves"),
    [
        (rule(), 8, (4, 4)),
        (rule(), 7, (3, 4)),
        (rule(2), 8, (2, 6)),
        (rule(2, levels=2), 8, (2, 3, 3)),
        (rule(1, levels=3), 8, (1, 3, 2, 2)),
        (rule(4, "even"), 8, (4, 4)),
        (rule(2, "even"), 8, (2, 6)),
        (rule(2, "even", levels=2), 8, (2, 2, 4)),
        (rule(1, "even", levels=3), 8, (1, 1, 2, 4)),
    ],
)
def test_waves_of_a_group(made, group, waves):
    assert made.sizes(group).waves == waves


@pytest.mark.parametrize(
    ("made", "group", "remedies"),
    [
        (rule(8), 8, ["branch_roots to 5 or 6 or 7", "num_generations to 9 or 10"]),
        (rule(), 1, ["branch_roots=0", "num_generations=1"]),
        (rule(7, levels=2), 8, ["branch_levels=2", "branch_roots to 4 or 5 or 6"]),
        (rule(3, "even"), 8, ["branch_roots to 1 or 2 or 4", "num_generations to 6 or 9"]),
        (rule(4, "even", levels=2), 8, ["to the power of 2", "branch_roots to 2,", "to 16"]),
    ],
)
def test_what_does_not_fit_is_refused_with_the_nearest_that_does(made, group, remedies):
    with pytest.raises(ValueError, match="branch_") as raised:
        made.sizes(group)
    assert all(remedy in str(raised.value) for remedy in remedies)
    for name, values in re.findall(r"(branch_roots|num_generations) to ([\d or]+)", str(raised)):
        for value in map(int, values.split(" or ")):
            changed = rule(value, made.forks, made.levels) if name == "branch_roots" else made
            changed.sizes(value if name == "num_generations" else group)


@given(
    st.integers(2, 24), st.integers(1, 8), st.sampled_from(["spread", "even"]), st.integers(1, 3)
)
def test_waves_and_shares_add_up(group, roots, forks, levels):
    try:
        sizes = rule(roots, forks, levels).sizes(group)
    except ValueError:
        return
    assert sum(sizes.waves) == group
    assert min(sizes.waves) >= 1
    for rows in range(sizes.unit, 3 * group, sizes.unit):
        assert sizes.share_fault(rows) is None
        for process in range(3):
            shares = list(sizes.shares(process * rows, rows))
            assert [n for s in shares for n in range(s.start, s.stop)] == list(range(rows))
            for share in shares:
                size = share.stop - share.start
                assert sum(sizes.of_share(size)) == size
                first, last = process * rows + share.start, process * rows + share.stop - 1
                assert first // group == last // group  # of one group


def test_an_odd_share_of_a_group_is_refused_with_what_fits():
    fault = rule().sizes(8).share_fault(5)
    assert "generates 5 completions" in fault
    assert "a multiple of 2" in fault
