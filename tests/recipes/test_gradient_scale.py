"""The options of gradient_scale.py: none is accepted and ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import gradient_scale


def test_options_have_their_values_where_they_count():
    plain = gradient_scale.parse_arguments([])
    assert (plain.real, plain.lengths) == (None, [64, 768])
    real = gradient_scale.parse_arguments(["--real", "FOLDER", "--groups", "4"])
    assert (real.groups, real.batches, real.completions) == (4, 2, 8)
    assert (real.arms, real.results) == (None, Path("gradient_scale.json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batches", "3", "--arms", "grpo"], "--batches, --arms: of use with --real FOLDER"),
        (["--real", "FOLDER", "--lengths", "64"], "leave it out with --real"),
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        gradient_scale.parse_arguments(arguments)
    assert said in capsys.readouterr().err
