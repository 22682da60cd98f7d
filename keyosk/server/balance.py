"""Balances connections between workers.

All workers wait for connections at the same socket. The one that wakes first would accept all that
arrive together: of 16 connections of a client, one worker got 16, and a core stayed idle. So the
workers know each other's numbers of connections, and one that is ahead leaves the next connection
to the others for a moment.
"""

import mmap
from typing import Final

_PLACES: Final = 1024  # more than there are workers at a time


class Balance:
    """The numbers of all workers in shared memory, which must exist before the fork."""

    def __init__(self) -> None:
        # The number of connections plus one; 0 if there is no worker.
        self._numbers = memoryview(mmap.mmap(-1, 4 * _PLACES)).cast("i")

    def note(self, worker: int, connections: int) -> None:
        """Store the number of connections of a worker."""
        self._numbers[worker % _PLACES] = connections + 1

    def leave(self, worker: int) -> None:
        """Remove a worker that has ended or stopped accepting connections."""
        self._numbers[worker % _PLACES] = 0

    def has_others(self, worker: int) -> bool:
        """Return whether another worker accepts connections."""
        return bool(self._others(worker))

    def is_ahead(self, worker: int, connections: int) -> bool:
        """Return whether another worker has clearly fewer connections.

        By more than an eighth, because small differences are not worth a wait.
        """
        others = self._others(worker)
        least = min(others, default=0) - 1
        return bool(others) and connections > least + 1 + least // 8

    def _others(self, worker: int) -> list[int]:
        mine = worker % _PLACES
        return [number for place, number in enumerate(self._numbers) if number and place != mine]
