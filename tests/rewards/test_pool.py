"""Workers: killed when they overrun, replaced, and gone at the end."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Pipe
from pathlib import Path

import psutil
import pytest

import trl_lambda
from trl_lambda.rewards import GraderPool, grade_many
from trl_lambda.rewards import pool as pool_module
from trl_lambda.rewards import worker as worker_module
from trl_lambda.rewards.pool import Task, WorkerLost
from trl_lambda.rewards.verification import judge

ROOT = str(Path(trl_lambda.__file__).parents[1])
HANG = "9^{9^{9^{9}}}"
HALF: Task = (("0.5",), r"\frac12")
THIRD: Task = (("0.5",), r"\frac13")


def _workers() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "trl_lambda.rewards.worker" in child.cmdline()
    ]


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _run_script(tmp_path: Path, code: str) -> subprocess.CompletedProcess:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_hang_is_ended_and_leaves_the_others_alone() -> None:
    tasks = [HALF, THIRD] * 20
    tasks[7] = (("5",), HANG)
    expected = ["ok", "wrong"] * 20
    expected[7] = "timeout"
    with GraderPool(2) as pool:
        assert pool.judge_many(tasks, timeout=1.5) == expected
        assert pool.judge_many([HALF], timeout=10.0) == ["ok"]


def test_the_worker_that_hung_is_replaced_and_none_is_left() -> None:
    before = {worker.pid for worker in _workers()}
    with GraderPool(1) as pool:
        pool.judge_many([HALF], timeout=10.0)
        (first,) = (worker for worker in _workers() if worker.pid not in before)
        assert pool.judge_many([(("5",), HANG), HALF], timeout=1.0) == ["timeout", "ok"]
        (second,) = (worker for worker in _workers() if worker.pid not in before)
        assert second.pid != first.pid
        assert not first.is_running()
    assert {worker.pid for worker in _workers()} == before


def test_a_worker_killed_from_outside_is_replaced() -> None:
    before = {worker.pid for worker in _workers()}
    with GraderPool(1) as pool:
        pool.judge_many([HALF], timeout=10.0)
        (worker,) = (worker for worker in _workers() if worker.pid not in before)
        worker.kill()
        assert pool.judge_many([HALF, THIRD], timeout=10.0) == ["ok", "wrong"]


def test_a_text_that_breaks_its_worker_twice_is_unparseable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fragile:
        def kill(self) -> None: ...

        def wait_until_ready(self) -> None: ...

        def end(self) -> None: ...

        def judge(self, tasks, timeout):
            for _, answer in tasks:
                if answer == "breaks":
                    raise WorkerLost("exit code -11", code=-signal.SIGSEGV)
                yield "ok"

    monkeypatch.setattr(pool_module, "Worker", Fragile)
    tasks = [((), answer) for answer in ("a", "breaks", "b", "breaks", "breaks", "c")]
    broken = "unparseable_answer"
    with GraderPool(1) as pool:
        assert pool.judge_many(tasks, timeout=1.0) == ["ok", broken, "ok", broken, broken, "ok"]


def test_the_parent_ends_a_worker_whose_timers_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(pool_module, "wall_seconds", lambda timeout: timeout)
    before = {worker.pid for worker in _workers()}
    with GraderPool(1) as pool:
        pool.judge_many([HALF], timeout=60.0)
        (worker,) = (worker for worker in _workers() if worker.pid not in before)
        worker.suspend()
        assert pool.judge_many([HALF], timeout=0.5) == ["timeout"]
        assert not worker.is_running()


def test_a_worker_ends_when_it_has_done_its_share() -> None:
    ours, theirs = Pipe()
    with ours, theirs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "GRADINGS_PER_WORKER", 3)
        for tasks in ([HALF, THIRD], [HALF], [HALF]):
            ours.send((tasks, 30.0))
        worker_module.serve(theirs, judge)
        theirs.close()
        replies = [ours.recv() for _ in range(4)]
        assert replies == ["ready", "ok", "wrong", "ok"]
        with pytest.raises((EOFError, ConnectionError)):
            ours.recv()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit holds on Linux only")
def test_a_worker_may_not_fill_the_memory() -> None:
    before = {worker.pid for worker in _workers()}
    with GraderPool(1) as pool:
        pool.judge_many([HALF], timeout=10.0)
        (worker,) = (worker for worker in _workers() if worker.pid not in before)
        assert 0 < worker.rlimit(psutil.RLIMIT_AS)[0] <= worker_module.MEMORY_LIMIT_BYTES


def test_a_worker_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with GraderPool(1) as pool, pytest.raises(RuntimeError, match="exit code 1 before it could"):
        pool.judge_many([HALF], timeout=1.0)


def test_threads_share_a_pool(pool: GraderPool) -> None:
    results: dict[int, list] = {}

    def work(index: int) -> None:
        responses = [rf"\boxed{{\frac{{{n}}}{{7}}}}" for n in range(20)]
        golds = [f"{index}/7"] * 20
        results[index] = grade_many(responses, golds, timeout=10.0, pool=pool)

    threads = [threading.Thread(target=work, args=[index]) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(8):
        assert [grade.correct for grade in results[index]] == [n == index for n in range(20)]


def test_asyncio_goes_on_while_a_grading_hangs(pool: GraderPool) -> None:
    async def main() -> tuple[list, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        ticking = asyncio.create_task(tick())
        calls = (
            asyncio.to_thread(grade_many, [rf"\boxed{{{text}}}"], ["0.5"], timeout=1.0, pool=pool)
            for text in (HANG, r"\frac12", r"\frac13")
        )
        grades = await asyncio.gather(*calls)
        ticking.cancel()
        return [grade.reason for (grade,) in grades], ticks

    reasons, ticks = asyncio.run(main())
    assert reasons == ["timeout", "ok", "wrong"]
    assert ticks > 10


def test_a_coroutine_may_grade_directly() -> None:
    async def main() -> bool:
        return grade_many([r"\boxed{\frac12}"], ["0.5"])[0].correct

    assert asyncio.run(main())


def test_a_script_without_main_guard_runs_once_and_leaves_nothing(tmp_path: Path) -> None:
    done = _run_script(
        tmp_path,
        r"""
        import psutil
        print("top level")
        from trl_lambda.rewards import grade
        print(grade(r"\boxed{\frac12}", "0.5").reason)
        print(*(child.pid for child in psutil.Process().children()))
        """,
    )
    assert done.stderr == ""
    first, reason, pids = done.stdout.splitlines()
    assert (first, reason) == ("top level", "ok")
    assert pids.split()
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.split())


def test_a_killed_parent_leaves_no_worker_not_even_a_hanging_one(tmp_path: Path) -> None:
    done = _run_script(
        tmp_path,
        rf"""
        import os, signal, threading, time
        import psutil
        from trl_lambda.rewards import GraderPool
        pool = GraderPool(2)
        pool.judge_many([(("0.5",), r"\frac12")] * 2, timeout=10.0)
        hang = [(("5",), "{HANG}")]
        threading.Thread(target=pool.judge_many, args=(hang, 2.0), daemon=True).start()
        time.sleep(0.5)
        print(*(child.pid for child in psutil.Process().children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    assert _wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), seconds=10)


def test_a_forked_child_gets_workers_of_its_own(tmp_path: Path) -> None:
    done = _run_script(
        tmp_path,
        r"""
        import os
        from trl_lambda.rewards import grade
        assert grade(r"\boxed{\frac12}", "0.5").correct
        child = os.fork()
        assert grade(r"\boxed{\frac13}", "1/3").correct
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert grade(r"\boxed{\frac14}", "0.25").correct
            print("done")
        """,
    )
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("module", ["trl_lambda.rewards", "trl_lambda.rewards.worker"])
def test_importing_is_light(tmp_path: Path, module: str) -> None:
    done = _run_script(
        tmp_path,
        f"""
        import sys
        import {module}
        heavy = {{"torch", "transformers", "trl", "datasets", "numpy"}}
        print(sorted(heavy & set(sys.modules)))
        """,
    )
    assert done.stdout == "[]\n", done.stderr


def test_working_directory_modules_do_not_shadow_libraries(tmp_path: Path) -> None:
    (tmp_path / "sympy.py").write_text("raise ImportError('shadowed')")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with GraderPool(1) as pool:
            assert pool.judge_many([HALF], timeout=10.0) == ["ok"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 4),
        ({"LOCAL_WORLD_SIZE": "2"}, 2),
        ({"LOCAL_WORLD_SIZE": "8"}, 1),
        ({"LOCAL_WORLD_SIZE": "2", "TRL_LAMBDA_REWARD_WORKERS": "6"}, 6),
    ],
)
def test_the_cores_are_shared_by_the_ranks(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for name in ("LOCAL_WORLD_SIZE", "TRL_LAMBDA_REWARD_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert pool_module._default_num_workers() == expected


@pytest.mark.parametrize("value", ["0", "-1", "many", ""])
def test_a_senseless_number_of_workers_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TRL_LAMBDA_REWARD_WORKERS", value)
    with pytest.raises(ValueError, match=r"TRL_LAMBDA_REWARD_WORKERS is .*, expected a number"):
        pool_module._default_num_workers()
    with pytest.raises(ValueError, match="num_workers is 0, expected at least 1"):
        GraderPool(0)
