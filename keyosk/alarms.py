"""A deadline for calls that have none of their own, such as a lock on a file."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def alarm(seconds: float, error: Callable[[], Exception]) -> Iterator[None]:
    """Raise an exception in the body when it has taken this long.

    In the main thread only, because only that one receives signals. There is one alarm at a time.
    """

    def interrupt(*_: object) -> NoReturn:
        raise error()

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
