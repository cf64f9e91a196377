"""The page as text: self-contained, under its limit, and closed against what completions say."""

import base64
import gzip
import json
import random
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_log import branched_group, group, resume_from, write_log, write_records

from trl_lambda.report import write_report
from trl_lambda.report.__main__ import main
from trl_lambda.report.page import embedded
from trl_lambda.report.selection import spread

pytest.importorskip("plotly")


def data_of(path):
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def group_of(path, index=0):
    packed = data_of(path)["groups"][index]["packed"]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@given(st.text(alphabet=st.characters(codec=None) | st.sampled_from("<!-/>&'\"\\\0\u2028\ud800")))
def test_embedded_text_is_ascii_without_a_tag_and_comes_back(text):
    written = embedded({"text": text})
    assert written.isascii()
    assert "<" not in written
    assert json.loads(written) == {"text": text}


def test_one_file_with_everything_in_it(tmp_path):
    (path,) = write_report(write_log(tmp_path / "run"))
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "run" / "credit_report.html"
    assert path.stat().st_size < 8e6
    assert not re.search(r"<(script|link|img)[^>]*\s(src|href)=", text)
    assert not re.search(r"@(policy|style|data|library|script)@", text)
    assert "default-src 'none'" in text


def test_the_same_log_gives_the_same_page(tmp_path):
    run_dir = write_log(tmp_path / "run")
    first, second = (write_report(run_dir, tmp_path / name)[0] for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


def test_numbers_reach_the_page_as_recorded(tmp_path):
    run_dir = write_log(tmp_path / "run", groups=1)
    line = (run_dir / "credit_log" / "records-00000.jsonl").read_text().splitlines()[0]
    recorded = json.loads(line)["completions"][0]
    (path,) = write_report(run_dir)
    shown = group_of(path)["completions"][0]
    assert shown["advantage"] == recorded["advantage"]
    assert shown["mask"] == 1  # a list of one and the same value
    assert shown["extra"] == recorded["extra"]


def test_parents_and_forks_reach_the_page_and_its_tree(tmp_path):
    rng = random.Random(0)
    made = branched_group("1-0", [(0, 0), (0, 4), (0, 9)], step=1, tokens=9, rng=rng)
    made["completions"][1]["ids"] = made["completions"][0]["ids"]  # sampled the same tokens anew
    write_records(tmp_path, [made, group("2-0", step=2, size=2, tokens=9, rng=rng)], rng=rng)
    (path,) = write_report(tmp_path)
    forked, independent = group_of(path, 0), group_of(path, 1)
    rows = forked["completions"]
    assert [(row["parent"], row["fork"]) for row in rows] == [(0, 0), (0, 4), (0, 9)]
    spans = [(branch["start"], branch["end"], branch["rows"]) for branch in forked["branches"]]
    assert spans == [(0, 4, [0, 1, 2]), (4, 9, [0, 2]), (4, 9, [1])]
    rows = independent["completions"]
    assert [(row["parent"], row["fork"]) for row in rows] == [(None, None)] * 2


def test_groups_that_do_not_fit_are_counted_and_the_rest_is_spread(tmp_path, capsys):
    run_dir = write_log(tmp_path / "run", groups=30, tokens=200)
    (path,) = write_report(run_dir, max_mb=3)
    data = data_of(path)
    assert path.stat().st_size < 3e6
    assert 2 < len(data["groups"]) < 30
    assert data["left_out"].startswith(f"{len(data['groups'])} of 30 recorded groups")
    assert data["left_out"] in capsys.readouterr().err
    assert {data["groups"][0]["step"], data["groups"][-1]["step"]} == {10, 300}


def test_a_limit_below_the_library_says_what_it_takes(tmp_path):
    with pytest.raises(ValueError, match=r"1000000 bytes are too few.*Raise --max-mb"):
        write_report(write_log(tmp_path / "run"), max_mb=1)


def test_what_was_left_out_of_a_log_is_counted(tmp_path):
    """A run that was killed, resumed from step 20, and trained steps 20 and 30 again."""
    run_dir = write_log(tmp_path / "run", groups=3, size=8, steps=30)
    resume_from(run_dir, 20)
    (about,) = data_of(write_report(run_dir)[0])["runs"]
    # Groups of steps 20 and 30, the updates of their 8 rows, and the logs of steps 21 to 30.
    assert (about["superseded"], about["unreadable"]) == (2 * (1 + 8) + 10, 0)


def test_a_log_without_groups_still_shows_the_run(tmp_path):
    (path,) = write_report(write_log(tmp_path / "run", groups=0))
    data = data_of(path)
    assert data["groups"] == []
    assert data["charts"]


def test_a_placeholder_in_a_completion_stays_text(tmp_path):
    rng = random.Random(0)
    made = group("1-0-0", step=1, size=2, tokens=6, rng=rng)
    made["completions"][0]["pieces"][0] = "@script@@data@"
    write_records(tmp_path, [made], rng=rng)
    (path,) = write_report(tmp_path)
    assert group_of(path)["completions"][0]["pieces"][0] == "@script@@data@"


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(0, 100))
def test_spread_stays_in_its_budget(sizes, budget):
    chosen = spread(sizes, budget)
    assert sum(sizes[index] for index in chosen) <= budget
    assert chosen == sorted(set(chosen))
    if sum(sizes) <= budget:
        assert chosen == list(range(len(sizes)))


def test_spread_takes_the_ends_and_the_middle():
    assert spread([1] * 9, 3) == [0, 4, 8]


def test_the_command_prints_its_files(tmp_path, capsys):
    run_dirs = [str(write_log(tmp_path / f"seed-{seed}", seed=seed)) for seed in (1, 2)]
    assert main([*run_dirs, "--output", str(tmp_path / "both.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'both.html'}\n"
    assert data_of(tmp_path / "both.html")["lines"] == ["seed-1 (2 seeds)"]


def test_the_command_says_what_is_missing(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no credit log in" in capsys.readouterr().err


@pytest.mark.slow
def test_the_module_has_help():
    command = [sys.executable, "-m", "trl_lambda.report", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "RUN_DIR" in said
    assert "examples:" in said
