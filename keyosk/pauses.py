"""Waiting for a moment that is a second or two away, without keeping others from being served.

Threads are few, and whoever has an account can ask for tokens that have to wait. So one thread of a
process may, or none where it has only one; whoever comes meanwhile is told to come again.
"""

import threading
import time
from typing import Final

from keyosk.errors import RetryLater

_LONGEST: Final = 2.0  # seconds: clocks of two machines may differ


class Pauses:
    """The one pause of a process."""

    def __init__(self, *, threads: int) -> None:
        """``threads``: how many the process has to serve requests."""
        self._waiting = threading.Lock()
        self._allowed = threads > 1

    def wait(self, seconds: float) -> None:
        """Sleep for so long, two seconds at the most. Raises ``RetryLater``."""
        # SECURITY: never a second one; every thread asleep is one that answers nobody.
        if not self._allowed or not self._waiting.acquire(blocking=False):
            raise RetryLater("What was changed a moment ago takes a second: try again.")
        try:
            time.sleep(min(seconds, _LONGEST))
        finally:
            self._waiting.release()
