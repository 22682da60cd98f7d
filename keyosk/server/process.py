"""System settings of a worker's process."""

import ctypes
import os
import resource
from contextlib import suppress
from typing import Any

from gunicorn.workers.workertmp import WorkerTmp

_M_ARENA_MAX = -8  # of malloc.h


class Heartbeat(WorkerTmp):
    """The heartbeat file of a worker, in memory and without a name.

    On a disk that hangs, a healthy worker would be killed. Without a folder for temporary files (a
    read-only container) or without room in it, no worker could start.
    """

    def __init__(self, cfg: Any) -> None:
        if not hasattr(os, "memfd_create"):  # not Linux
            super().__init__(cfg)
            return
        self._tmp = os.fdopen(os.memfd_create("keyosk-heartbeat"), "w+b", 0)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 65536)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


def share_one_arena() -> None:
    """Let all threads allocate from one heap. Call it before the first thread starts.

    glibc gives each thread its own arena, which permanently keeps the memory of the thread's
    largest request. In one heap, requests reuse the same memory, so only concurrent requests add
    up.
    """
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
