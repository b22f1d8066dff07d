"""Threads that read files ahead and write results behind, while the caller computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from utils.processes import usable_cores

READERS = 2  # each holds what it reads, such as a batch of images, in memory
WRITERS = min(8, usable_cores())
MAX_WAITING = 8  # results waiting to be written, which take memory


def read_ahead(read: Callable, items: Iterable) -> Iterator:
    """Yield (item, `read(item)`) in order, while the next items are being read.

    An exception raised by `read` propagates when its item would be yielded.
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


class WriteBehind:
    """Context manager that runs file-writing calls in background threads. On exit it waits for all calls, also after an
    exception. An exception of a call is raised by a later call or on exit.
    """

    def __init__(self):
        self.threads, self.waiting = ThreadPoolExecutor(WRITERS), deque[Future]()

    def __enter__(self):
        return self

    def __call__(self, write: Callable, *args) -> None:
        """Schedule `write(*args)`; blocks while too many calls are waiting."""
        self.waiting.append(self.threads.submit(write, *args))
        while len(self.waiting) > MAX_WAITING or (self.waiting and self.waiting[0].done()):
            self.waiting.popleft().result()

    def __exit__(self, kind, error, traceback) -> None:
        self.threads.shutdown()
        if kind is None:
            for call in self.waiting:
                call.result()
