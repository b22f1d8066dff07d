"""Work in several processes of this machine."""

import os
import time
from pathlib import Path

import pytest

from formats.errors import InputError
from utils.processes import FILES_PER_CHUNK, MAX_WAITING_CHUNKS, MIN_CRFS_PER_PROCESS, do_in_processes, measure_all


def square_or_refuse(number: int) -> int:
    if number % 10 == 7:
        raise InputError(f"{number} is unlucky")
    return number**2


def process_of(number: int) -> int:
    return os.getpid()


def die_of_the_last(number: int) -> None:
    if number == 99:
        os._exit(1)


@pytest.mark.parametrize("processes", [1, 2])
def test_in_order_with_errors_in_their_places(processes):
    found = list(measure_all(square_or_refuse, list(range(100)), processes))
    for number, result in enumerate(found):
        if number % 10 == 7:
            assert isinstance(result, InputError)
            assert str(result) == f"{number} is unlucky"
        else:
            assert result == number**2


def test_few_files_need_no_process():
    assert set(measure_all(process_of, list(range(40)), 8)) == {os.getpid()}
    assert os.getpid() not in set(measure_all(process_of, list(range(100)), 2))


def leave_a_file(path: Path) -> None:
    path.touch()


def test_results_wait_in_a_bounded_number(tmp_path):
    """Results do not pile up in memory if their reader is slow."""
    results = measure_all(leave_a_file, [tmp_path / f"{number}" for number in range(1000)], 2)
    next(results)
    time.sleep(2)
    assert 8 <= len(list(tmp_path.iterdir())) <= FILES_PER_CHUNK * (MAX_WAITING_CHUNKS + 1) * 2
    assert sum(1 for _ in results) == 999
    assert len(list(tmp_path.iterdir())) == 1000


def test_other_exceptions_are_raised():
    with pytest.raises(TypeError):
        list(measure_all(square_or_refuse, ["one"], 1))
    with pytest.raises(TypeError):
        list(measure_all(square_or_refuse, ["one"] * 100, 2))


def test_a_process_that_dies():
    """One process dies while the other works or waits."""
    with pytest.raises(InputError, match=r"one of 2 processes that share the work died.*fewer --workers"):
        list(measure_all(die_of_the_last, list(range(100)), 2))


@pytest.mark.parametrize(
    ("tasks", "workers", "num_callers", "processes"),
    [
        (10 * MIN_CRFS_PER_PROCESS, 8, 2, 4),  # two callers on a machine share them
        (10 * MIN_CRFS_PER_PROCESS, 1, 2, 1),
        (3 * MIN_CRFS_PER_PROCESS, 8, 1, 3),  # a process is started for MIN_CRFS_PER_PROCESS tasks or more
        (10 * MIN_CRFS_PER_PROCESS, 0, 1, 6),  # all cores
    ],
)
def test_slow_work_is_divided(tasks, workers, num_callers, processes, monkeypatch):
    asked = []
    monkeypatch.setattr("utils.processes.usable_cores", lambda: 6)
    monkeypatch.setattr("utils.processes.map_in_processes", lambda work, tasks, count: asked.append(count) or [])
    do_in_processes(square_or_refuse, range(tasks), tasks, workers, num_callers)
    assert asked == [processes]


def test_slow_work_ends_with_the_first_mistake():
    with pytest.raises(InputError, match="7 is unlucky"):
        do_in_processes(square_or_refuse, range(10), 10, workers=1, num_callers=1)
