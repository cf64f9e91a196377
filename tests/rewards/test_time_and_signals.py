"""Processor time, Control-C, and workers that are killed while they start.

No test here measures time: what must not happen would take ten minutes.
"""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import psutil
import pytest

import trl_lambda
from trl_lambda.rewards import GraderPool
from trl_lambda.rewards.limits import MISSING_PACKAGE, wall_seconds
from trl_lambda.rewards.pool import Task, Worker

ROOT = str(Path(trl_lambda.__file__).parents[1])
HALF: Task = (("0.5",), r"\frac12")
LONG = 600.0

# A worker's loop with a judge that sleeps, computes for a while, or for as long as it is let.
SERVING = """
import sys, time
from multiprocessing.connection import Connection
from trl_lambda.rewards import worker

def judge(golds, answer):
    if answer == "sleep":
        time.sleep(1.0)
    start = time.process_time()
    while answer == "compute" or (answer == "compute 0.3 s" and time.process_time() < start + 0.3):
        pass
    return "ok"

worker.wall_seconds = lambda timeout: float(sys.argv[2])
worker.serve(Connection(int(sys.argv[1])), judge)
"""

Start = Callable[[float], tuple[Connection, subprocess.Popen]]


@pytest.fixture
def serving() -> Iterator[Start]:
    """Starts such a loop with a wall limit."""
    started: list[tuple[Connection, subprocess.Popen]] = []

    def start(wall: float) -> tuple[Connection, subprocess.Popen]:
        ours, theirs = Pipe()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", SERVING, str(theirs.fileno()), str(wall)],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": ROOT},
            )
        started.append((ours, process))
        assert ours.recv() == "ready"
        return ours, process

    yield start
    for connection, process in started:
        process.kill()
        process.wait()
        connection.close()


def test_waiting_for_the_processor_is_not_charged(serving: Start) -> None:
    connection, _ = serving(LONG)
    connection.send(([((), "sleep")], 0.2))
    assert connection.recv() == "ok"


def test_processor_time_is_charged(serving: Start) -> None:
    connection, process = serving(LONG)
    connection.send(([((), "compute")], 0.2))
    assert process.wait() == -signal.SIGPROF
    with pytest.raises((EOFError, ConnectionError)):
        connection.recv()


def test_the_clock_is_the_last_resort(serving: Start) -> None:
    connection, process = serving(0.2)
    connection.send(([((), "sleep")], LONG))
    assert process.wait() == -signal.SIGALRM


def test_every_grading_has_its_own_time(serving: Start) -> None:
    connection, _ = serving(LONG)
    connection.send(([((), "compute 0.3 s")] * 3, 0.6))
    assert [connection.recv() for _ in range(3)] == ["ok"] * 3


def test_the_wall_limit_is_generous() -> None:
    assert wall_seconds(0.5) == 120
    assert wall_seconds(60.0) == 1200


def _script(tmp_path: Path, code: str) -> subprocess.Popen:
    script = tmp_path / "script.py"
    # Whoever starts the tests in the background may have told all its children to ignore Ctrl-C.
    listening = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script.write_text(listening + textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": ROOT, "TRL_LAMBDA_REWARD_WORKERS": "2"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def _computed(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


@pytest.mark.parametrize("to_group", [False, True])
def test_control_c_ends_a_grading(tmp_path: Path, to_group: bool) -> None:
    script = _script(
        tmp_path,
        r"""
        from trl_lambda.rewards import grade, grade_many
        assert grade(r"\boxed{\frac{3}{6}}", "0.5").correct
        print("started", flush=True)
        input()
        grade_many([r"\boxed{9^{9^{9^{%d}}}}" % n for n in range(9, 99)], ["5"] * 90, timeout=600)
        """,
    )
    assert script.stdout.readline() == "started\n"
    (worker,) = psutil.Process(script.pid).children()
    idle = _computed(worker)
    script.stdin.write("\n")
    script.stdin.flush()
    _wait_until(lambda: _computed(worker) > idle + 0.2)
    workers = psutil.Process(script.pid).children()
    (os.killpg if to_group else os.kill)(script.pid, signal.SIGINT)
    _, error = script.communicate(timeout=LONG / 10)
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert script.returncode == -signal.SIGINT
    assert psutil.wait_procs(workers, timeout=LONG / 10)[1] == []


def test_control_c_ends_a_start(tmp_path: Path) -> None:
    sleeper = _program(tmp_path, "exec sleep 600")
    script = _script(
        tmp_path,
        rf"""
        import sys
        from trl_lambda.rewards import grade
        sys.executable = {str(sleeper)!r}
        print("started", flush=True)
        grade(r"\boxed{{\frac{{3}}{{6}}}}", "0.5")
        """,
    )
    assert script.stdout.readline() == "started\n"
    _wait_until(lambda: bool(psutil.Process(script.pid).children()))
    script.send_signal(signal.SIGINT)
    _, error = script.communicate(timeout=LONG / 10)
    assert error.rstrip().endswith("KeyboardInterrupt")


def test_a_call_that_is_given_up_leaves_the_pool_usable() -> None:
    with GraderPool(2) as pool:

        class Stop(BaseException): ...

        def stop(*_: object) -> None:
            raise Stop

        previous = signal.signal(signal.SIGUSR1, stop)
        try:
            timer = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGUSR1])
            timer.start()
            with pytest.raises(Stop):
                pool.judge_many([(("5",), "9^{9^{9^{9}}}")] * 40, timeout=LONG)
        finally:
            signal.signal(signal.SIGUSR1, previous)
        assert pool.judge_many([HALF] * 4, timeout=LONG) == ["ok"] * 4


def test_control_c_does_not_end_a_worker_that_starts() -> None:
    worker = Worker()
    (process,) = (
        child
        for child in psutil.Process().children()
        if child.pid == worker._process.pid  # The pool has no need to name its processes.
    )
    process.send_signal(signal.SIGINT)
    try:
        worker.wait_until_ready()
        assert list(worker.judge([HALF], timeout=LONG)) == ["ok"]
    finally:
        worker.end()


def _program(tmp_path: Path, shell: str) -> Path:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{shell}\n")
    program.chmod(0o755)
    return program


def test_a_worker_killed_while_it_starts_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "count"
    killed_first = (
        f'[ -e {count} ] || {{ : > {count}; kill -KILL $$; }}; exec {sys.executable} "$@"'
    )
    monkeypatch.setattr(sys, "executable", str(_program(tmp_path, killed_first)))
    with GraderPool(1) as pool:
        assert pool.judge_many([HALF], timeout=LONG) == ["ok"]
    assert count.exists()


def test_a_second_kill_is_told_without_a_word_on_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "count"
    program = _program(tmp_path, f"echo >> {count}; kill -KILL $$")
    monkeypatch.setattr(sys, "executable", str(program))
    with GraderPool(1) as pool, pytest.raises(RuntimeError, match=r"SIGKILL .*, twice") as raised:
        pool.judge_many([HALF], timeout=LONG)
    assert "memory" in str(raised.value)
    assert "pip" not in str(raised.value)
    assert len(count.read_text().splitlines()) == 2


def test_another_error_is_told_without_a_word_on_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "count"
    monkeypatch.setattr(sys, "executable", str(_program(tmp_path, f"echo >> {count}; exit 1")))
    with GraderPool(1) as pool, pytest.raises(RuntimeError, match="exit code 1 before") as raised:
        pool.judge_many([HALF], timeout=LONG)
    assert "pip" not in str(raised.value)
    assert len(count.read_text().splitlines()) == 1


def test_a_missing_package_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latex2sympy2_extended.py").write_text("raise ImportError('not installed')")
    monkeypatch.syspath_prepend(tmp_path)
    with GraderPool(1) as pool, pytest.raises(RuntimeError, match="pip install 'math-verify"):
        pool.judge_many([HALF], timeout=LONG)
    assert "ImportError: not installed" in capfd.readouterr().err
    assert MISSING_PACKAGE not in (0, 1, 2)
