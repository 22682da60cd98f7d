"""The secret key: the configured one, or that of the key file beside a SQLite database."""

import os
from pathlib import Path

from keyosk import small_files
from keyosk.errors import ConfigurationError, Fault
from keyosk.keys import material


def refuse_lost(configured: tuple[str, ...], sqlite: Path | None, *, has_keys: bool) -> None:
    """Refuse a database whose secret key is missing, before anything is written.

    For the holder of the set-up lock only. ``has_keys``: whether the database has signing keys.

    SECURITY: a new secret key beside keys that are encrypted under another one would look like the
    right one from then on, and hide that the right one is lost. Raises ``ConfigurationError``.
    """
    if configured or sqlite is None or os.path.lexists(_key_file(sqlite)):
        return
    if has_keys:
        raise ConfigurationError([Fault("KEYOSK_SECRET_KEY", _lost(sqlite))])
    if sqlite.exists() and sqlite.stat().st_nlink > 1:
        # What was written under the other name may still be in the -wal file beside it.
        raise ConfigurationError(
            [
                Fault(
                    "KEYOSK_DATABASE_URL",
                    f"{sqlite} is a hard link, a second name of the same file: use its first name",
                )
            ]
        )


def ensure_file(configured: tuple[str, ...], sqlite: Path | None) -> None:
    """Create the key file (0600) beside the SQLite file if it is missing and needed.

    For the holder of the set-up lock only, after ``refuse_lost`` and before there are
    keys. Raises ``ConfigurationError``.
    """
    if configured or sqlite is None:
        return
    try:
        _create(_key_file(sqlite), material.new_secret_key())
    except OSError as error:
        fault = f"the key file {_key_file(sqlite)} cannot be made: {error.strerror}"
        raise ConfigurationError([Fault("KEYOSK_SECRET_KEY", fault)]) from error


def read(configured: tuple[str, ...], sqlite: Path | None) -> tuple[str, ...]:
    """The installation's secret keys: the configured ones, else the one beside the SQLite file.

    Raises ``ConfigurationError`` for PostgreSQL without a configured key, and for a key file that
    is missing or cannot be used.
    """
    if configured:
        return configured
    if sqlite is None:
        raise ConfigurationError([Fault("KEYOSK_SECRET_KEY", "is required with PostgreSQL")])
    path = _key_file(sqlite)
    try:
        secret = small_files.read(path).decode("ascii").strip()
    except FileNotFoundError:
        raise ConfigurationError([Fault("KEYOSK_SECRET_KEY", _lost(sqlite))]) from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        fault = f"is not set, and the key file {path} cannot be read: {reason}"
        raise ConfigurationError([Fault("KEYOSK_SECRET_KEY", fault)]) from error
    if len(secret) < material.SHORTEST_SECRET_KEY:
        raise ConfigurationError([Fault("KEYOSK_SECRET_KEY", f"the key file {path} is cut off")])
    return (secret,)


def _key_file(sqlite: Path) -> Path:
    """Return the key file beside a SQLite file: beside a symbolic link, or beside its target."""
    beside = sqlite.with_name(f"{sqlite.name}.secret")
    if os.path.lexists(beside):
        return beside
    real = Path(os.path.realpath(sqlite))
    return real.with_name(f"{real.name}.secret")


def _lost(sqlite: Path) -> str:
    return (
        f"is not set, and there is no key file {sqlite}.secret. The signing keys in the database "
        "are encrypted under a secret key: put its file there under that name (a copied, renamed "
        "or linked database needs it beside it too), or set KEYOSK_SECRET_KEY"
    )


def _create(path: Path, secret: str) -> None:
    """Write a secret to a new file, completely or not at all; an existing file stays as it is."""
    if os.path.lexists(path):
        return
    fresh = path.with_name(f"{path.name}.new")
    handle = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        # SECURITY: if a power cut took the secret, the keys encrypted under it would be lost.
        os.fsync(file.fileno())
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
