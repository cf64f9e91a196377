"""Many runs on a few cores: kept as they end, never done twice, none lost but the ones under way.

Each finished run is one line of `runs.jsonl`, under a key made of its settings and the versions of
packages: others are other runs. The code itself is not in it. A line is written whole, with one
call; the end of a line that a kill cut off is skipped when the file is read.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import cache, partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm

from trl_lambda.versions import TRAINING, installed_versions

from ..quiet import silence
from .methods import METHODS
from .tasks import TASKS
from .training import ADAM_BETA2, WARM_UP, Run, train
from .warm_start import fingerprint, warm_start, warm_start_folder, warm_start_settings

Record = dict[str, Any]
# Runs are frozen dataclasses: this benchmark's, or another's that keeps its runs in the same way.
Key = Callable[[Any], str]
Work = Callable[[Any], Record]


@cache
def versions() -> dict[str, str | None]:
    return installed_versions(*TRAINING, "numpy")


def key(run: Run) -> str:
    """Of all settings and versions that decide the numbers of a run; not of the code."""
    task, method = TASKS[run.task], METHODS[run.method]
    return fingerprint(
        {
            "run": asdict(run),
            "task": task.settings(),
            "start": warm_start_settings(task),
            "trainer": method.trainer,
            "settings": method.told,
            "group_share": method.group_share,
            "steps_share": method.steps_share,
            "warm_up": WARM_UP,
            "adam_beta2": ADAM_BETA2,
            "versions": versions(),
        }
    )


class Store:
    """Finished runs on disk; read once, then appended to.

    Args:
        key: of a run, under which its record is found again.
    """

    def __init__(self, path: Path, key: Key = key):
        self.path, self.key = path, key
        self.records: dict[str, Record] = {}
        for record in read_lines(path):
            self.records[record["key"]] = record

    def finished(self, run: Run) -> Record | None:
        """The run's record, if it ended well."""
        record = self.any(run)
        return None if record is None or "error" in record else record

    def any(self, run: Run) -> Record | None:
        """The run's record, also that of a failure."""
        return self.records.get(self.key(run))

    def add(self, record: Record) -> None:
        self.records[record["key"]] = record
        append_line(self.path, record)


def read_lines(path: Path) -> list[Record]:
    """All whole lines; what a kill cut off is no line."""
    if not path.exists():
        return []
    records = []
    # Bytes: a character may be cut in two, and lines of text end at more than a newline.
    for line in filter(None, path.read_bytes().split(b"\n")):
        try:
            records.append(json.loads(line))
        except ValueError:
            print(f"{path}: a line that was cut off is skipped; its run will be done again.")
    return records


def append_line(path: Path, record: Record) -> None:
    """One call of write, after a newline where the last line was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        torn = size and os.pread(file.fileno(), 1, size - 1) != b"\n"
        # Half a surrogate, as names of files may have, is no UTF-8; escaped it is valid JSON.
        line = json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace")
        file.write(b"\n" * bool(torn) + line + b"\n")
        os.fsync(file.fileno())


def perform(run: Any, key: Key, work: Work) -> Record:
    """In a worker: the run's record, with `error` where it failed."""
    record: Record = {"key": key(run), **asdict(run)}
    try:
        return record | work(run)
    except Exception:
        return record | {"error": traceback.format_exc(limit=-8)}


class Lane(threading.Thread):
    """A worker process, and the thread that feeds it; a worker that dies is replaced.

    It gives records, then None. What is no fault of a run, as SystemExit in a worker, it gives
    before that, and begins no further run.

    Args:
        key, work: what a worker calls; both are pickled.
    """

    def __init__(self, todo: Queue, done: Queue, key: Key, work: Work, deadline: float):
        super().__init__(daemon=True)
        self.todo, self.done, self.key, self.work = todo, done, key, work
        self.deadline = deadline

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # threading would swallow SystemExit
            self.done.put(error)
        finally:
            self.done.put(None)

    def _work(self) -> None:
        worker = new_worker()
        while time.monotonic() < self.deadline:
            try:
                run = self.todo.get_nowait()
            except Empty:
                break
            try:
                record = worker.submit(perform, run, self.key, self.work).result()
            except BrokenProcessPool:
                record = {"key": self.key(run), **asdict(run), "error": "the worker process died"}
                worker = new_worker()
            self.done.put(record)
        worker.shutdown()


def new_worker() -> ProcessPoolExecutor:
    # spawn: a process forked from one that has used torch's threads may hang.
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=start_worker)


def start_worker() -> None:
    """One thread, nothing on the terminal but errors; ends with the process that started it."""
    silence()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker of a parent that was killed would wait for its next run for ever.
    parent_process().join()
    os._exit(1)


def make_warm_starts(tasks: Iterable[str], folder: Path, workers: int) -> None:
    """Those that are not there; minutes for the long one, so side by side."""
    missing = [task for task in tasks if not warm_start_folder(TASKS[task], folder).exists()]
    if not missing:
        return
    # The dear ones first: the last to end is waited for.
    missing.sort(key=lambda name: -TASKS[name].tokens)
    with ProcessPoolExecutor(
        min(workers, len(missing)), mp_context=get_context("spawn"), initializer=start_worker
    ) as pool:
        begun = [pool.submit(make_warm_start, name, folder) for name in missing]
        for one in tqdm(as_completed(begun), "warm starts", len(begun)):
            one.result()


def make_warm_start(task: str, folder: Path) -> None:
    warm_start(TASKS[task], folder)


def run_all(
    runs: Iterable[Run], store: Store, folder: Path, *, workers: int, deadline: float, name: str
) -> list[Run]:
    """Does what is not yet done, warm starts first; see `perform_all`."""
    runs = list(runs)
    warm_starts = folder / "warm_starts"
    missing = [run for run in runs if store.finished(run) is None]
    make_warm_starts({run.task for run in missing}, warm_starts, workers)
    work = partial(train, warm_starts=warm_starts)
    return perform_all(runs, store, work, workers=workers, deadline=deadline, name=name)


def perform_all(
    runs: Iterable[Any], store: Store, work: Work, *, workers: int, deadline: float, name: str
) -> list[Any]:
    """Does what is not yet done; returns what the deadline left undone.

    Runs that failed before are tried again.

    Args:
        work: from a run to what its record gets beside the run itself; it runs in a process of its
            own, so it must be a function of a module, or a `partial` of one.
        deadline: no run is begun after this time of `time.monotonic()`.

    Raises:
        BaseException: what ended a worker and is no failure of its run; see `collect`.
    """
    # The cheap and the dear ones mixed, as planned; each once.
    missing = [run for run in dict.fromkeys(runs) if store.finished(run) is None]
    if not missing:
        return []
    todo, done = Queue(), Queue()
    for run in missing:
        todo.put(run)
    lanes = [
        Lane(todo, done, store.key, work, deadline)
        for _ in range(max(1, min(workers, len(missing))))
    ]
    for lane in lanes:
        lane.start()
    with tqdm(total=len(missing), desc=name, unit="run", smoothing=0.02) as bar:
        collect(store, todo, done, len(lanes), bar)
    return [run for run in missing if store.any(run) is None]


def collect(store: Store, todo: Queue, done: Queue, open_lanes: int, bar: tqdm) -> None:
    """Keeps the lanes' records until the last lane has ended.

    Raises:
        BaseException: what a lane gave instead of a record. The runs that are under way in other
            lanes are waited for and kept; none is begun after it.
    """
    failed, error = 0, None
    while open_lanes:
        record = done.get()
        if record is None:
            open_lanes -= 1
        elif isinstance(record, BaseException):
            error = error or record
            _drain(todo)
            bar.write(f"No further run is begun: {error!r}")
        else:
            store.add(record)
            bar.update()
            if "error" in record:
                failed += 1
                bar.set_postfix(failed=failed)
                bar.write(f"{_name(record)}: {record['error'].strip()[-300:]}")
    if error is not None:
        raise error


def _drain(todo: Queue) -> None:
    try:
        while True:
            todo.get_nowait()
    except Empty:
        return


def _name(record: Record) -> str:
    return ", ".join(str(record[part]) for part in ("task", "method", "arm") if part in record)
