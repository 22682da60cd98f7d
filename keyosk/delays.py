"""Requests that wait: in the event loop none may, and some responses must not leave at once.

A request that the server answers in its event loop keeps all others of the process waiting for as
long as it takes. So whatever may wait (for a lock, a disk, another machine) calls
``before_waiting`` first, and such a request begins anew in a thread.

A token may be valid from a moment on, or by a key that other processes have from a moment on. It is
made now, and its response waits; whoever has an account can ask for many of them, so that no thread
may wait for each.
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
_LONGEST: Final = 2.0  # seconds: clocks of two machines may differ


def before_waiting() -> None:
    """Go on where waiting harms nobody else.

    SECURITY: called by what waits, as each list of the requests that do would miss one.
    """
    leave = leave_loop.get()
    if leave is not None:
        leave()


def delay_response(seconds: float) -> None:
    """Have nobody see what this request made for so long, two seconds at the most."""
    seconds = min(seconds, _LONGEST)
    hold_response = hold.get()
    if hold_response is None:
        time.sleep(seconds)
    else:
        hold_response(seconds)
