"""Milliseconds, bytes, and medians with intervals, on the CPU and on a CUDA device."""

from __future__ import annotations

import itertools
import math
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def seconds(function: Callable[[], Any]) -> float:
    """Of one call, to the end of what it set going on an accelerator."""
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def busy_seconds(function: Callable[[], Any]) -> float:
    """Of one call: on a CUDA device by its events, else those that this process computed.

    The latter do not count who else waits for the CPU; with more than one thread they are the
    seconds of all.
    """
    return seconds_by(CudaClock() if on_cuda() else Clock(time.process_time), function)


def on_cuda() -> bool:
    """Whether training steps run on a CUDA device."""
    return torch.cuda.is_available()


@dataclass(frozen=True)
class Clock:
    """Seconds between two marks, read from a clock of this process."""

    mark: Callable[[], float] = time.perf_counter

    def between(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """Seconds between two marks in the current stream of a CUDA device, by its own clock.

    A mark is an event that is put into the stream: it waits for nothing, so marks inside a step do
    not slow it down. What the device waits for the host between two marks counts.
    """

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Waits until the device has reached `end`."""
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def step_clock() -> Clock | CudaClock:
    """For training steps: events where they run on a CUDA device, else the wall clock."""
    return CudaClock() if on_cuda() else Clock()


def seconds_by(clock: Clock | CudaClock, function: Callable[[], Any]) -> float:
    """Of one call; what the device has yet to do from before is waited for, and not counted."""
    if on_cuda():
        torch.cuda.synchronize()
    start = clock.mark()
    function()
    return clock.between(start, clock.mark())


def cuda_peak(function: Callable[[], Any]) -> int:
    """Most bytes that PyTorch had allocated on the CUDA device in a call, above those before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before


def synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def milliseconds(function: Callable[[], Any], repeats: int) -> float:
    """Median over `repeats` calls, after one to warm up."""
    function()
    return 1e3 * statistics.median(seconds(function) for _ in range(repeats))


def megabytes(function: Callable[[], Any]) -> float:
    """Most bytes of tensors that a call has alive at once, in 10⁶."""
    with AllocatedBytes() as memory:
        function()
    return memory.peak / 1e6


class Median(NamedTuple):
    """A median and its interval; the true coverage is 95 % or a little more."""

    value: float
    low: float
    high: float


def median(values: Sequence[float]) -> Median:
    """With the interval between two order statistics, whatever the distribution.

    How many of n values lie under the true median is binomial(n, ½); the interval leaves out as
    many on either side as that allows with 2.5 % each. Fewer than six values: their range.
    """
    ordered, n = sorted(values), len(values)
    chances = itertools.accumulate(math.comb(n, i) / 2**n for i in range(n))
    outside = max(0, sum(chance <= 0.025 for chance in chances) - 1)
    return Median(statistics.median(ordered), ordered[outside], ordered[n - 1 - outside])


class AllocatedBytes(TorchDispatchMode):
    """Most bytes of tensors that were alive at once, made while this was on.

    What an operation needs inside, and gives back before it ends, is not seen.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {
            part.untyped_storage().data_ptr()
            for part in tree_leaves((args, kwargs))
            if isinstance(part, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if isinstance(part, torch.Tensor):
                self._count(part.untyped_storage(), known)
        return result

    def _count(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place in known or place in self._seen or not size:
            return  # a view, or written in place
        self._seen.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size
