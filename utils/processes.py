"""Parallel work on many tasks in several processes of this machine, with results in order and few of them waiting."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice

import cv2

from formats.errors import InputError
from utils import interruption

MAX_WAITING_CHUNKS = 4  # per process, queued or done: results take memory
MAX_PROCESSES = 61  # Windows cannot wait for more
MIN_FILES_PER_PROCESS, MIN_CRFS_PER_PROCESS = 32, 50  # starting a process, which takes seconds, pays from here on
FILES_PER_CHUNK = 8


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def measure_all(measure: Callable, tasks: list, workers: int) -> Iterator:
    """Yield the results of `map_in_processes`, from at most `workers` (0: one per core), fewer for few tasks."""
    processes = _choose_num_processes(len(tasks), workers, MIN_FILES_PER_PROCESS)
    return map_in_processes(measure, tasks, processes, FILES_PER_CHUNK)


def do_in_processes(work: Callable, tasks: Iterable, num_tasks: int, workers: int, num_callers: int) -> None:
    """Run slow `work`, such as a CRF, on each of `num_tasks` tasks. Raises the first `InputError` of a task.

    `num_callers` processes on this machine call it at once; together they use at most `workers` (0: one per core).
    """
    share = max(1, (workers or usable_cores()) // num_callers)
    for outcome in map_in_processes(work, tasks, _choose_num_processes(num_tasks, share, MIN_CRFS_PER_PROCESS)):
        if isinstance(outcome, InputError):
            raise outcome


def map_in_processes(work: Callable, tasks: Iterable, processes: int, chunk: int = 1) -> Iterator:
    """Yield `work(task)` of each task in order; the `InputError` of a task is yielded in its place.

    With fewer than two processes, work is done in this one. Otherwise `work` and the tasks must be picklable; tasks
    are drawn as needed and sent `chunk` at a time, and each process uses one thread.
    """
    if processes < 2:
        yield from (_result_or_error(work, task) for task in tasks)
        return
    # not forked from this process: a copy of OpenCV's threads hangs
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(processes, context, initializer=_start_process, initargs=(work,))
    tasks = iter(tasks)
    chunks = iter(lambda: list(islice(tasks, chunk)), [])
    submit = partial(pool.submit, _work_on_chunk)
    try:
        waiting = deque(map(submit, islice(chunks, MAX_WAITING_CHUNKS * processes)))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(map(submit, islice(chunks, 1)))
    except BrokenProcessPool:
        died = f"one of {processes} processes that share the work died"
        raise InputError(f"{died}, perhaps for lack of memory: use fewer --workers") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after a signal nobody waits for queued work


def _choose_num_processes(num_tasks: int, most: int, min_tasks_each: int) -> int:
    return min(most or usable_cores(), num_tasks // min_tasks_each, MAX_PROCESSES)


def _start_process(work: Callable) -> None:
    global _WORK
    _WORK = work  # sent once, not with each chunk
    interruption.exit_with_parent(signal.SIGINT)  # SIGTERM ends it, or the pool would wait for it
    cv2.setNumThreads(1)  # the processes share the cores already
    if "torch" in sys.modules:  # torch is loaded here only if `work` imports it
        sys.modules["torch"].set_num_threads(1)


def _work_on_chunk(tasks: list) -> list:
    return [_result_or_error(_WORK, task) for task in tasks]


def _result_or_error(work: Callable, task):
    try:
        return work(task)
    except InputError as error:
        return error
