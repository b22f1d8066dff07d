"""Scores of many files: measured by several processes, gathered in order, with a report on what was not scored."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice

import cv2

import interruption
from input_errors import InputError, shorten

SMALLEST_SHARE = 32  # tasks that are worth a process
CHUNK = 8  # tasks sent at once
WAITING = 4  # chunks for each process that may wait, done or to be done: results take memory
MOST_PROCESSES = 61  # what Windows can wait for


@dataclass
class FileReport:
    """Which files of one method were scored, by their stems, and which were not.

    `unusable`: stem → why, of files that are damaged or do not fit their truth; `resized`: scored, but of another size
    than their truth; `extra`: without truth, or not in the list.
    """

    scored: int = 0
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What is worth telling, one line each: counts, and the first names."""
        told = {
            "missing": self.missing,
            "unusable": list(self.unusable.values()),
            "resized to their truth": self.resized,
            "extra, not scored": self.extra,
        }
        return [f"{len(names)} {what}: {shorten(names)}" for what, names in told.items() if names]


def measure_all(measure: Callable, tasks: list, processes: int) -> Iterator:
    """Yields `measure(task)` of each task in order; an `InputError` of one is yielded in its place, and ends nothing.

    As many processes as are worth their start, at most `processes` (0: one for each core); one works in this process.
    `measure` and its tasks must be picklable.
    """
    processes = min(processes or _usable_cores(), len(tasks) // SMALLEST_SHARE, MOST_PROCESSES)
    if processes < 2:
        yield from (_measure_or_error(measure, task) for task in tasks)
        return
    # not forked from this process: a copy of OpenCV's threads hangs
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    pool = ProcessPoolExecutor(processes, context, initializer=_start_process, initargs=(measure,))
    chunks = (tasks[first : first + CHUNK] for first in range(0, len(tasks), CHUNK))
    waiting = deque(pool.submit(_measure_chunk, chunk) for chunk in islice(chunks, WAITING * processes))
    try:
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(_measure_chunk, chunk) for chunk in islice(chunks, 1))
    except BrokenProcessPool:
        raise InputError(
            f"one of {processes} processes that read files died, perhaps for want of memory: fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after a signal nobody waits for what is queued


def worst_first(images: dict, measure: str, count: int) -> list:
    """The `count` keys of the lowest `measure`, on average over methods; those where it is not defined come last.

    images: key → method → measure → score.
    """
    means = {}
    for key, methods in images.items():
        values = [scores[measure] for scores in methods.values() if scores[measure] == scores[measure]]
        means[key] = sum(values) / len(values) if values else float("inf")
    return sorted(means, key=means.get)[:count]


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _start_process(measure: Callable) -> None:
    interruption.serve_parent(signal.SIGINT)  # of SIGTERM it dies: the pool would wait for one that does not
    global _MEASURE
    _MEASURE = measure
    cv2.setNumThreads(1)  # the processes share the cores already


def _measure_chunk(tasks: list) -> list:
    return [_measure_or_error(_MEASURE, task) for task in tasks]


def _measure_or_error(measure: Callable, task):
    try:
        return measure(task)
    except InputError as error:
        return error
