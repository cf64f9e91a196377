"""What the learning benchmark does with files that a kill tore and with workers that fail."""

from __future__ import annotations

import pytest
from benchmarks.learning.runs import append_line, read_lines
from benchmarks.learning.training import Run

RUN = Run("first", "Dr. GRPO", 1e-3, 0, 5)


@pytest.mark.parametrize("cut", [*range(1, 12), 16], ids=lambda cut: f"{cut} bytes short")
def test_a_line_that_was_cut_anywhere_is_skipped(cut, tmp_path, capsys):
    """Also within the two bytes of `λ`."""
    path = tmp_path / "runs.jsonl"
    append_line(path, {"key": "a", "method": "GRPO"})
    append_line(path, {"key": "b", "method": "GRPO-λ"})
    path.write_bytes(path.read_bytes()[: -1 - cut])
    assert read_lines(path) == [{"key": "a", "method": "GRPO"}]
    assert "cut off" in capsys.readouterr().out
    append_line(path, {"key": "c"})
    assert [line["key"] for line in read_lines(path)] == ["a", "c"]


@pytest.mark.parametrize(
    "mark", ["\x85", "\u2028", "\u2029", "\x1c", "\r", "\n", "\udc80"], ids=ascii
)
def test_a_line_ends_at_a_newline_and_nowhere_else(mark, tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    record = {"key": "a", "error": f"ValueError: one{mark}two"}
    append_line(path, record)
    assert read_lines(path) == [record]
    assert capsys.readouterr().out == ""
