"""The file of a SQLite database, which is created closed to other users."""

import os
import pwd
import stat
import time
import urllib.parse
from pathlib import Path
from typing import Final

from keyosk.errors import DatabaseUnusable, Unavailable

_BETWEEN_READS: Final = 1.0  # seconds between two checks of the file by statements that only read


def create(path: Path) -> None:
    """Create the file (0600) and its folder (0700), where missing.

    Raises ``DatabaseUnusable``.
    """
    exists(path)  # it refuses a folder
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True)
        # Opened even if it exists, because SQLite's errors say less.
        # SECURITY: made before SQLite would make it by the umask; -wal and -shm copy it.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            path.chmod(0o600)
    except PermissionError as error:
        raise DatabaseUnusable(_refused(path)) from error
    except OSError as error:
        raise DatabaseUnusable(f"Cannot make {path}: {error.strerror}.") from error


def _refused(path: Path) -> str:
    """Say whose file it is: after a restore by root, for example, Keyosk cannot open its own."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return f"Cannot make {path}: Permission denied."
    if owner == os.geteuid():
        return f"Cannot open {path}: Permission denied."
    return (
        f"Cannot open {path}: it belongs to {_name(owner)}, and Keyosk runs as "
        f"{_name(os.geteuid())}."
    )


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def exists(path: Path) -> bool:
    """Return whether the file exists.

    Raises ``DatabaseUnusable`` if it is inaccessible, or no file.
    """
    try:
        if not path.exists():
            return False
        # A named pipe would be waited for, and a device closed to everybody else.
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no file"
            raise DatabaseUnusable(f"Cannot use {path} as the database: it is {kind}.")
    except OSError as error:
        raise DatabaseUnusable(f"Cannot look at {path}: {error.strerror}.") from error
    if not os.access(path, os.R_OK | os.W_OK):  # SQLite's error says less
        raise DatabaseUnusable(_refused(path))
    return True


def uri(path: Path) -> str:
    """Return the URI of a file for SQLite; that of a relative path is relative, too.

    A folder that was renamed is found by it, as ``OpenedFile`` finds it.
    """
    quoted = urllib.parse.quote(os.fsencode(path))
    return f"file://{quoted}" if path.is_absolute() else f"file:{quoted}"


class OpenedFile:
    """Notices that the file of a database is another one than the one that was opened.

    An open connection goes on with a file that was deleted, moved, or hidden by a mount. What it
    writes is acknowledged, and nobody ever finds it; other threads would go on with another file.
    """

    def __init__(self, path: Path) -> None:
        self._path: Final = str(path)
        self._identity = _identity(self._path)
        #: The ``time.perf_counter()`` from which reads ask for a check; writes always do.
        self.due = 0.0

    def check(self) -> None:
        """Raise ``Unavailable`` if another file has the name, or none."""
        identity = _identity(self._path)
        if self._identity is None:
            self._identity = identity  # it was just made
        if identity is None or identity != self._identity:
            self.due = 0.0
            fault = "is not there" if identity is None else "is another file than the one in use"
            raise Unavailable(
                "The database is not available.",
                reason=f"{self._path} {fault}: put the right one back, or restart Keyosk",
            )
        self.due = time.perf_counter() + _BETWEEN_READS


def _identity(path: str) -> tuple[int, int] | None:
    """Return what no other file on this machine has, ``None`` if there is no file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - it is called for each write
    except OSError:
        return None
    return status.st_dev, status.st_ino
