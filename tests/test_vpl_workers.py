"""The pool of writers by itself: it neither stops nor loses an error, whoever talks first."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from vpl.files import STOP_SIGNALS
from vpl.workers import Arrays, WorkerError, WriterPool


class Talker:
    """Answers each item with as many results as it says."""

    def __init__(self, index: int) -> None:
        self.index = index

    def handle(self, item: Any, _arrays: Arrays) -> list[Any]:
        num_results, _ = item
        return ["a row of metadata.json" * 30] * num_results

    def abandon(self) -> None: ...


class Sleeping(Talker):
    """Takes as many seconds for an item as it says."""

    def handle(self, item: Any, _arrays: Arrays) -> list[Any]:
        time.sleep(item)
        return []


class Failing(Talker):
    """Fails at the first item, the second worker half a second after the first."""

    def handle(self, item: Any, _arrays: Arrays) -> list[Any]:
        time.sleep(0.5 * self.index)
        raise OSError(f"writer {self.index} lost its disk")


def broken(index: int) -> Talker:
    raise ImportError(f"no libx264 for writer {index}")


def within(seconds: float, work: Any) -> Any:
    """What `work` returns; fails if it has not ended by then."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits for ever"
    return results[0]


@pytest.mark.parametrize("use_processes", [False, True])
def test_pool_and_worker_may_both_have_much_to_say(use_processes):
    """More than a pipe holds, each way: a writer's rows of a thousand episodes, and the next step's columns."""
    pool = WriterPool(Talker, workers=1, use_processes=use_processes, slots=2, array_bytes=[0])

    def talk() -> int:
        results = pool.submit([(2000, None)], [{}])
        for _ in range(3):
            results += pool.submit([(0, b"x" * 4_000_000)], [{}])
        return len(results + pool.close())

    assert within(60, talk) == 2000


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_to_the_whole_group_does_not_end_a_worker_even_as_it_starts(number):
    pool = WriterPool(Talker, workers=1, use_processes=True, slots=1, array_bytes=[0])
    os.kill(pool._workers._processes[0].pid, number)
    assert len(within(60, lambda: pool.submit([(3, None)], [{}]) + pool.close())) == 3


@pytest.mark.parametrize("use_processes", [False, True])
def test_workers_that_are_told_to_give_up_are_not_waited_for(use_processes):
    pool = WriterPool(Sleeping, workers=1, use_processes=use_processes, slots=3, array_bytes=[0])
    for _ in range(3):
        pool.submit([0.5], [{}])
    start = time.monotonic()
    pool.give_up()
    with suppress(WorkerError):
        pool.close()
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("use_processes", [False, True])
def test_handler_that_cannot_be_made_is_reported(use_processes):
    pool = WriterPool(broken, workers=2, use_processes=use_processes, slots=1, array_bytes=[0, 0])

    def talk() -> str:
        try:
            for _ in range(5):
                pool.submit([(0, None)] * 2, [{}] * 2)
            pool.close()
        except WorkerError as error:
            return str(error)
        finally:
            pool.abort()
        return "nothing was reported"

    assert "no libx264 for writer" in within(60, talk)


@pytest.mark.parametrize("use_processes", [False, True])
def test_first_failure_is_reported_and_the_others_say_nothing(use_processes, capfd):
    pool = WriterPool(Failing, workers=2, use_processes=use_processes, slots=1, array_bytes=[0, 0])
    with pytest.raises(WorkerError, match="writer 0 lost its disk"):
        pool.submit([None] * 2, [{}] * 2)
        pool.close()
    pool.abort()
    assert capfd.readouterr().err == ""
