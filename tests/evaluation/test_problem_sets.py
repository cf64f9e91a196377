"""Benchmarks: what is loaded is what is expected, or it is an error."""

import hashlib
import json
import warnings
from pathlib import Path

import datasets
import pytest

from trl_lambda.evaluation import BENCHMARKS, TEMPLATES, load_problem_set
from trl_lambda.evaluation.problem_sets import Problem, fingerprint

WITH_DATA = ["aime24", "amc23", "math500", "olympiadbench"]


@pytest.fixture
def hub(monkeypatch):
    """The Hub, as far as `load_dataset` goes: set `rows`; `calls` says what was asked for."""

    class Hub:
        def __init__(self):
            self.rows: list[dict] = []
            self.calls: list[tuple] = []

    made = Hub()

    def load_dataset(path, name=None, *, split, revision):
        made.calls.append((path, name, split, revision))
        return datasets.Dataset.from_list(made.rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return made


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_rows_hang_together():
    assert list(BENCHMARKS) == [
        "aime24",
        "amc23",
        "math500",
        "minerva_math",
        "olympiadbench",
        "gsm8k",
    ]
    for row in BENCHMARKS.values():
        assert row.template in TEMPLATES
        assert row.default_k >= 1
        assert bool(row.unchecked) == (row.sha256 is None)
        assert row.revision is None or len(row.revision) == 40


@pytest.mark.parametrize("name", WITH_DATA)
def test_the_real_files_pass_count_and_hash(name, real_data, real_problems):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_problem_set(f"{name}={real_data / name}.parquet")
    rows = real_problems(name)
    assert len(loaded.problems) == BENCHMARKS[name].num_problems == len(rows)
    assert [list(one.answers) for one in loaded.problems] == [row["answers"] for row in rows]
    assert [one.problem for one in loaded.problems] == [row["problem"].strip() for row in rows]


def test_training_and_test_problems_of_gsm8k_together_are_refused(real_data):
    with pytest.raises(ValueError, match="has 8792 problems, expected 1319"):
        load_problem_set(f"gsm8k={real_data / 'gsm8k.parquet'}")


@pytest.mark.parametrize("change", ["answer", "order"])
def test_a_changed_benchmark_is_refused_and_can_be_accepted(change, tmp_path, real_problems):
    rows = real_problems("aime24")
    if change == "answer":
        rows[7]["answers"] = ["12"]
    else:
        rows[0], rows[1] = rows[1], rows[0]
    spec = f"aime24={write_jsonl(tmp_path / 'changed.jsonl', rows)}"
    with pytest.raises(ValueError, match="expected a8596c3f11c4") as refusal:
        load_problem_set(spec)
    found = str(refusal.value).split("accept_sha256 ")[1].rstrip(".")
    assert load_problem_set(spec, accept_sha256=[found]).sha256 == found


def test_from_the_hub_with_its_columns_and_revision(hub, real_problems):
    # AI-MO's answers are floats; the hash is of integers.
    hub.rows = [
        {"id": i, "problem": row["problem"] + " ", "answer": float(row["answers"][0])}
        for i, row in enumerate(real_problems("amc23"))
    ]
    loaded = load_problem_set("amc23")
    assert hub.calls == [
        (
            "AI-MO/aimo-validation-amc",
            None,
            "train",
            "69d78a4a2c840e82d69af6bc742bda09005f6316",
        )
    ]
    assert loaded.problems[0].answers == ("142",)
    assert loaded.source.startswith("AI-MO/aimo-validation-amc/train/69d78a4")


def test_a_set_that_cannot_be_checked_warns_until_accepted(hub):
    hub.rows = [{"problem": f"p{i}", "solution": rf"\boxed{{{i}}}"} for i in range(272)]
    with pytest.warns(UserWarning, match="minerva_math: the content could not be checked"):
        loaded = load_problem_set("minerva_math")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_problem_set("minerva_math", accept_sha256=[loaded.sha256])


def test_another_count_on_the_hub_is_an_error(hub):
    hub.rows = [{"problem": f"p{i}", "answer": "1"} for i in range(29)]
    with pytest.raises(ValueError, match="has 29 problems, expected 30"):
        load_problem_set("aime24")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_of_ones_own(ending, tmp_path):
    rows = [{"problem": "1+1 \u2028?", "answers": ["2", "two"]}, {"problem": "b", "answers": ["3"]}]
    path = tmp_path / f"own.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    loaded = load_problem_set(str(path))
    assert loaded.name == "own"
    assert loaded.problems == (Problem("1+1 \u2028?", ("2", "two")), Problem("b", ("3",)))


def test_numbers_and_single_answers_in_a_file(tmp_path):
    rows = [{"problem": "a", "answers": 2}, {"problem": "b", "answers": "x"}]
    loaded = load_problem_set(str(write_jsonl(tmp_path / "own.jsonl", rows)))
    assert [one.answers for one in loaded.problems] == [("2",), ("x",)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"problem": "a", "answer": "2"},
            "own.jsonl, line 2: no column answers; it has problem, answer",
        ),
        ({"problem": " ", "answers": ["2"]}, "line 2: problem ' '"),
        ({"problem": None, "answers": ["2"]}, "line 2: problem None"),
        ({"problem": "a", "answers": []}, r"line 2: problem 'a', answers \(\)"),
        ({"problem": "a", "answers": ["2", ""]}, "line 2: problem 'a'"),
        ({"problem": "a", "answers": None}, "line 2: problem 'a'"),
    ],
)
def test_no_row_is_skipped(row, message, tmp_path):
    path = write_jsonl(tmp_path / "own.jsonl", [{"problem": "a", "answers": ["1"]}, row])
    with pytest.raises(ValueError, match=message):
        load_problem_set(str(path))


def test_names_and_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="'aime' is unknown: expected one of aime24, amc23"):
        load_problem_set("aime")
    with pytest.raises(ValueError, match=r"expected a file that ends in \.parquet or \.jsonl"):
        load_problem_set("aime24=aime.csv")
    with pytest.raises(ValueError, match="no rows"):
        load_problem_set(str(write_jsonl(tmp_path / "own.jsonl", [])))


def test_the_hash_tells_answers_from_problems():
    one = fingerprint([Problem("a", ("b", "c"))])
    others = [[Problem("a", ("b",)), Problem("c", ())], [Problem("a", ("bc",))]]
    assert one not in map(fingerprint, others)
    assert one == hashlib.sha256(b'[["a",["b","c"]]]').hexdigest()


def test_limit(tmp_path):
    rows = [{"problem": str(i), "answers": [str(i)]} for i in range(3)]
    loaded = load_problem_set(str(write_jsonl(tmp_path / "own.jsonl", rows)))
    assert [one.problem for one in loaded.limit(2).problems] == ["0", "1"]
    assert loaded.limit(None) == loaded
    assert loaded.limit(2).sha256 == loaded.sha256
    with pytest.raises(ValueError, match="limit is 4, expected 1 to 3"):
        loaded.limit(4)
