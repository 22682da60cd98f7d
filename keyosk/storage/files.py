"""The file of a SQLite database, which is created closed to other users."""

import os
import stat
from pathlib import Path

from keyosk.errors import DatabaseUnusable


def create(path: Path) -> None:
    """Create the file (0600) and its folder (0700), where missing.

    Raises ``DatabaseUnusable``.
    """
    if exists(path) and path.is_dir():
        raise DatabaseUnusable(f"Cannot use {path} as the database: it is a folder.")
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True)
        # Opened even if it exists, because SQLite's errors say less.
        # SECURITY: made before SQLite would make it by the umask; -wal and -shm copy it.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            path.chmod(0o600)
    except OSError as error:
        raise DatabaseUnusable(f"Cannot make {path}: {error.strerror}.") from error


def exists(path: Path) -> bool:
    """Return whether the file exists. Raises ``DatabaseUnusable`` if it is inaccessible."""
    try:
        return path.exists()
    except OSError as error:
        raise DatabaseUnusable(f"Cannot look at {path}: {error.strerror}.") from error
