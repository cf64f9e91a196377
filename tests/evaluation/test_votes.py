"""Majority votes over equivalent answers."""

from record_samples import record

from trl_lambda.evaluation import votes as votes_module
from trl_lambda.evaluation.metrics import maj_at_k
from trl_lambda.evaluation.votes import count_votes


def group(*answers: tuple[str | None, bool]):
    return [
        record(0, sample, extracted=text, correct=right)
        for sample, (text, right) in enumerate(answers)
    ]


def test_equivalent_answers_vote_together():
    right = [(r"\frac{1}{2}", True), ("0.5", True), (r"\dfrac12", True)]
    wrong = [("3", False), ("3", False)]
    [votes] = count_votes([group(*wrong, *right)])
    assert sorted(votes) == [(2, False), (3, True)]
    assert maj_at_k(votes) == 1.0


def test_wrong_answers_that_are_equivalent_vote_together():
    wrong = [("0.25", False), (r"\frac14", False), ("7", False)]
    [votes] = count_votes([group(("2", True), *wrong)])
    assert sorted(votes) == [(1, False), (1, True), (2, False)]
    assert maj_at_k(votes) == 0.0


def test_samples_without_an_answer_do_not_vote():
    [votes, none] = count_votes(
        [group((None, False), (None, False), ("2", True)), group((None, False))]
    )
    assert votes == [(1, True)]
    assert none == []


def test_several_problems_in_one_call_are_kept_apart():
    one = group(("1", True), ("2", False), ("2.0", False), ("1.0", True), ("1", True))
    other = group(("2", True), ("1", False), ("1", False))
    assert [sorted(votes) for votes in count_votes([one, other])] == [
        [(2, False), (3, True)],
        [(1, True), (2, False)],
    ]


def test_decided_votes_are_not_compared(monkeypatch):
    asked = []

    def equivalent_many(pairs, pool=None):
        asked.extend(pairs)
        return [False] * len(pairs)

    monkeypatch.setattr(votes_module, "equivalent_many", equivalent_many)
    count_votes([group(("1", True), ("1.0", True)), group(("3", False), ("4", False))])
    assert asked == []
    count_votes([group(("1", True), ("3", False), ("4", False))])
    assert asked == [("3", "4")]


def test_many_answers_are_compared_until_the_vote_is_decided(monkeypatch):
    """Hundreds of answers, all wrong but one, of which one leads by far."""
    rounds = []

    def equivalent_many(pairs, pool=None):
        rounds.append(len(pairs))
        return [False] * len(pairs)

    monkeypatch.setattr(votes_module, "equivalent_many", equivalent_many)
    leading = [("7", False)] * 600
    rest = [(str(100 + i), False) for i in range(500)]
    [votes] = count_votes([group(*rest, ("2", True), *leading)])
    assert rounds == [500]
    assert maj_at_k(votes) == 0.0
    assert sum(count for count, _ in votes) == 1101
    # While the others could still overtake it together, all are compared.
    rounds.clear()
    count_votes([group(*rest, ("2", True), *leading[:400])])
    assert len(rounds) > 90
