"""Worker processes that can be killed, and the pool that hands gradings to them.

A grading that overruns its timeout is ended by the kernel, whatever its interpreter is doing, and
its worker is replaced; the other gradings do not notice. The timeout counts processor time, so the
verdict does not depend on what else the machine is doing. POSIX only (`setitimer`, `pass_fds`).
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing.connection import Pipe
from queue import Empty, LifoQueue
from typing import Self, TypeAlias

from trl_lambda.rewards.limits import MISSING_PACKAGE, wall_seconds
from trl_lambda.rewards.verdict import Reason

# The golds and the answer, both bare.
Task: TypeAlias = tuple[tuple[str, ...], str]

WORKERS_VARIABLE = "TRL_LAMBDA_REWARD_WORKERS"

# Gradings per message: a round trip costs about a tenth of a grading.
CHUNK_SIZE = 16

# A start takes half a second of processor time; a busy machine may need longer, but not for ever.
START_SECONDS = 600.0

# Should the kernel's timers not end an overrun, the parent does, this much later.
GRACE_SECONDS = 5.0

# How a worker ends whose grading overran its timeout.
_TIMED_OUT = {-signal.SIGPROF, -signal.SIGALRM}


class WorkerLost(Exception):
    """A grading process ended, by overrunning its timeout or otherwise.

    Attributes:
        code: Its exit code, negative for a signal; `None` where it was silent and was ended.
    """

    def __init__(self, message: str, *, code: int | None) -> None:
        super().__init__(message)
        self.code = code

    @property
    def timed_out(self) -> bool:
        """Whether the grading took too long."""
        return self.code is None or self.code in _TIMED_OUT

    @property
    def killed(self) -> bool:
        """Whether a signal from outside ended the process."""
        return self.code is not None and self.code < 0 and not self.timed_out


class Worker:
    """One grading process; used by one thread at a time, but for `kill`."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        # Control-C goes to the whole process group, and must not end a worker that is starting.
        # The child inherits the mask of this thread, which has no use for the signal itself.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            with theirs:
                self._process = subprocess.Popen(
                    # -P: a file in the working directory must not shadow a library.
                    [sys.executable, "-P", "-m", "trl_lambda.rewards.worker", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=os.environ
                    | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def wait_until_ready(self) -> None:
        """Blocks until the process has its imports; raises `WorkerLost` if it ended or hung."""
        self._receive(START_SECONDS)

    def judge(self, tasks: Sequence[Task], timeout: float) -> Iterator[Reason]:
        """Yields the reasons in order; raises `WorkerLost` in place of the one that ended it."""
        try:
            self._connection.send((tasks, timeout))
        except OSError as error:
            raise self._lost() from error
        for _ in tasks:
            yield self._receive(wall_seconds(timeout) + GRACE_SECONDS)

    def end(self) -> int:
        """Ends the process, if it has not ended, and returns its exit code."""
        self._connection.close()
        try:
            # An idle one sees its connection close and is gone at once.
            return self._process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """Kills the process; may be called from any thread, and whoever waits for it is told."""
        self._process.kill()

    def _receive(self, seconds: float) -> Reason:
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        self.end()
        raise WorkerLost(f"a grading process was silent for {seconds:g} s", code=None)

    def _lost(self) -> WorkerLost:
        code = self.end()
        how = f"with exit code {code}" if code >= 0 else f"by {_signal_name(-code)}"
        return WorkerLost(f"a grading process ended {how}", code=code)


def _signal_name(number: int) -> str:
    named = number in set(signal.Signals)
    return signal.Signals(number).name if named else f"signal {number}"


class Interrupted(Exception):
    """The call that a thread was grading for has been given up."""


class _Call:
    """One call of `judge_many`: the workers that are busy for it, so that it can be given up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: set[Worker] = set()
        self._given_up = False

    def begin(self, worker: Worker) -> None:
        """Notes a worker as busy."""
        with self._lock:
            if not self._given_up:
                self._busy.add(worker)
                return
        worker.kill()
        worker.end()
        raise Interrupted

    def end(self, worker: Worker) -> None:
        """Notes that a worker is not busy any more."""
        with self._lock:
            self._busy.discard(worker)
            if not self._given_up:
                return
        worker.end()
        raise Interrupted

    def give_up(self) -> None:
        """Kills the busy workers, which ends the threads that wait for them."""
        with self._lock:
            self._given_up = True
            for worker in self._busy:
                worker.kill()


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

        An exception in the calling thread, such as `KeyboardInterrupt`, ends the gradings at once.

        Args:
            tasks: Golds and answer, bare.
            timeout: Seconds of processor time that one task may take.

        Raises:
            RuntimeError: The workers cannot start.
        """
        size = max(1, min(CHUNK_SIZE, -(-len(tasks) // self.num_workers)))
        chunks = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        call = _Call()
        try:
            judged = self._threads.map(partial(self._judge_chunk, call, timeout), chunks)
            return list(chain.from_iterable(judged))
        except BaseException:
            call.give_up()
            raise

    def close(self) -> None:
        """Waits for gradings under way and ends the workers."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().end()

    def _judge_chunk(self, call: _Call, timeout: float, tasks: Sequence[Task]) -> list[Reason]:
        reasons: list[Reason] = []
        crashed = False
        while len(reasons) < len(tasks):
            worker = self._take_worker(call)
            try:
                for reason in worker.judge(tasks[len(reasons) :], timeout):
                    reasons.append(reason)
                    crashed = False
            except WorkerLost as lost:
                call.end(worker)
                if lost.timed_out:
                    reasons.append("timeout")
                elif crashed:
                    # Twice in a row is the text's doing: it broke the parser.
                    reasons.append("unparseable_answer")
                # Once may be chance, such as the system's memory running out.
                crashed = not (lost.timed_out or crashed)
            else:
                call.end(worker)
                self._idle.put(worker)
        return reasons

    def _take_worker(self, call: _Call) -> Worker:
        try:
            worker = self._idle.get_nowait()
        except Empty:
            return _start_worker(call)
        call.begin(worker)
        return worker


def _start_worker(call: _Call) -> Worker:
    """Starts a worker, and once more if something killed it meanwhile.

    Raises:
        RuntimeError: It ended or hung, or was killed again; its own error is on stderr.
    """
    lost: WorkerLost | None = None
    for _ in range(2):
        worker = Worker()
        call.begin(worker)
        try:
            worker.wait_until_ready()
        except WorkerLost as error:
            call.end(worker)
            lost = error
        else:
            return worker
        if not lost.killed:
            break
    raise RuntimeError(f"math grading: {lost} before it could grade{_advice(lost)}") from lost


def _advice(lost: WorkerLost) -> str:
    if lost.killed:
        return (
            ", twice. The system ends processes so when its memory runs out: free some, or set "
            f"{WORKERS_VARIABLE} to fewer workers."
        )
    if lost.code == MISSING_PACKAGE:
        return (
            ": a package is missing, as printed above. "
            "`pip install 'math-verify[antlr4_13_2]>=0.9'` brings what grading needs."
        )
    return ". Its error, if it had time for one, is printed above."


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
