"""Benchmarks: what is loaded is what is expected, or it is an error."""

import codecs
import hashlib
import json
import warnings
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow
import pytest

from trl_lambda.evaluation import BENCHMARKS, TEMPLATES, load_problem_set
from trl_lambda.evaluation.problem_sets import Problem, check_names, fingerprint

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
            "l, line 2: no column answers; it has problem, answer",
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


ROW = json.dumps({"problem": "1+1=?", "answers": ["2"]}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ROW + b"\n" + ROW[:20], r"line 2: no JSON .*The line has no end, so the file may be cut"),
        (ROW + b"\n\n" + ROW[:20] + b"\n" + ROW, r"line 3: no JSON \("),
        (ROW + b"\n\xff\xfe\n", "line 2: no JSON .*can't decode byte 0xff"),
        (ROW.decode().encode("utf-16"), "line 1: UTF-16, by its byte order mark"),
        (codecs.BOM_UTF32_LE + b"x", "line 1: UTF-32, by its byte order mark"),
        (b"[" + ROW + b"]", "line 1: list .*, expected one object a line"),
        (ROW + b'\n"a"\n', "line 2: str .*, expected one object a line"),
        (b"[" * 100_000, "line 1: no JSON"),
        (b'{"problem": "a", "answers": [' + b"9" * 5000 + b"]}", "line 1: no JSON .*digits"),
        (b'{"problem": "\\ud800", "answers": ["1"]}', "line 1: the problem holds half a surrogate"),
        (
            b'{"problem": "a", "answers": ["%s"]}' % (b"x" * 5000),
            r"line 1: .* no gold can be read.* ends in \\boxed\{\} or ####",
        ),
    ],
)
def test_damaged_files_name_file_and_line(data, message, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"own\.jsonl, {message}"):
        load_problem_set(str(path))


@pytest.mark.parametrize("kept", [0, 10, 200, -1])
def test_a_torn_parquet_file_is_named(kept, tmp_path):
    path = tmp_path / "own.parquet"
    datasets.Dataset.from_list([{"problem": "a", "answers": ["1"]}]).to_parquet(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"own\.parquet: cannot be read as Parquet .*cut off"):
        load_problem_set(str(path))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.parquet"):
        load_problem_set(str(tmp_path / "nowhere.parquet"))


def test_byte_order_marks_and_windows_line_ends_are_read(tmp_path):
    """Also where two such files were joined."""
    path = tmp_path / "own.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + ROW + b"\r\n" + codecs.BOM_UTF8 + ROW + b"\r\n")
    assert load_problem_set(str(path)).problems == (Problem("1+1=?", ("2",)),) * 2


@pytest.mark.parametrize(
    ("gold", "shown"),
    [
        ("NaN", r"nan of type float"),
        ("Infinity", r"inf of type float"),
        ("-1e999", r"-inf of type float"),
        ("true", r"True of type bool"),
        ('{"value": 2}', r"\{'value': 2\} of type dict"),
        ("[2, false]", r"False of type bool"),
        ("[[2]]", r"\[2\] of type list"),
        ('["2", {"a": 1}]', r"\{'a': 1\} of type dict"),
    ],
)
@pytest.mark.parametrize("spec", ["{}", "aime24={}"])
def test_golds_that_are_none_name_file_and_line(gold, shown, spec, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(f'{ROW.decode()}\n{{"problem": "a", "answers": {gold}}}\n')
    message = rf"own\.jsonl, line 2: an answer is {shown}, expected a text or a finite number"
    with pytest.raises(ValueError, match=message):
        load_problem_set(spec.format(path))


def test_golds_that_are_none_in_parquet_and_on_the_hub(hub, tmp_path):
    path = tmp_path / "own.parquet"
    datasets.Dataset.from_list([{"problem": "a", "answers": {"b": 1}}]).to_parquet(path)
    with pytest.raises(ValueError, match=r"own\.parquet, row 0: an answer is .* of type dict"):
        load_problem_set(str(path))
    hub.rows = [{"problem": f"p{i}", "answer": float("nan")} for i in range(30)]
    with pytest.raises(ValueError, match=r"HuggingFaceH4/aime_2024, row 0: an answer is nan"):
        load_problem_set("aime24")


@pytest.mark.parametrize(
    ("gold", "read"),
    [
        (2, "2"),
        (-3.0, "-3"),
        (0.5, "0.5"),
        (1e-7, "0.0000001"),
        (1e22, "1" + "0" * 22),
        (10**400, "1" + "0" * 400),
        (" x ", " x "),
    ],
)
def test_golds_that_are_numbers(gold, read, tmp_path):
    path = write_jsonl(tmp_path / "own.jsonl", [{"problem": "a", "answers": gold}])
    assert load_problem_set(str(path)).problems[0].answers == (read,)


def test_golds_that_are_decimals(tmp_path):
    path = tmp_path / "own.parquet"
    golds = pyarrow.array([Decimal("1.50"), Decimal("2.00")])
    pyarrow.parquet.write_table(pyarrow.table({"problem": ["a", "b"], "answers": golds}), path)
    assert [one.answers for one in load_problem_set(str(path)).problems] == [("1.50",), ("2",)]


def test_two_sets_of_one_name_are_refused_and_both_are_named(tmp_path):
    for folder in ("easy", "hard"):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "test.jsonl", [{"problem": "a", "answers": ["1"]}])
    paths = [str(tmp_path / folder / "test.jsonl") for folder in ("easy", "hard")]
    loaded = [load_problem_set(path) for path in paths]
    check_names(loaded[:1])
    with pytest.raises(ValueError, match=r"easy/test\.jsonl and .*hard/test\.jsonl .* folder test"):
        check_names(loaded)


@pytest.mark.parametrize("name", ["..jsonl", "...jsonl"])
def test_a_name_that_is_no_folder_is_refused(name, tmp_path):
    write_jsonl(tmp_path / name, [{"problem": "a", "answers": ["1"]}])
    with pytest.raises(ValueError, match="is unknown"):
        load_problem_set(str(tmp_path / name))


def test_other_columns(tmp_path):
    """Of a file that was made for training; reward functions get the columns as it has them."""
    rows = [
        {"prompt": "a\n", "solution": "so $2$ #### 3", "level": 1},
        {"prompt": "b", "solution": 4},
    ]
    path = str(write_jsonl(tmp_path / "own.jsonl", rows))
    loaded = load_problem_set(path, prompt_column="prompt", answer_column="solution")
    assert loaded.problems == (Problem("a\n", ("so $2$ #### 3",)), Problem("b", ("4",)))
    assert loaded.problems[0].columns == {
        "solution": "so $2$ #### 3",
        "level": 1,
        "answers": ["3"],
    }
    with pytest.raises(
        ValueError, match="no column answers, problem; it has prompt, solution, level"
    ):
        load_problem_set(path)


def test_golds_may_be_missing_where_nothing_needs_them(tmp_path):
    rows = [{"problem": "a", "target": 1}, {"problem": "b", "answers": None}]
    path = str(write_jsonl(tmp_path / "own.jsonl", rows))
    loaded = load_problem_set(path, need_answers=False)
    assert [one.answers for one in loaded.problems] == [(), ()]
    with pytest.raises(ValueError, match="line 1: no column answers"):
        load_problem_set(path)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ([], r"line 1: problem \[\], expected at least one message"),
        (["a"], "line 1: .* a list of messages, each with role and content"),
        ([{"role": "user"}], "line 1: .* a list of messages, each with role and content"),
        ([{"role": "user", "content": [{"type": "image"}]}], "that are texts"),
        ([{"role": "user", "content": "\ud800"}], "half a surrogate pair"),
    ],
)
def test_messages_that_are_none(problem, message, tmp_path):
    path = write_jsonl(tmp_path / "own.jsonl", [{"problem": problem, "answers": ["1"]}])
    with pytest.raises(ValueError, match=message):
        load_problem_set(str(path))


def test_texts_and_messages_together_are_refused(tmp_path):
    rows = [{"problem": "a", "answers": ["1"]}]
    rows.append({"problem": [{"role": "user", "content": "a"}], "answers": ["1"]})
    with pytest.raises(ValueError, match="some problems are texts and some are messages"):
        load_problem_set(str(write_jsonl(tmp_path / "own.jsonl", rows)))


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
