"""The front page's table and figure: from the committed results, means over what measures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import front_page
from benchmarks.learning.table import between_marks

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "recipes" / "benchmarks" / "results" / "learning.json"


def test_the_front_page_has_the_table_of_the_committed_results():
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = ROOT / "README.md"
    assert between_marks(page, mark=front_page.MARK).strip() == front_page.table(data)


def made_up() -> dict:
    """Two tasks, of which one does not measure what its name says."""
    results = {
        "branch | good": {"final": 0.8, "generated_tokens": 50, "verdict": "better"},
        "branch | faulty": {"final": 0.2, "generated_tokens": 100, "verdict": "not shown"},
        "GRPO | good": {"final": 0.6, "generated_tokens": 100},
        "GRPO | faulty": {"final": 0.5, "generated_tokens": 100},
    }
    curve = {"tokens": [0, 100], "accuracy": [[0.2, 0.6], [0.4, 0.8]]}
    return {
        "tasks": {"good": {"faults": []}, "faulty": {"faults": ["it falls"]}},
        "results": results,
        "curves": dict.fromkeys(results, curve),
    }


def test_no_mean_has_a_task_that_does_not_measure_what_its_name_says(monkeypatch):
    data = made_up()
    assert front_page.measuring(data) == ["good"]
    assert front_page.share_of_tokens(data, "branch") == 0.5
    monkeypatch.setattr(
        front_page,
        "ROWS",
        {name: front_page.ROWS[name] for name in ("GRPO", "branch")},
    )
    lines = front_page.table(data).splitlines()
    assert lines[0] == "| method | `good` | `faulty` ¹ | generated tokens |"
    assert lines[3] == "| `branch` | 0.80 **better** | 0.20 not shown | 0.50 |"


def test_a_curve_stands_at_shares_of_the_reference_s_tokens():
    data = made_up()
    data["curves"]["branch | good"] = {"tokens": [0, 50], "accuracy": [[0.2, 0.6], [0.4, 0.8]]}
    found = front_page.along(data, "branch", "good", np.array([0.0, 0.25, 0.5, 0.75]))
    assert found[:3] == pytest.approx([0.3, 0.5, 0.7])
    assert np.isnan(found[3])
