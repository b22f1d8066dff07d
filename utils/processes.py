"""Work on many tasks in several processes of this machine: results in order, few of them waiting."""

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

WAITING = 4  # chunks for each process that may wait, done or to be done: results take memory
MOST_PROCESSES = 61  # what Windows can wait for
SMALLEST_SHARE = 32  # files to score that are worth a process
CHUNK = 8  # of them sent at once
SHARE_OF_CRFS = 50  # images whose CRF is worth a process, which takes seconds to start


def processes_worth(num_tasks: int, most: int, smallest_share: int) -> int:
    """How many processes are worth their start, at most `most` (0: one for each core): each needs a share of tasks."""
    return min(most or usable_cores(), num_tasks // smallest_share, MOST_PROCESSES)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def in_processes(work: Callable, tasks: Iterable, processes: int, chunk: int = 1) -> Iterator:
    """Yields `work(task)` of each task in order; an `InputError` of one is yielded in its place, and ends nothing.

    Fewer than two processes: in this one. Tasks are drawn as they are needed, and sent `chunk` at a time. `work` and
    the tasks must be picklable; each process works with one thread.
    """
    if processes < 2:
        yield from (_result_or_error(work, task) for task in tasks)
        return
    # not forked from this process: a copy of OpenCV's threads hangs
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    pool = ProcessPoolExecutor(processes, context, initializer=_start_process, initargs=(work,))
    tasks = iter(tasks)
    chunks = iter(lambda: list(islice(tasks, chunk)), [])
    try:
        waiting = deque(pool.submit(_work_on, some) for some in islice(chunks, WAITING * processes))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(_work_on, some) for some in islice(chunks, 1))
    except BrokenProcessPool:
        raise InputError(
            f"one of {processes} processes that share the work died, perhaps for want of memory: fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after a signal nobody waits for what is queued


def measure_all(measure: Callable, tasks: list, processes: int) -> Iterator:
    """Yields `measure(task)` of each task in order, an `InputError` of one in its place.

    As many processes as are worth their start, at most `processes` (0: one for each core).
    """
    return in_processes(measure, tasks, processes_worth(len(tasks), processes, SMALLEST_SHARE), CHUNK)


def do_in_processes(work: Callable, tasks: Iterable, num_tasks: int, workers: int, sharing: int) -> None:
    """Does slow `work`, such as a CRF, on each of `num_tasks` tasks, in as many processes as are worth their start.

    workers   the most processes on this machine; 0: one for each core. `sharing` callers on this machine divide them.
    Raises the first `InputError` of a task.
    """
    share = max(1, (workers or usable_cores()) // sharing)
    for outcome in in_processes(work, tasks, processes_worth(num_tasks, share, SHARE_OF_CRFS)):
        if isinstance(outcome, InputError):
            raise outcome


def _start_process(work: Callable) -> None:
    interruption.serve_parent(signal.SIGINT)  # of SIGTERM it dies: the pool would wait for one that does not
    global _WORK
    _WORK = partial(_result_or_error, work)
    cv2.setNumThreads(1)  # the processes share the cores already
    if "torch" in sys.modules:  # which `work` needs, or else it would not be there
        sys.modules["torch"].set_num_threads(1)


def _work_on(tasks: list) -> list:
    return [_WORK(task) for task in tasks]


def _result_or_error(work: Callable, task):
    try:
        return work(task)
    except InputError as error:
        return error
