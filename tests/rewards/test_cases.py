"""The hand-graded table."""

import pytest
from cases import CASES, all_cases

from trl_lambda.rewards import Grade, GraderPool, grade_many


@pytest.fixture(scope="module")
def grades(pool: GraderPool) -> list[Grade]:
    responses, golds, _ = zip(*all_cases(), strict=True)
    # One batch: the hanging ones must leave the others alone.
    return grade_many(responses, golds, timeout=2.0, pool=pool)


@pytest.mark.parametrize(
    "index", range(len(all_cases())), ids=lambda index: ascii(all_cases()[index])[-60:]
)
def test_case(grades: list[Grade], index: int) -> None:
    _, _, reason = all_cases()[index]
    assert grades[index].reason == reason
    assert grades[index].correct == (reason == "ok")


def test_the_table_is_broad_and_every_category_has_both_verdicts() -> None:
    assert len(all_cases()) >= 150
    assert len(CASES) >= 15
    for category, cases in CASES.items():
        assert len({reason == "ok" for _, _, reason in cases}) == 2, category
