"""Threads that read files ahead and write results behind, while the caller computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

from utils.processes import usable_cores

READERS = 2  # each holds what it reads, such as a batch of images, in memory
WRITERS = min(8, usable_cores())
MAX_WAITING = 8  # results waiting to be written, which take memory


def read_ahead(read: Callable, items: Iterable) -> Iterator:
    """Yield (item, `read(item)`) in order, while the next items are being read.

    An exception of `read` is raised when its item is reached.
    """
    with ThreadPoolExecutor(READERS) as threads:
        items = iter(items)
        waiting = deque((item, threads.submit(read, item)) for item in islice(items, READERS))
        try:
            while waiting:
                item, result = waiting.popleft()
                waiting.extend((item, threads.submit(read, item)) for item in islice(items, 1))
                yield item, result.result()
        finally:
            for _, result in waiting:
                result.cancel()


@contextmanager
def write_behind():
    """Context manager whose value `save(write, *args)` calls `write(*args)` in a background thread.

    On exit it waits for all calls, also after an exception. An exception of a call is raised by a later `save` or on
    exit. `save` waits while too many calls are queued.
    """
    waiting = deque[Future]()

    def save(write: Callable, *args) -> None:
        waiting.append(threads.submit(write, *args))
        while len(waiting) > MAX_WAITING or (waiting and waiting[0].done()):
            waiting.popleft().result()

    with ThreadPoolExecutor(WRITERS) as threads:
        yield save
    for call in waiting:
        call.result()
