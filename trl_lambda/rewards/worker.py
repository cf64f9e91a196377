"""The grading process: `python -m trl_lambda.rewards.worker DESCRIPTOR`.

It is a program of its own and not a `multiprocessing` child, because those run the training
script's top level again: that would import torch into every worker, and would need an
`if __name__ == "__main__"` in every script. It receives `(tasks, timeout)` and sends one reason a
task.
"""

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from trl_lambda.rewards.limits import MISSING_PACKAGE, wall_seconds
from trl_lambda.rewards.verdict import Reason

# A power tower can fill a machine's memory within its timeout. Beyond this the parser gets a
# MemoryError, which reads as "cannot be parsed".
MEMORY_LIMIT_BYTES = 2 * 1024**3

# Parsing leaves about half a kilobyte behind, so a worker makes room long before the limit. The
# pool takes the next grading to a new one.
GRADINGS_PER_WORKER = 100_000

# How often an idle worker looks whether its parent is still there. The closed connection tells it
# at once, unless a process that the parent forked holds the other end too.
PARENT_CHECK_SECONDS = 5.0

# The kernel's timers, and how a worker whose time is up ends: of processor time, and of the clock.
TIMERS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}

Judge = Callable[[tuple[str, ...], str], Reason]


def main(descriptor: int) -> None:
    """Serves gradings until the parent closes the connection or is gone."""
    # Control-C goes to the whole process group; the parent decides what ends. It has blocked the
    # signal until here, lest it end a worker that is starting.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The kernel ends an overrun, and no handler runs: the interpreter may be held. It works
    # without the parent too, so a killed parent leaves no hanging worker. A parent may have blocked
    # or ignored the signals, and both are inherited.
    for ending in TIMERS.values():
        signal.signal(ending, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, *TIMERS.values()])
    if sys.platform == "linux":  # Elsewhere the limit is refused or not kept.
        _limit_memory()
    with Connection(descriptor) as connection:
        serve(connection, _load_judge())


def _load_judge() -> Judge:
    try:
        from trl_lambda.rewards.verification import judge
    except ImportError:
        traceback.print_exc()
        sys.exit(MISSING_PACKAGE)
    return judge


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def serve(connection: Connection, judge: Judge) -> None:
    """Answers requests until the connection ends or the worker has done its share."""
    parent = os.getppid()
    graded = 0
    # A cold parser takes many times as long; no answer's timeout shall pay for that.
    judge((r"\frac{1}{2}, x",), r"\sqrt{2}")
    connection.send("ready")
    while graded < GRADINGS_PER_WORKER:
        while not connection.poll(PARENT_CHECK_SECONDS):
            if os.getppid() != parent:
                return
        try:
            tasks, timeout = connection.recv()
            for golds, answer in tasks:
                connection.send(_judge_in_time(judge, golds, answer, timeout))
            graded += len(tasks)
        except (EOFError, ConnectionError):
            return


def _judge_in_time(judge: Judge, golds: tuple[str, ...], answer: str, timeout: float) -> Reason:
    """Judges, or ends this process: at the timeout, in seconds of processor time."""
    signal.setitimer(signal.ITIMER_PROF, timeout)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds(timeout))
    reason = judge(golds, answer)
    for timer in TIMERS:
        signal.setitimer(timer, 0)
    return reason


if __name__ == "__main__":
    main(int(sys.argv[1]))
