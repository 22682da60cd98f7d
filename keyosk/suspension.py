"""Suspends a request in the event loop until something has arrived, by greenlets.

A WSGI application returns its response, so a request that waits for a socket would hold up its
whole thread. A greenlet has a stack of its own: a request in it can be left in the middle of a
call, and the event loop continues it later.

SECURITY: while a request is suspended, others run in the same thread. A lock that is held
meanwhile may be tried, but not waited for: the event loop would stand still, and an ``RLock`` would
let the second one in.
"""

from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet


class Suspendable:
    """Runs functions that may be suspended. For the event loop, which it never waits in."""

    def __init__(self) -> None:
        self._idle: list[greenlet] = []

    def run(self, action: Callable[[], object]) -> None:
        """Run ``action``; return once it has ended, or as soon as it is suspended."""
        (self._idle.pop() if self._idle else greenlet(self._work)).switch(action)

    def _work(self, action: Callable[[], object]) -> None:
        """Run one action after another: the memory of a new greenlet costs 10 us."""
        own = getcurrent()
        while True:
            action()
            del action  # otherwise its objects would live until the next one
            self._idle.append(own)
            action = own.parent.switch()


def is_possible() -> bool:
    """Return whether the caller can be suspended: it is run by ``Suspendable``."""
    return getcurrent().parent is not None


def suspend(register: Callable[[Callable[[Any], object]], object]) -> Any:
    """Suspend the caller; return what it is resumed with.

    ``register`` is given the function that resumes it, to be called once, by the event loop itself:
    what is suspended next comes back to the first that was called.
    """
    own = getcurrent()
    register(own.switch)
    return own.parent.switch()
