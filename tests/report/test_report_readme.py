"""The README of the report: its commands, options and shades are those there are."""

import re
import shlex
from pathlib import Path

from made_log import write_log

from trl_lambda.report import write_report
from trl_lambda.report.__main__ import parser

FOLDER = Path(__file__).parents[2] / "trl_lambda" / "report"
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def test_every_command_is_one_that_the_parser_takes():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if "trl_lambda.report" in line]
    assert len(commands) == 3
    for command in commands:
        assert command[:3] == ["python", "-m", "trl_lambda.report"]
        assert parser().parse_args(command[3:]).run_dirs


def test_the_options_are_all_there_and_have_their_defaults():
    table = dict(re.findall(r"^\| `(--[\w-]+)` \| ([^|]*) \|", TEXT, re.M))
    actions = {a.option_strings[-1]: a for a in parser()._actions if a.option_strings}
    assert table.keys() == actions.keys() - {"--help"}
    assert float(table["--max-mb"]) == actions["--max-mb"].default


def test_the_shades_are_those_of_the_page():
    table = re.findall(r"^\| ([^|`]+) \| [^|]* \|[^|]*\| `\w+`[^|]*\|$", TEXT, re.M)
    script = (FOLDER / "static" / "record.js").read_text(encoding="utf-8")
    assert table == re.findall(r'key: "\w+", title: "([^"]+)"', script)


def test_the_python_runs(tmp_path, monkeypatch):
    write_log(tmp_path / "outputs" / "grpo_lambda", groups=1)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    scope = {"write_report": write_report}
    exec(code, scope)
    assert all(path.exists() for path in scope["paths"])
