"""One clock for all nodes that share a database: a node with a wrong clock uses the database's.

Tokens, revocations and throttling compare times that several nodes wrote. Where clocks differ by
seconds, a token of one node would be from the future for another, and be issued "after" the
revocation that was meant to end it.
"""

import math
import time
from typing import Final

from keyosk.storage.database import Database

#: Seconds by which a clock may differ from the database's, in addition to the measuring error.
_TOLERATED: Final = 0.25
_MEASUREMENTS: Final = 3  # at the start; each of them reduces the error


class SharedClock:
    """The time by this machine's clock, or by the database's where they differ."""

    def __init__(self) -> None:
        # Bounds of the offset: the database's clock minus this machine's monotonic clock.
        self._low, self._high = -math.inf, math.inf
        self._offset: float | None = (
            None  # to the monotonic clock, if this machine's clock is wrong
        )

    def __call__(self) -> float:
        offset = self._offset
        return time.time() if offset is None else time.monotonic() + offset

    def start(self, database: Database) -> None:
        """Compare the clocks for the first time. Raises ``Unavailable``."""
        for _ in range(_MEASUREMENTS):
            self.synchronise(database)

    def synchronise(self, database: Database) -> None:
        """Compare the clocks. Raises ``Unavailable``."""
        sent_at = time.monotonic()
        database_time = database.clock()
        received_at = time.monotonic()
        if database_time is None:
            return
        low, high = database_time - received_at, database_time - sent_at
        if low <= self._high and high >= self._low:
            low, high = max(low, self._low), min(high, self._high)
        # Otherwise a clock was set, or another server has become the primary.
        self._low, self._high = low, high
        offset, uncertainty = (low + high) / 2, (high - low) / 2
        error = abs(time.monotonic() + offset - time.time())
        self._offset = offset if error - uncertainty >= _TOLERATED else None
