"""What a worker asks of the system for its own process."""

import ctypes
import os
import resource
from contextlib import suppress
from typing import Any

from gunicorn.workers.workertmp import WorkerTmp

_M_ARENA_MAX = -8  # of malloc.h


class Heartbeat(WorkerTmp):
    """The file whose time says that a worker lives, in memory and without a name.

    On a disk that hangs, a healthy worker would be killed; and where there is no folder for
    temporary files (a read-only container), or no room in it, no worker could start.
    """

    def __init__(self, cfg: Any) -> None:
        if not hasattr(os, "memfd_create"):  # not Linux
            super().__init__(cfg)
            return
        self._tmp = os.fdopen(os.memfd_create("keyosk-heartbeat"), "w+b", 0)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 65536)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


def share_one_arena() -> None:
    """Have all threads allocate from one heap. Must come before the first thread.

    glibc gives each thread an arena of its own, and each keeps what the largest request of its
    thread took, for good. In one heap the next request takes the same memory, so that only what
    runs at once adds up.
    """
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
