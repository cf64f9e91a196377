"""Warnings and progress bars, in a terminal as a user has it."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from tqdm import tqdm

from trl_lambda.console import get_logger

TRAINING = Path(__file__).parent / "health" / "warn_beside_bar.py"


def in_terminal(*command: str) -> str:
    """What a program writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, 100))
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment["TRL_EXPERIMENTAL_SILENCE"] = "1"
    with subprocess.Popen(
        [sys.executable, *command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:  # the terminal's other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0, written.decode(errors="replace")[-3000:]
    return written.decode(errors="replace")


def screen(written: str) -> list[str]:
    """The lines as they stand in the end: a carriage return goes back to the line's start."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        shown: list[str] = []
        for part in line.split("\r"):
            shown[: len(part)] = part
        lines.append("".join(shown).rstrip())
    return lines


@pytest.mark.slow
def test_a_warning_while_training_has_lines_of_its_own(tmp_path):
    lines = screen(in_terminal(str(TRAINING), str(tmp_path)))
    (warning,) = [line for line in lines if "completions/clipped_ratio was 1.0" in line]
    assert warning.startswith(
        "completions/clipped_ratio was 1.0 for 5 steps in a row, up to step 5"
    )
    assert warning.endswith("eos_token.")
    assert any("8/8" in line for line in lines)  # the bar was there, and went on


BARS = """
import logging, sys
import pytest
from tqdm import tqdm
from trl_lambda.console import get_logger

logger = get_logger("trl_lambda.test")

def show(how):
    bar = tqdm(total=2, desc=how)
    bar.update()
    logger.warning("told %s", how)
    bar.update()
    bar.close()

show("by the last resort")  # of a program that sets up no logging
logging.basicConfig()
show("by a handler")
logging.basicConfig(stream=sys.stdout, force=True)
show("to stdout")
"""


def test_messages_and_bars_stand_apart():
    lines = screen(in_terminal("-c", BARS))
    prefix = "WARNING:trl_lambda.test:"
    assert [line for line in lines if "told" in line] == [
        "told by the last resort",
        f"{prefix}told by a handler",
        f"{prefix}told to stdout",
    ]
    bars = [line.split(":")[0] for line in lines if "2/2" in line]
    assert bars == ["by the last resort", "by a handler", "to stdout"]


def test_a_message_that_is_not_wanted_does_not_touch_the_bar(monkeypatch):
    monkeypatch.setattr(tqdm, "external_write_mode", None)
    logger = get_logger("trl_lambda.test")
    logger.debug("nothing")
    assert not logger.isEnabledFor(logging.DEBUG)


def test_a_message_names_the_line_that_wrote_it(caplog):
    get_logger("trl_lambda.test").warning("here")
    assert caplog.records[0].funcName == "test_a_message_names_the_line_that_wrote_it"


def test_other_processes_are_silent_unless_asked(monkeypatch, caplog):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    logger = get_logger("trl_lambda.test")
    logger.warning("of the main process")
    logger.warning("of any", main_process_only=False)
    assert [record.getMessage() for record in caplog.records] == ["of any"]
