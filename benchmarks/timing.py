"""Time several implementations of one task side by side in one process."""

import time
from collections.abc import Callable


def milliseconds(ways: dict, chunks: list[list], turns: int = 1) -> dict:
    """Return the time per item of each implementation, in ms.

    ways: key → function of a chunk of items. On each chunk the ways take turns, so that other load on the machine
    affects all of them, and the fastest of the turns counts. One call of each way on the first chunk is not counted.
    """
    seconds = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way(chunks[0])
    for chunk in chunks:
        rounds = [{name: _seconds(way, chunk) for name, way in ways.items()} for _ in range(turns)]
        for name in ways:
            seconds[name] += min(times[name] for times in rounds)
    num_items = sum(map(len, chunks))
    return {name: 1e3 * total / num_items for name, total in seconds.items()}


def _seconds(way: Callable, chunk: list) -> float:
    started = time.perf_counter()
    way(chunk)
    return time.perf_counter() - started
