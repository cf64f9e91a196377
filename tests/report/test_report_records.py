"""Reading a credit log: joined, whole where it can be, and clear about what is missing."""

import json
import random

import pytest
from made_log import group, write_lines, write_log, write_records

from trl_lambda.report import load_run


def read_log(run_dir):
    return run_dir / "credit_log"


def test_groups_come_in_order_with_their_updates(tmp_path):
    run = load_run(write_log(tmp_path / "run", groups=3, size=4))
    assert [made["id"] for made in run.groups] == ["10-0-0", "20-0-0", "30-0-0"]
    assert all(row["update"] for made in run.groups for row in made["completions"])
    assert run.name == "run"
    assert run.logs[0]["metrics"]["reward"] == pytest.approx(0.05, abs=0.2)
    assert (run.unreadable, run.dropped) == (0, {})


@pytest.mark.parametrize("torn", [b'{"kind": "group", "id": "9', "…".encode()[:2], b"\x00" * 20])
def test_a_line_torn_by_a_kill_is_left_out_and_counted(tmp_path, torn):
    run_dir = write_log(tmp_path / "run", groups=3)
    with (read_log(run_dir) / "records-00001.jsonl").open("ab") as file:
        file.write(torn)
    run = load_run(run_dir)
    assert len(run.groups) == 3
    assert run.unreadable == 1


def test_what_follows_a_torn_line_is_still_read(tmp_path):
    rng = random.Random(0)
    run_dir = write_log(tmp_path / "run", groups=1)
    path = read_log(run_dir) / "records-00001.jsonl"
    later = group("90-0-0", step=90, size=2, tokens=9, rng=rng)
    path.write_bytes(b'{"kind": "upd\n' + json.dumps(later).encode() + b"\n")
    run = load_run(run_dir)
    assert [made["id"] for made in run.groups] == ["10-0-0", "90-0-0"]
    assert run.unreadable == 1


def one_group(folder):
    """(the file of a log with one group of two, its three records)."""
    rng = random.Random(0)
    write_records(folder, [group("1-0-0", step=1, size=2, tokens=5, rng=rng)], rng=rng)
    path = read_log(folder) / "records-00000.jsonl"
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def test_the_first_update_counts_and_a_missing_one_is_none(tmp_path):
    path, (made, first, _) = one_group(tmp_path)
    second = {**first, "ratio": [9.0] * 5}
    of_a_dropped_group = {**first, "row": "0-0-0-0"}
    write_lines(path, [made, first, second, of_a_dropped_group])
    known, unknown = load_run(tmp_path).groups[0]["completions"]
    assert known["update"]["ratio"] == first["ratio"]
    assert unknown["update"] is None


def test_the_entropy_of_an_update_is_read_where_there_is_one(tmp_path):
    path, (made, first, second) = one_group(tmp_path)
    write_lines(path, [made, first | {"entropy": [0.5, 1.0, 0.0, None, 2.0]}, second])
    known, unknown = load_run(tmp_path).groups[0]["completions"]
    assert known["update"]["entropy"] == [0.5, 1.0, 0.0, None, 2.0]
    assert "entropy" not in unknown["update"]
    write_lines(path, [made, first | {"entropy": [0.5]}])
    with pytest.raises(ValueError, match="entropy must have one entry for each of the 5 tokens"):
        load_run(tmp_path)


def test_of_a_group_that_was_written_twice_the_later_one_stands(tmp_path):
    rng = random.Random(0)
    made = [group("1-0-0", step=1, size=2, tokens=5, rng=rng) for _ in range(2)]
    write_records(tmp_path, made, rng=rng)
    (read,) = load_run(tmp_path).groups
    assert read["completions"][0]["pieces"] == made[1]["completions"][0]["pieces"]


def test_what_json_cannot_say_is_none(tmp_path):
    run_dir = write_log(tmp_path / "run")
    path = read_log(run_dir) / "logs.jsonl"
    path.write_text('{"step": 1, "metrics": {"reward": NaN}}\n')
    assert load_run(run_dir).logs == [{"step": 1, "metrics": {"reward": None}}]


def test_a_folder_without_a_log_says_how_to_get_one(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected credit_log/meta\.json.*credit_log_steps=N"
    ):
        load_run(tmp_path)


def test_another_format_names_the_version_that_wrote_it(tmp_path):
    run_dir = write_log(tmp_path / "run")
    (read_log(run_dir) / "meta.json").write_text('{"format": 2, "versions": {"trl_lambda": "9"}}')
    with pytest.raises(ValueError, match=r"format 2, this version of trl_lambda reads 1.*'9'"):
        load_run(run_dir)


def test_lists_of_different_lengths_are_named_with_their_place(tmp_path):
    made = group("1-0-0", step=1, size=2, tokens=5, rng=random.Random(0))
    made["completions"][1]["weight"].pop()
    write_records(tmp_path, [made], rng=random.Random(0))
    place = r"records-00000\.jsonl, line 1: row 1-0-0-1: weight .* 5 tokens, got 4"
    with pytest.raises(ValueError, match=place):
        load_run(tmp_path)


def test_a_record_that_lacks_a_field_is_named_with_its_place(tmp_path):
    write_records(tmp_path, [], rng=random.Random(0))
    write_lines(read_log(tmp_path) / "records-00000.jsonl", [{"kind": "group", "id": "1"}])
    with pytest.raises(ValueError, match=r"line 1: a record lacks step, mode, prompt, completions"):
        load_run(tmp_path)
