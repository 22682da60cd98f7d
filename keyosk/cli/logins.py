"""The file of logins: the tokens that ``keyosk login`` got, by server.

SECURITY: a refresh token replaces a login for days. Only its owner may read the file, which is
checked each time. One process at a time uses a refresh token, because two uses would end the
session.
"""

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from keyosk.cli.refusals import Refused

_FILE: Final = "logins.json"
_LOCK: Final = "logins.lock"
#: Bytes that are allocated on the disk before a refresh token is used, for the next one.
_ROOM: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Login:
    """A login at one server; ``expires_at``: of the access token, in seconds since 1970."""

    username: str
    access_token: str = field(repr=False)
    expires_at: int
    refresh_token: str | None = field(repr=False, default=None)


def folder() -> Path:
    """Return the folder of logins (XDG Base Directory Specification: state)."""
    state_home = os.environ.get("XDG_STATE_HOME", "")
    try:
        # The specification ignores relative paths.
        base = Path(state_home) if state_home.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:
        raise Refused(
            "There is no home directory to keep the login in: set XDG_STATE_HOME."
        ) from None
    return base / "keyosk"


def find(server: str) -> Login | None:
    """Return the login at a server. Raises ``Refused`` if others may read the file, ``OSError``."""
    return _read().get(server)


class Changes:
    """The logins, locked for changes by this process."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._logins = _read()
        self._part: Path | None = None

    def make_room(self) -> Path:
        """Allocate the room for the next ``put``, so that a full disk cannot lose a login."""
        if self._part is None:
            handle, name = tempfile.mkstemp(prefix=f".{_FILE}.", dir=self._place)
            self._part = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(b" " * _ROOM)
                file.flush()
                os.fsync(handle)
        return self._part

    def close(self) -> None:
        """Free unused room."""
        if self._part is not None:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)

    def find(self, server: str) -> Login | None:
        """Return the login at a server, as it is now."""
        return self._logins.get(server)

    def put(self, server: str, login: Login | None) -> None:
        """Store a login; ``None`` deletes it."""
        self._logins.pop(server, None)
        if login is not None:
            self._logins[server] = login
        path = self._place / _FILE
        if not self._logins:
            path.unlink(missing_ok=True)
            return
        shapes = {name: asdict(each) for name, each in self._logins.items()}
        text = json.dumps({"servers": shapes}, indent=1).encode() + b"\n"
        part = self.make_room()
        with part.open("r+b") as file:
            file.write(text)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        self._part = None


@contextmanager
def changing() -> Iterator[Changes]:
    """Lock the logins, to change them. Raises ``Refused``, ``OSError``."""
    place = folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_folder(place)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(place / _LOCK, flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        changes = Changes(place)
        try:
            changes.make_room()
            yield changes
        finally:
            changes.close()
    finally:
        os.close(lock)


def _read() -> dict[str, Login]:
    path = folder() / _FILE
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return {}
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise Refused(f"{path} is not a file of yours: remove it and log in again.")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise Refused(
                f"{path} holds logins and others may read it. Whoever has may have used them: "
                "remove it (keyosk account revoke-tokens ends what they got) and log in again."
            )
        text = file.read()
    try:
        servers = json.loads(text)["servers"]
        return {str(server): _login(shape) for server, shape in servers.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # SECURITY: outside the handler, because the exception holds the text.
        servers = None
    raise Refused(f"{path} is damaged: remove it and log in again.")


def _login(shape: Any) -> Login:
    login = Login(
        username=shape["username"],
        access_token=shape["access_token"],
        expires_at=shape["expires_at"],
        refresh_token=shape["refresh_token"],
    )
    texts = (login.username, login.access_token, login.refresh_token or "")
    if not all(isinstance(text, str) for text in texts) or not isinstance(login.expires_at, int):
        raise TypeError
    return login


def _check_folder(place: Path) -> None:
    status = place.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise Refused(
            f"Others may write to {place}: make it yours alone (chmod 700) and try again."
        )
