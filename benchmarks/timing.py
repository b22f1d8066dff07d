"""Time several implementations of one task side by side in one process."""

import time


def milliseconds(ways: dict, chunks: list[list], turns: int = 1) -> dict:
    """Return the time per item of each implementation, in ms.

    ways: key → function of a chunk of items. On each chunk the ways take turns, so that other load on the machine
    affects all of them, and the fastest of the turns counts. One call of each way on the first chunk is not counted.
    """
    seconds = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way(chunks[0])
    for chunk in chunks:
        fastest = dict.fromkeys(ways, float("inf"))
        for name, way in [*ways.items()] * turns:
            started = time.perf_counter()
            way(chunk)
            fastest[name] = min(fastest[name], time.perf_counter() - started)
        seconds = {name: seconds[name] + fastest[name] for name in ways}
    num_items = sum(map(len, chunks))
    return {name: 1e3 * total / num_items for name, total in seconds.items()}
