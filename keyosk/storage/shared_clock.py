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
_FIRST: Final = 3  # measurements at the start, each of which reduces the error


class SharedClock:
    """The time by this machine's clock, or by the database's where they differ."""

    def __init__(self) -> None:
        # The difference of the database's clock and the monotonic clock is between these two.
        self._low, self._high = -math.inf, math.inf
        self._ahead: float | None = None  # if this machine's clock is wrong

    def __call__(self) -> float:
        ahead = self._ahead
        return time.time() if ahead is None else time.monotonic() + ahead

    def start(self, database: Database) -> None:
        """Compare the clocks for the first time. Raises ``Unavailable``."""
        for _ in range(_FIRST):
            self.synchronise(database)

    def synchronise(self, database: Database) -> None:
        """Compare the clocks. Raises ``Unavailable``."""
        sent_at = time.monotonic()
        theirs = database.clock()
        received_at = time.monotonic()
        if theirs is None:
            return
        low, high = theirs - received_at, theirs - sent_at
        if low <= self._high and high >= self._low:
            low, high = max(low, self._low), min(high, self._high)
        # Otherwise a clock was set, or another server has become the primary.
        self._low, self._high = low, high
        ahead, unknown = (low + high) / 2, (high - low) / 2
        wrong = abs(time.monotonic() + ahead - time.time())
        self._ahead = ahead if wrong - unknown >= _TOLERATED else None
