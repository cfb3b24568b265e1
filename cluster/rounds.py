"""The rounds that are missing: who may have which, and how often each was tried.

rounds = Rounds([3, 4, 7], attempts=3)
number = rounds.take(worker=1, workers={0, 1})
rounds.fail(number, worker=1, reason="its process was killed")
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


class Rounds:
    """A queue whose entries come back when they fail, until they have been tried often enough."""

    def __init__(self, missing: Iterable[int], attempts: int) -> None:
        """`missing` are the rounds' numbers; each is tried at most `attempts` times."""
        self.failed: dict[int, str] = {}
        """Of each round that is given up, why its last attempt failed."""
        self._waiting = list(missing)
        self._attempts = attempts
        self._failures: dict[int, list[int]] = {}
        """By round, the workers that failed at it."""

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def take(self, worker: int, workers: Collection[int]) -> int | None:
        """The next round for `worker`, one of the `workers` that there are; None: there is none for it.

        A round that it failed at is for another one, as long as there is one that has not.
        """
        for number in self._waiting:
            failed = self._failures.get(number, [])
            if worker not in failed or set(workers) <= set(failed):
                self._waiting.remove(number)
                return number
        return None

    def put_back(self, number: int) -> None:
        """A round is to be done again, through no fault of its own."""
        self._waiting.insert(0, number)

    def fail(self, number: int, worker: int, reason: str) -> None:
        """`worker` failed at a round that it had."""
        failures = self._failures.setdefault(number, [])
        failures.append(worker)
        if len(failures) < self._attempts:
            self.put_back(number)
        else:
            self.failed[number] = reason

    def give_up(self, reason: str) -> None:
        """Nobody is left to try those that wait."""
        self.failed |= dict.fromkeys(self._waiting, reason)
        self._waiting.clear()
