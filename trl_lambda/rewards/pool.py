"""Worker processes that can be killed, and the pool that hands gradings to them.

A grading that overruns its timeout is ended by the kernel, whatever its interpreter is doing, and
its worker is replaced; the other gradings do not notice. POSIX only (`setitimer`, `pass_fds`).
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from multiprocessing.connection import Pipe
from queue import Empty, LifoQueue
from typing import Self, TypeAlias

from trl_lambda.rewards.verdict import Reason

# The golds and the answer, both bare.
Task: TypeAlias = tuple[tuple[str, ...], str]

WORKERS_VARIABLE = "TRL_LAMBDA_REWARD_WORKERS"

# Gradings per message: a round trip costs about a tenth of a grading.
CHUNK_SIZE = 16

# A start takes half a second; a busy file system may need longer, but not for ever.
START_SECONDS = 120.0

# Should the kernel's alarm not end an overrun, the parent does, this much later.
GRACE_SECONDS = 5.0


class WorkerLost(Exception):
    """A grading process ended, by overrunning its timeout or otherwise."""

    def __init__(self, message: str, *, timed_out: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class Worker:
    """One grading process; used by one thread at a time."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                # -P: a file in the working directory must not shadow a library.
                [sys.executable, "-P", "-m", "trl_lambda.rewards.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            )

    def wait_until_ready(self) -> None:
        """Blocks until the process has its imports.

        Raises:
            RuntimeError: It ended or hung before; its traceback is on stderr.
        """
        try:
            self._receive(START_SECONDS)
        except WorkerLost as error:
            raise RuntimeError(
                f"math grading: {error} before it could grade. Its error is printed above; "
                "`pip install 'math-verify[antlr4_13_2]>=0.9'` brings what it needs."
            ) from error

    def judge(self, tasks: Sequence[Task], timeout: float) -> Iterator[Reason]:
        """Yields the reasons in order; raises `WorkerLost` in place of the one that ended it."""
        try:
            self._connection.send((tasks, timeout))
        except OSError as error:
            raise self._lost() from error
        for _ in tasks:
            yield self._receive(timeout + GRACE_SECONDS)

    def end(self) -> int:
        """Ends the process, if it has not ended, and returns its exit code."""
        self._connection.close()
        try:
            # An idle one sees its connection close and is gone at once.
            return self._process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _receive(self, seconds: float) -> Reason:
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        self.end()
        raise WorkerLost(f"a grading process was silent for {seconds:g} s", timed_out=True)

    def _lost(self) -> WorkerLost:
        code = self.end()
        timed_out = code == -signal.SIGALRM
        return WorkerLost(f"a grading process ended with exit code {code}", timed_out=timed_out)


class GraderPool:
    """Hands gradings to worker processes; may be called from any thread.

    Workers start when first needed. As a context manager it ends them on leaving.

    Args:
        num_workers: The most processes to run at a time.
    """

    def __init__(self, num_workers: int) -> None:
        if num_workers < 1:
            raise ValueError(f"GraderPool: num_workers is {num_workers}, expected at least 1.")
        self.num_workers = num_workers
        self._idle: LifoQueue[Worker] = LifoQueue()
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="trl-lambda-grading")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def judge_many(self, tasks: Sequence[Task], timeout: float) -> list[Reason]:
        """Returns one reason a task, in order.

        Args:
            tasks: Golds and answer, bare.
            timeout: Seconds one task may take.

        Raises:
            RuntimeError: The workers cannot start.
        """
        size = max(1, min(CHUNK_SIZE, -(-len(tasks) // self.num_workers)))
        chunks = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        judged = self._threads.map(lambda chunk: self._judge_chunk(chunk, timeout), chunks)
        return list(chain.from_iterable(judged))

    def close(self) -> None:
        """Waits for gradings under way and ends the workers."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().end()

    def _judge_chunk(self, tasks: Sequence[Task], timeout: float) -> list[Reason]:
        reasons: list[Reason] = []
        crashed = False
        while len(reasons) < len(tasks):
            worker = self._take_worker()
            try:
                for reason in worker.judge(tasks[len(reasons) :], timeout):
                    reasons.append(reason)
                    crashed = False
            except WorkerLost as lost:
                if lost.timed_out:
                    reasons.append("timeout")
                elif crashed:
                    # Twice in a row is the text's doing: it broke the parser.
                    reasons.append("unparseable_answer")
                # Once may be chance, such as the system's memory running out.
                crashed = not (lost.timed_out or crashed)
            else:
                self._idle.put(worker)
        return reasons

    def _take_worker(self) -> Worker:
        try:
            return self._idle.get_nowait()
        except Empty:
            worker = Worker()
            worker.wait_until_ready()
            return worker


_default: GraderPool | None = None
_default_lock = threading.Lock()


def default_pool() -> GraderPool:
    """Returns this process's pool, ended at exit."""
    global _default
    with _default_lock:
        if _default is None:
            _default = GraderPool(_default_num_workers())
            atexit.register(_close_default)
        return _default


def _default_num_workers() -> int:
    """The cores this process may use, shared with the other ranks on the machine; at most 8."""
    chosen = os.environ.get(WORKERS_VARIABLE)
    if chosen is None:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, min(8, cores // ranks))
    if not chosen.isdecimal() or int(chosen) < 1:
        raise ValueError(f"{WORKERS_VARIABLE} is {chosen!r}, expected a number of processes ≥ 1.")
    return int(chosen)


def _close_default() -> None:
    if _default is not None:
        _default.close()


def _forget_default() -> None:
    """A forked child has neither the pool's threads nor a claim on its workers."""
    global _default, _default_lock
    _default = None
    _default_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_default)
