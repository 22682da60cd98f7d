"""Classifies the errors of the database drivers.

It also wraps the errors that peewee does not wrap (SQLite's fetches, numbers and text that a driver
cannot send), so that outside ``translated`` there are only peewee's errors.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final, NoReturn

import peewee

from keyosk.errors import DatabaseDamaged, DatabaseUnusable, Invalid, Unavailable


class Kind(Enum):
    """The meaning of a database error for the caller."""

    #: A value that the database cannot hold or compare; the request is at fault.
    VALUE = "value"
    #: A constraint; the stores find out which.
    CONSTRAINT = "constraint"
    #: The statement was rolled back, but may be tried again.
    UNDONE = "undone"
    #: The database is unavailable or overloaded for now.
    PASSING = "passing"
    #: The error stays until an operator acts.
    LASTING = "lasting"
    #: The data are damaged; the database itself is available.
    DAMAGE = "damage"
    #: A defect of Keyosk.
    DEFECT = "defect"


_SQLITE_LASTING: Final = ("CANTOPEN", "READONLY", "PERM", "AUTH", "FORMAT")
_SQLITE_DAMAGE: Final = ("CORRUPT", "NOTADB")
_SQLSTATES: Final = {
    "40001": Kind.UNDONE,  # serialization failure
    "40P01": Kind.UNDONE,  # deadlock
    "0A000": Kind.PASSING,  # a prepared statement whose tables have changed
    "25006": Kind.PASSING,  # a standby, which may become the primary
    "42501": Kind.LASTING,  # no privilege
    "42P01": Kind.LASTING,  # no such table
    "42703": Kind.LASTING,  # no such column
    "3F000": Kind.LASTING,  # no such schema
    "3D000": Kind.LASTING,  # no such database
    "28000": Kind.LASTING,  # no such user, or no entry in pg_hba.conf
    "28P01": Kind.LASTING,  # wrong password
    "XX000": Kind.DAMAGE,  # what PostgreSQL holds for impossible, as a length beyond all sense
    "XX001": Kind.DAMAGE,  # a page, or a value in it
    "XX002": Kind.DAMAGE,  # an index
    "58P01": Kind.DAMAGE,  # a file that is missing
    "58030": Kind.DAMAGE,  # a disk that cannot read or write a file
}
# A failed connection has no SQLSTATE, only libpq's text. Other texts count as temporary.
_LASTING_TEXT: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r'|role ".*" does not exist|database ".*" does not exist|no such (database|user)'
    r"|not permitted to log in|permission denied|not currently accepting connections$"
    r"|unsupported startup parameter|unrecognized configuration parameter|^invalid |: invalid "
    r"|parameter \".*\" cannot be|does not support SSL|certificate|private key"
    r"|channel binding|authentication method|service file|definition of service"
    r"|server name does not match|does not exist$|could not match \d+ ",
    re.IGNORECASE,
)
_NOTHING_TO_ROLL_BACK: Final = "cannot rollback"
_POOLER: Final = re.compile(r"unsupported startup parameter", re.IGNORECASE)
_LIBPQ_PREFIX: Final = re.compile(r"^connection (failed|is bad): ")
_LIBPQ_HINT: Final = re.compile(r"\s+Is the server running [^?]*\?")


@contextmanager
def translated() -> Iterator[None]:
    """Translate the errors of drivers inside to peewee's."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it raises
        raise_translated(error)


def raise_translated(error: Exception) -> NoReturn:
    """Raise peewee's error for a driver's, as ``translated`` does; call it in an ``except`` block.

    For hot paths: ``try`` costs nothing there, and a context manager costs six calls.
    """
    try:
        if isinstance(error, OverflowError | UnicodeEncodeError):
            # sqlite3 raises these for integers above 64 bits, both drivers for lone surrogates.
            raise peewee.DataError(error) from error
        if not isinstance(error, peewee.PeeweeException):
            # It raises peewee's error for a driver's.
            wrapper = peewee.__exception_wrapper__  # type: ignore[attr-defined]
            wrapper.__exit__(type(error), error, error.__traceback__)
        raise error
    finally:
        # Otherwise the error and this frame refer to each other and to the cursor of a SQLite
        # statement, whose lock would last until the next garbage collection.
        del error


def first_of(error: peewee.DatabaseError) -> peewee.DatabaseError:
    """Return the first error of the end of a transaction.

    If a commit fails, SQLite has rolled back already, and peewee's rollback fails, too.
    """
    before: BaseException | None = error
    while before is not None and _NOTHING_TO_ROLL_BACK in str(before):
        before = before.__context__
    return before if isinstance(before, peewee.DatabaseError) else error


def original_of(error: BaseException) -> BaseException:
    """Return the driver's own error inside one of peewee's, which may be inside another."""
    while isinstance(inner := getattr(error, "orig", None), BaseException):
        error = inner
    return error


def kind(error: peewee.PeeweeException) -> Kind:
    """Return the meaning of an error that ``translated`` raised."""
    if isinstance(error, peewee.IntegrityError):
        return Kind.CONSTRAINT
    if isinstance(error, peewee.DataError):
        return Kind.VALUE
    original = original_of(error)
    if isinstance(original, sqlite3.Error):
        name = (getattr(original, "sqlite_errorname", None) or "").removeprefix("SQLITE_")
        if name.startswith(_SQLITE_DAMAGE):
            return Kind.DAMAGE
        # SQLITE_ERROR: usually a missing table.
        if name.startswith((*_SQLITE_LASTING, "ERROR")):
            return Kind.LASTING
        if isinstance(error, peewee.ProgrammingError):
            return Kind.DEFECT
        return Kind.PASSING
    state = getattr(original, "sqlstate", None)
    if state in _SQLSTATES:
        return _SQLSTATES[state]
    if isinstance(error, (peewee.ProgrammingError, peewee.NotSupportedError)):
        return Kind.DEFECT
    return Kind.PASSING


def is_read_only(error: peewee.PeeweeException) -> bool:
    """Return whether a SQLite connection was opened while its file could only be read."""
    name = getattr(original_of(error), "sqlite_errorname", None) or ""
    return name.startswith("SQLITE_READONLY")


def is_missing_reference(error: peewee.IntegrityError) -> bool:
    """Return whether a row was refused because a row that it refers to does not exist."""
    original = original_of(error)
    name = getattr(original, "sqlite_errorname", None)
    return name == "SQLITE_CONSTRAINT_FOREIGNKEY" or getattr(original, "sqlstate", None) == "23503"


def reason(error: BaseException) -> str:
    """Return the reason in the driver's own words, in one line.

    Only the first line of PostgreSQL's message: the second one may quote stored data.
    """
    original: Any = original_of(error)
    diagnosis = getattr(original, "diag", None)
    text = getattr(diagnosis, "message_primary", None) or str(original).partition("\n")[0]
    return one_line(text)


def one_line(text: str) -> str:
    """Return libpq's text for people, in one line."""
    return " ".join(_LIBPQ_PREFIX.sub("", _LIBPQ_HINT.sub("", text)).split())


def failure(error: peewee.DatabaseError) -> Exception:
    """Return the ``KeyoskError`` for an error; defects and constraints stay unchanged."""
    error_kind = kind(error)
    if error_kind is Kind.VALUE:
        # The last resort: callers check their values, and name the wrong one.
        return Invalid.field("value", "cannot be stored in the database")
    if error_kind in (Kind.DEFECT, Kind.CONSTRAINT):
        return error
    if error_kind is Kind.DAMAGE:
        return DatabaseDamaged("The database is damaged.", reason=reason(error))
    if error_kind is Kind.LASTING:
        return DatabaseUnusable("The database cannot be used as it is.", reason=reason(error))
    return Unavailable("The database is not available.", reason=reason(error))


def is_of_a_write(error: peewee.DatabaseError) -> bool:
    """Return whether PostgreSQL refused only to write, as a standby does."""
    return getattr(original_of(error), "sqlstate", None) == "25006"


def is_disk_full(error: peewee.DatabaseError) -> bool:
    """Return whether PostgreSQL has no room for a write. Others may have; SQLite refuses all."""
    return getattr(original_of(error), "sqlstate", None) == "53100"


def is_lasting(text: str) -> bool:
    """Return whether libpq's text means that no connection will succeed."""
    return _LASTING_TEXT.search(text) is not None


def is_poolers(text: str) -> bool:
    """Return whether a pooler refused the connection for parameters that it cannot forward."""
    return _POOLER.search(text) is not None
