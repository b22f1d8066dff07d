"""Files read ahead and written behind by threads, while the caller computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from utils.processes import usable_cores

READERS = 2  # what they read, a batch of images perhaps, takes memory
WRITERS = min(8, usable_cores())
MOST_WAITING = 8  # results that may wait to be written: they take memory


def read_ahead(read: Callable, items: Iterable) -> Iterator:
    """Yields (item, `read(item)`) in order, where the next ones are being read already. What reading raises is raised
    when its turn has come."""
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
    """Calls that write files, made by threads. When the context is left, all have been made, also where an exception
    ends it, so that no result is lost; the first that failed raises its exception then, or at one of the next calls."""

    def __init__(self):
        self.threads, self.waiting = ThreadPoolExecutor(WRITERS), deque[Future]()

    def __enter__(self):
        return self

    def __call__(self, write: Callable, *args) -> None:
        """Has `write(*args)` called; waits where too many calls wait already."""
        self.waiting.append(self.threads.submit(write, *args))
        while len(self.waiting) > MOST_WAITING or (self.waiting and self.waiting[0].done()):
            self.waiting.popleft().result()

    def __exit__(self, kind, error, traceback) -> None:
        self.threads.shutdown()
        if kind is None:
            for call in self.waiting:
                call.result()
