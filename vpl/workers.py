"""A bounded pool of threads or processes that handle batches of images; knows nothing of what they do with them.

    pool = WriterPool(make_handler, workers=2, use_processes=False, slots=4, array_bytes=[0, 0])
    pool.submit([item_0, item_1], [arrays_0, arrays_1])      # each worker its own; waits for those that are full
    pool.close()

Threads share the arrays. Processes read them from shared memory, in which each has slots of its own, so that none
waits for another; they go around the GIL and HDF5's global lock, which bind from the third worker on
(benchmarks/README.md).
"""

from __future__ import annotations

import mmap
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn, Protocol

import numpy as np

from vpl.files import STOP_SIGNALS, child_environment


class WorkerError(RuntimeError):
    """A worker failed or died; the message says how."""


class Handler(Protocol):
    """What a worker does; made in the worker."""

    def handle(self, item: Any, arrays: Arrays) -> list[Any]:
        """Work on an item; returns results for the stepping thread. An exception ends the pool's work."""

    def abandon(self) -> None:
        """Let go of what is unfinished."""


Arrays = Mapping[str, np.ndarray]
MakeHandler = Callable[[int], Handler]
"""Given the worker's index; picklable if processes are used."""


class WriterPool:
    """Hands items to all workers and gathers their results."""

    def __init__(
        self, make_handler: MakeHandler, workers: int, use_processes: bool, slots: int, array_bytes: Sequence[int]
    ) -> None:
        """Start the workers.

        Args:
            make_handler: makes a worker's handler, in the worker.
            workers: how many.
            use_processes: processes with shared memory instead of threads.
            slots: items that may wait for each worker, with the one that it works on.
            array_bytes: size of all of each worker's arrays together, at most.
        """
        make = _Processes if use_processes else _Threads
        self._workers: _Threads | _Processes = make(make_handler, workers, slots, array_bytes)

    @property
    def wait_s(self) -> float:
        """Seconds that `submit` waited for a worker."""
        return self._workers.wait_s

    def submit(self, items: Sequence[Any], arrays: Sequence[Arrays]) -> list[Any]:
        """Hand an item and its arrays, by name, to each worker, waiting for those whose slots are full.

        Returns:
            The workers' results since the last call.

        Raises:
            WorkerError: a worker failed or died.
        """
        return self._workers.submit(items, arrays)

    def flush(self) -> list[Any]:
        """Wait until all items are handled; returns the remaining results.

        Raises:
            WorkerError: a worker failed or died.
        """
        return self._workers.flush()

    def close(self) -> list[Any]:
        """`flush`, and end the workers.

        Raises:
            WorkerError: a worker failed or died.
        """
        try:
            return self._workers.flush()
        finally:
            self.abort()

    def give_up(self) -> None:
        """Have the workers drop what they hold, so that nothing waits for them; for a signal's handler."""
        self._workers.give_up()

    def abort(self) -> None:
        """End the workers without waiting for the items that they have not begun."""
        self._workers.stop()


class _Threads:
    def __init__(self, make_handler: MakeHandler, workers: int, slots: int, _array_bytes: Sequence[int]) -> None:
        self.wait_s = 0.0
        self._slots = slots
        self._free = [threading.Semaphore(slots) for _ in range(workers)]
        self._queues: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in range(workers)]
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        self._error: Exception | None = None
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, args=(make_handler, i), name=f"writer-{i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, items: Sequence[Any], arrays: Sequence[Arrays]) -> list[Any]:
        for free, q, item, part in zip(self._free, self._queues, items, arrays, strict=True):
            self._raise_error()
            start = time.monotonic()
            free.acquire()
            self.wait_s += time.monotonic() - start
            q.put((item, part))
        self._raise_error()
        return self._drain()

    def flush(self) -> list[Any]:
        for free in self._free:
            for _ in range(self._slots):  # all of them are free once all is handled
                free.acquire()
            free.release(self._slots)
        self._raise_error()
        return self._drain()

    def give_up(self) -> None:
        self._stopped = True

    def stop(self) -> None:
        self._stopped = True
        for q in self._queues:
            q.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, make_handler: MakeHandler, index: int) -> None:
        handler = None
        while (entry := self._queues[index].get()) is not None:
            item, arrays = entry
            if self._error is None and not self._stopped:
                try:
                    handler = handler or make_handler(index)
                    for result in handler.handle(item, arrays):
                        self._results.put(result)
                except Exception as error:  # raised again in the stepping thread
                    self._error = self._error or error
            del entry, item, arrays  # or the last batch would stay in memory until the next comes
            self._free[index].release()
        if handler is not None:
            handler.abandon()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise WorkerError(_in_a_line(self._error)) from self._error

    def _drain(self) -> list[Any]:
        return [self._results.get() for _ in range(self._results.qsize())]


class _Processes:
    """Started as programs of their own: multiprocessing would import the caller's script, torch and all, in each."""

    def __init__(self, make_handler: MakeHandler, workers: int, slots: int, array_bytes: Sequence[int]) -> None:
        self.wait_s = 0.0
        self._array_bytes = array_bytes
        self._starts = [slots * sum(array_bytes[:index]) for index in range(workers)]
        """Where each worker's slots begin in the shared memory."""
        self._slots = slots
        self._free = [list(range(slots)) for _ in range(workers)]
        # anonymous: gone with its last user, however that ends, and not bound by the size of /dev/shm
        descriptor = os.memfd_create("arrays")
        os.ftruncate(descriptor, max(1, slots * sum(array_bytes)))
        self._memory = mmap.mmap(descriptor, 0)
        self._results: list[Any] = []
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen] = []
        for index in range(workers):
            ours, theirs = Pipe()
            inherited = (theirs.fileno(), descriptor)
            command = [sys.executable, "-m", "vpl.workers", *map(str, inherited)]
            # a signal to the whole group is for the stepping process; what is blocked here, stays blocked in there
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                self._processes.append(subprocess.Popen(command, pass_fds=inherited, env=child_environment()))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()  # so that its death is the end of our pipe
            self._pipes.append(ours)
            self._send(index, sys.path)  # before what needs it to be unpickled
            self._send(index, (make_handler, index))
        os.close(descriptor)

    def submit(self, items: Sequence[Any], arrays: Sequence[Arrays]) -> list[Any]:
        self._receive(timeout=0)
        waiting = list(range(len(self._pipes)))
        while waiting:
            for index in [index for index in waiting if self._free[index]]:
                self._give(index, items[index], arrays[index])
                waiting.remove(index)
            if waiting:
                start = time.monotonic()
                self._receive(timeout=None)
                self.wait_s += time.monotonic() - start
        results, self._results = self._results, []
        return results

    def _give(self, index: int, item: Any, arrays: Arrays) -> None:
        """Copy the arrays into a free slot of a worker, one after the other, and tell it."""
        slot = self._free[index].pop()
        start = self._starts[index] + slot * self._array_bytes[index]
        places = {}
        for name, array in arrays.items():
            np.ndarray(array.shape, array.dtype, self._memory, start)[:] = array
            places[name] = (array.shape, array.dtype, start)
            start += array.nbytes
        self._send(index, (slot, item, places))

    def flush(self) -> list[Any]:
        while any(len(free) < self._slots for free in self._free):
            self._receive(timeout=None)
        results, self._results = self._results, []
        return results

    def give_up(self) -> None:
        for process in self._processes:
            process.kill()

    def stop(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # a worker takes it as the end
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _send(self, index: int, message: Any) -> None:
        try:
            self._pipes[index].send(message)
        except OSError:
            self._report_death(index)

    def _receive(self, timeout: float | None) -> None:
        for ready in wait(self._pipes, timeout):
            index = self._pipes.index(ready)  # type: ignore[arg-type]
            try:
                while self._pipes[index].poll():
                    self._take(index, *self._pipes[index].recv())
            except (EOFError, OSError):
                self._report_death(index)

    def _take(self, index: int, kind: str, value: Any) -> None:
        if kind == "error":
            raise WorkerError(value)
        if kind == "result":
            self._results.append(value)
        else:
            self._free[index].append(value)

    def _report_death(self, index: int) -> NoReturn:
        with suppress(EOFError, OSError):
            while self._pipes[index].poll():
                self._take(index, *self._pipes[index].recv())  # its last words may say why
        try:
            code = self._processes[index].wait(timeout=5)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            how = "stopped answering"
        raise WorkerError(f"writer process {index} {how}")


def _in_a_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        where = f": {error.filename}" if error.filename else ""
        return f"{os.strerror(error.errno)}{where}"  # h5py adds a paragraph
    return " ".join(str(error).split()) or repr(error)


def _process_main() -> None:
    """A worker process; the arguments are the descriptors of its pipe and of the arrays' memory."""
    pipe, memory = Connection(int(sys.argv[1])), mmap.mmap(int(sys.argv[2]), 0)
    sys.path[:] = pipe.recv()
    make_handler, index = pipe.recv()
    entries: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, entries), daemon=True).start()
    handler = None
    try:
        handler = make_handler(index)
        while (entry := entries.get()) is not None:
            slot, item, places = entry
            arrays = {name: np.ndarray(shape, dtype, memory, start) for name, (shape, dtype, start) in places.items()}
            for result in handler.handle(item, arrays):
                pipe.send(("result", result))
            del arrays
            pipe.send(("free", slot))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the stepping process is gone
    except Exception as error:  # raised again in the stepping process
        with suppress(OSError):  # unless that has given up over another writer's error
            pipe.send(("error", _in_a_line(error)))
    finally:
        if handler is not None:
            handler.abandon()


def _read(pipe: Connection, entries: queue.SimpleQueue) -> None:
    """Take what comes, always: with both pipes full, this process and the stepping one would wait for each other."""
    try:
        with suppress(EOFError, OSError):  # the stepping process closed the pipe, or is gone
            while True:
                entries.put(pipe.recv())
    finally:
        entries.put(None)


if __name__ == "__main__":
    _process_main()
