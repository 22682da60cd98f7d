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

#: What has the response of this request wait for so many seconds without a thread; ``None`` where
#: there is no server that could.
hold: Final[ContextVar[Callable[[float], None] | None]] = ContextVar("hold", default=None)
#: In the event loop: what has the request of this context begin anew in a thread. It raises, so
#: whatever came before has to have no effect yet. ``None`` where it may wait.
leave_loop: Final[ContextVar[Callable[[], NoReturn] | None]] = ContextVar(
    "leave_loop", default=None
)
_LONGEST: Final = 3.0  # seconds, as a new signing key has; clocks of two machines may differ


def before_waiting() -> None:
    """Go on where waiting harms nobody else.

    SECURITY: called by what waits, as each list of the requests that do would miss one.
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
