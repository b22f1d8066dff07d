"""Several ways of doing one thing, timed side by side in one process."""

import time
from collections.abc import Callable


def milliseconds(
    ways: dict, chunks: list[list], turns: int = 1, after: Callable[[int], None] = lambda done: None
) -> dict:
    """Time per item of each way, in ms; a chunk counts by the fastest of its turns.

    The ways take turns, so that what else the machine does meets them alike; `after` is told how many items were done.
    """
    seconds, done = dict.fromkeys(ways, 0.0), 0
    for way in ways.values():
        way(chunks[0])  # does not count
    for chunk in chunks:
        rounds = [{name: _seconds(way, chunk) for name, way in ways.items()} for _ in range(turns)]
        for name in ways:
            seconds[name] += min(times[name] for times in rounds)
        done += len(chunk)
        after(done)
    return {name: 1e3 * total / done for name, total in seconds.items()}


def _seconds(way: Callable, chunk: list) -> float:
    started = time.perf_counter()
    way(chunk)
    return time.perf_counter() - started
