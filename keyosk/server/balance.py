"""How many connections each worker has, so that none takes all.

All workers wait for connections at the same socket. The one that wakes first would take whatever
arrives at once: of 16 connections that a client opened together one worker got 16, and a core was
idle from then on. So the workers know each other's numbers, and one that is ahead leaves the next
connection to the others for a moment.
"""

import mmap
from typing import Final

_PLACES: Final = 1024  # more than there are workers at a time


class Balance:
    """The numbers of all workers, in memory that they share. It must be made before they fork."""

    def __init__(self) -> None:
        # One more than the number of connections; 0 where there is no worker.
        self._numbers = memoryview(mmap.mmap(-1, 4 * _PLACES)).cast("i")

    def note(self, worker: int, connections: int) -> None:
        """Tell the others how many connections a worker has."""
        self._numbers[worker % _PLACES] = connections + 1

    def leave(self, worker: int) -> None:
        """Forget a worker that has ended or stopped accepting connections."""
        self._numbers[worker % _PLACES] = 0

    def is_ahead(self, worker: int, connections: int) -> bool:
        """Return whether another worker has clearly fewer connections.

        By more than an eighth: exact numbers are worth no waiting where there are many.
        """
        mine = worker % _PLACES
        others = [number for place, number in enumerate(self._numbers) if number and place != mine]
        least = min(others, default=0) - 1
        return bool(others) and connections > least + 1 + least // 8
