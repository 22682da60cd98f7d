"""The sockets at which clients arrive: opened here, or inherited from systemd."""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FIRST_INHERITED: Final = 3  # sd_listen_fds(3)
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_BACKLOG: Final = 2048
_PATIENCE: Final = 10.0  # seconds for another process that starts at the same place


class InUse(OSError):
    """Another program already listens there."""


@dataclass(frozen=True, slots=True)
class UnixFile:
    """The file of a Unix socket that this process created, for removal at its end."""

    path: Path
    identity: tuple[int, int]

    def remove(self) -> None:
        """Remove the file, unless it was replaced."""
        with suppress(OSError):
            if _identity(self.path) == self.identity:
                self.path.unlink()


def tcp(host: str, port: int) -> socket.socket:
    """Listen at a TCP address. Raises ``OSError``."""
    is_ipv6 = ":" in host
    return socket.create_server(
        (host, port),
        family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
        dualstack_ipv6=is_ipv6 and socket.has_dualstack_ipv6(),
    )


def unix(path: Path, mode: int) -> tuple[socket.socket, UnixFile]:
    """Listen at a Unix socket, replacing a stale one.

    Raises ``InUse`` if another program listens there, ``OSError``.
    """
    with _one_at_a_time(path.parent):
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            # SECURITY: nobody can connect before listen(), so the mode is in effect from the start.
            path.chmod(mode)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener, UnixFile(path, _identity(path))


def inherited(environ: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd opened for this process, each with its name.

    Removes the variables, so that no child process uses them. Raises ``OSError`` for
    one that does not listen.
    """
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    count, process = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    if process != str(os.getpid()) or not count.isdecimal():
        return []
    listeners = []
    for number in range(int(count)):
        os.set_inheritable(_FIRST_INHERITED + number, False)
        listener = socket.socket(fileno=_FIRST_INHERITED + number)
        if (
            listener.family not in _FAMILIES
            or listener.type != socket.SOCK_STREAM
            or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        ):
            raise OSError(errno.EINVAL, "not a stream socket that listens")
        listeners.append((names[number] if number < len(names) else "", listener))
    return listeners


def _remove_stale(path: Path) -> None:
    """Remove a socket without a listener; the caller has locked the folder."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Non-blocking, in case its queue is full.
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code != errno.ECONNREFUSED:
        raise InUse(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink()


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lock the folder, so that two processes do not remove each other's new sockets."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    latest = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= latest:
                raise OSError(errno.EAGAIN, "another program locks the folder") from None
            time.sleep(0.05)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
