"""Waiting for what happens by itself; the limits are generous, because the machine may be busy."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import requests

from processes import Process

_Found = TypeVar("_Found")


def until(
    holds: Callable[[], _Found],
    *,
    seconds: float = 60,
    pause: float = 0.05,
    log: Path | None = None,
) -> _Found:
    """Wait until a call gives something true, and return it.

    It does not hold yet where nobody listens. ``log``: what is shown where it never does.
    """
    deadline = time.monotonic() + seconds
    while True:
        with suppress(requests.ConnectionError):
            if found := holds():
                return found
        assert time.monotonic() < deadline, log and log.read_text()
        time.sleep(pause)


@contextmanager
def running(
    arguments: Sequence[str | Path], log: Path, *, port: int | None = None, **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that runs meanwhile, once it listens on ``port``; what it says is in ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=output, **options)
    try:
        if port is not None:
            until_it_listens(process, port, log)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def until_it_listens(process: Process, port: int, log: Path | None = None) -> None:
    """Wait until a program listens on a port of this machine."""

    def listens() -> bool:
        assert process.poll() is None, log and log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens, log=log)
