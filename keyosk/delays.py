"""Requests that wait outside the event loop, and responses that must be delayed.

A request that the server handles in its event loop delays all other requests of the process. So
code that may wait (for a lock, a disk, another machine) calls ``before_waiting`` first, and the
request then begins again in a thread.

A token may become valid at that moment, or its key may only then be known to other processes. The
token is issued now, and its response waits. Any account can request many such tokens, so no thread
may wait for one.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, NoReturn

#: Delays the response of this request by some seconds, without a thread; ``None`` if the server
#: cannot.
hold: Final[ContextVar[Callable[[float], None] | None]] = ContextVar("hold", default=None)
#: In the event loop: starts the request of this context again in a thread. It raises, so nothing
#: before it may have an effect. ``None`` outside the event loop.
leave_loop: Final[ContextVar[Callable[[], NoReturn] | None]] = ContextVar(
    "leave_loop", default=None
)
_LONGEST: Final = 3.0  # seconds, as for a new signing key; clocks of two machines may differ


def before_waiting() -> None:
    """Return in a thread, where waiting delays no other request.

    SECURITY: the code that waits calls this, because a list of the requests that wait would miss
    one.
    """
    leave = leave_loop.get()
    if leave is not None:
        leave()


def delay_response(seconds: float) -> None:
    """Delay the response of this request by at most three seconds."""
    seconds = min(seconds, _LONGEST)
    hold_response = hold.get()
    if hold_response is None:
        time.sleep(seconds)
    else:
        hold_response(seconds)
