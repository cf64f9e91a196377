"""The file of samples: torn lines, damage, hostile texts, two processes."""

import subprocess
import sys
import warnings

import pytest
from record_samples import record

from trl_lambda.evaluation.records import RecordFile, read_records

HOSTILE = ["", "\ud800 lone", "\x00\u2028\u0085\r\n", "λ" * 3, "x" * 1_000_000, '"}\n{"']


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "records.jsonl"
    written = [record(0, i, completion=text, extracted=None) for i, text in enumerate(HOSTILE)]
    with RecordFile(path) as file:
        file.append(written[:3])
        file.append(written[3:])
    assert path.read_bytes().count(b"\n") == len(HOSTILE)
    assert read_records(path) == written
    with RecordFile(path) as file:
        assert list(file.records.values()) == written


def test_a_file_torn_at_any_byte(tmp_path):
    """Whole lines stay, the rest goes, and appending gives the file back."""
    path = tmp_path / "records.jsonl"
    written = [record(0, 0), record(0, 1, completion="é"), record(1, 0)]
    with RecordFile(path) as file:
        file.append(written)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with RecordFile(path) as file:
                left = list(file.records.values())
                file.append(written)
        assert left == written[: whole[:length].count(b"\n")]
        assert path.read_bytes() == whole
        torn = length - whole[:length].rfind(b"\n") - 1
        assert [f"{torn} bytes are dropped" in str(one.message) for one in caught] == [True] * (
            torn > 0
        )


def test_a_sample_is_never_there_twice(tmp_path):
    path = tmp_path / "records.jsonl"
    with RecordFile(path) as file:
        file.append([record(0, 0)])
        file.append([record(0, 0, completion="another"), record(0, 1)])
    assert [one.key for one in read_records(path)] == [(0, 0), (0, 1)]
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ValueError, match=r"line 3: problem 0, sample 0 is there twice"):
        read_records(path)


@pytest.mark.parametrize("damage", [b"{}\n", b"\n", b'{"a":\n', b"\x00\x00\n", b"[1]\n", b"\xff\n"])
def test_damage_inside_is_no_torn_line(damage, tmp_path):
    path = tmp_path / "records.jsonl"
    with RecordFile(path) as file:
        file.append([record(0, 0)])
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(ValueError, match="line 2: no record"):
        RecordFile(path)


def test_a_second_process_is_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    script = (
        "import sys; from pathlib import Path\n"
        "from trl_lambda.evaluation.records import RecordFile\n"
        "RecordFile(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(path)]
    with RecordFile(path):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "is in use by another evaluation" in refused.stderr
    assert subprocess.run(command, check=False).returncode == 0
