"""Responses that must not leave before a moment that is a second or two away.

A token may be valid from a moment on, or by a key that other processes have from a moment on. It is
made now, and its response waits; whoever has an account can ask for many of them, so that no thread
may wait for each.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

#: What has the response of this request wait for so many seconds without a thread; ``None`` where
#: there is no server that could.
hold: Final[ContextVar[Callable[[float], None] | None]] = ContextVar("hold", default=None)
_LONGEST: Final = 2.0  # seconds: clocks of two machines may differ


def delay_response(seconds: float) -> None:
    """Have nobody see what this request made for so long, two seconds at the most."""
    seconds = min(seconds, _LONGEST)
    hold_response = hold.get()
    if hold_response is None:
        time.sleep(seconds)
    else:
        hold_response(seconds)
