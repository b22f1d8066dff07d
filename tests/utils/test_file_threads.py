"""Threads that read and write files keep the order, hold few results and lose no failure."""

import threading
import time
from contextlib import nullcontext

import pytest

from formats.errors import InputError
from utils.file_threads import MAX_WAITING, READERS, read_ahead, write_behind


def refuse_three(number: int) -> int:
    if number == 3:
        raise InputError("three")
    return number**2


def wait_for(condition) -> None:
    """Wait until a condition holds, and assert that it still does a moment later."""
    end_s = time.monotonic() + 10
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)
    time.sleep(0.2)
    assert condition()


def test_reading_ahead_keeps_the_order():
    assert list(read_ahead(refuse_three, range(3))) == [(0, 0), (1, 1), (2, 4)]
    assert list(read_ahead(refuse_three, [])) == []
    results = read_ahead(refuse_three, range(9))
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 4)]
    with pytest.raises(InputError, match="three"):
        next(results)


def test_the_next_are_read_while_one_is_used():
    read = []
    results = read_ahead(read.append, range(100))
    next(results)
    wait_for(lambda: len(read) == 1 + READERS)
    results.close()
    assert len(read) == 1 + READERS


def test_few_results_wait():
    may_write, started = threading.Event(), threading.Event()

    def fill():
        with write_behind() as save:
            for _ in range(MAX_WAITING + 5):
                save(may_write.wait)
                calls.append(1)
            started.set()

    calls = []
    filling = threading.Thread(target=fill)
    filling.start()
    try:
        wait_for(lambda: len(calls) == MAX_WAITING)
    finally:
        may_write.set()
        filling.join(timeout=10)
    assert started.is_set()


@pytest.mark.parametrize("others", [0, 40])
def test_a_failure_is_raised(others):
    with pytest.raises(InputError, match="three"), write_behind() as save:
        save(refuse_three, 3)
        for _ in range(others):
            save(time.sleep, 0.001)


@pytest.mark.parametrize("error", [None, KeyError])
def test_what_is_queued_is_written_also_after_an_exception(error):
    written = []
    with pytest.raises(error) if error else nullcontext(), write_behind() as save:
        for number in range(50):
            save(lambda number=number: (time.sleep(0.001), written.append(number)))
        if error:
            raise error
    assert sorted(written) == list(range(50))
