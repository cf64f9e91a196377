"""The tables of the README, example by example."""

import re
from pathlib import Path

import trl_lambda.rewards
from trl_lambda.rewards import GraderPool, grade_many

README = Path(trl_lambda.rewards.__file__).with_name("README.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"`([^`]+)` for `([^`]+)`")


def _rows() -> list[tuple[str, list[str]]]:
    """The title of the section and the cells of each row of its table."""
    rows = []
    for section in README.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        lines = [line for line in section.splitlines() if line.startswith("| ")]
        rows += [(title, [cell.strip() for cell in line[1:-1].split("|")]) for line in lines[1:]]
    return rows


def _examples() -> list[tuple[str, str, str, bool]]:
    """The row, response, gold and verdict of each example."""
    examples = []
    for title, (name, *cells) in _rows():
        for right, cell in zip((True, False), cells, strict=True):
            for answer, gold in EXAMPLE.findall(cell):
                marked = title == "What counts as an answer"
                response = answer if marked else rf"\boxed{{{answer}}}"
                examples.append((name, response, gold, right))
    return examples


def test_every_row_has_its_examples() -> None:
    rows = _rows()
    assert len(rows) >= 24
    for _, (name, *cells) in rows:
        assert len(cells) == 2, name
        assert EXAMPLE.search(" ".join(cells)), name


def test_every_example_has_its_verdict(pool: GraderPool) -> None:
    examples = _examples()
    assert len(examples) >= 85
    _, responses, golds, verdicts = zip(*examples, strict=True)
    grades = grade_many(responses, golds, pool=pool)
    found = [grade.correct for grade in grades]
    assert [e for e, f in zip(examples, found, strict=True) if e[3] != f] == []
    assert found == list(verdicts)


def test_the_snippet_says_what_it_gives() -> None:
    from trl_lambda.rewards import grade

    code = README.split("```python")[1].split("```")[0]
    assert "grade_many(" in code
    assert str(grade(r"Half of it: \boxed{\frac12}", "0.5")) in code
    reasons = [g.reason for g in grade_many([r"\boxed{5}", "So it is 6."], ["5", "6"])]
    assert f"# {', '.join(reasons)}" in code
