"""PostgreSQL as peewee connects to it, but with a deadline for each of its answers.

Its own ``statement_timeout`` ends what takes long. Nothing of its own ends the wait for a server
that hangs, is stopped or cut off: a socket to it looks like one to a busy server.

What a session needs is set once it is there, not at its start: so whatever the URL and libpq's
environment ask for at the start holds too, and poolers, which refuse unknown parameters, do not
see it. ``_SESSION`` says which of that wins.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import peewee
import psycopg

from keyosk.config.database_urls import PostgresqlUrl
from keyosk.errors import DatabaseUnusable, Unavailable
from keyosk.storage import driver_errors
from keyosk.storage.outage import Outage

CONNECT_TIMEOUT: Final = 3  # seconds until a session is there
STATEMENT_TIMEOUT: Final = 7_000  # milliseconds that the server gives one statement
_ANSWER_TIMEOUT: Final = 8.0  # seconds, the way there and back included
_PROBES: Final = 3  # of a pooler, which others may be using at the same time
_PROBE_TIMEOUT: Final = 3.0  # seconds
_REFUSED: Final = "The database cannot be used as it is."
_AWAY: Final = "The database is not available."


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a session needs of one setting of PostgreSQL's.

    ``value`` is set whatever role, database or server have as their default. Where the URL or
    PGOPTIONS name the setting, theirs stays if ``may_be`` allows it, and is refused if not.
    """

    value: str
    may_be: re.Pattern[str]


_ANY: Final = re.compile(r".*", re.DOTALL)
_SESSION: Final = {
    # A longer one would look like a server that hangs.
    "statement_timeout": _Setting(
        str(STATEMENT_TIMEOUT), re.compile(r"[1-9][0-9]{0,2}|[1-6][0-9]{3}|7000")
    ),
    "lock_timeout": _Setting("0", _ANY),
    # Connections are kept, and transactions have their own limits.
    "idle_session_timeout": _Setting("0", _ANY),
    "idle_in_transaction_session_timeout": _Setting("0", _ANY),
    "transaction_timeout": _Setting("0", _ANY),
    # SECURITY: committed means on disk. Set only where it is off: others are as strict or stricter.
    "synchronous_commit": _Setting("on", re.compile(r"on|local|remote_write|remote_apply")),
    # The code takes its locks itself; a stricter level would end transactions without need.
    "default_transaction_isolation": _Setting("read committed", re.compile("read committed")),
}
_PROBE: Final = """\
SELECT pg_backend_pid(), current_setting('server_encoding'), current_schema(),
  (SELECT setting = 'on' AND source = 'client' FROM pg_settings
    WHERE name = 'default_transaction_read_only'),
  (SELECT json_object_agg(name, json_build_array(setting, source)) FROM pg_settings
    WHERE name = ANY(%s))"""


class _Connection(psycopg.Connection[Any]):
    """A connection that ends when the server does not respond in time."""

    outage: Outage
    #: Seconds to wait for one answer; ``None`` for as long as it takes.
    patience: float | None = _ANSWER_TIMEOUT
    #: The schema that tables are in.
    schema: str
    #: Whether somebody between us and the server answers in its place.
    is_pooled: bool

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()  # close() would wait too
            self.outage.begin()
        # peewee knows this one by its name.
        raise psycopg.OperationalError("The server does not respond.")

    def set_up(self, schema: str | None) -> None:
        """Give the session what it needs. Raises ``DatabaseUnusable`` if it cannot have it."""
        self.autocommit = True
        if schema is not None:
            quoted = '"' + schema.replace('"', '""') + '"'
            [(path, source)] = self.execute(
                "SELECT setting, source FROM pg_settings WHERE name = 'search_path'"
            ).fetchall()
            if source == "client" and path not in (schema, quoted):
                raise _refused("options set a search_path, and KEYOSK_DATABASE_SCHEMA a schema")
            self.execute("SELECT set_config('search_path', %s, false)", (quoted,))
        [row] = self.execute(_PROBE, (list(_SESSION),)).fetchall()
        pid, encoding, current, read_only, settings = row
        if encoding != "UTF8":
            raise _refused(f"its encoding is {encoding}, and Keyosk needs one with ENCODING 'UTF8'")
        if current is None:
            name = f"no schema {schema}" if schema else "no schema of the search path"
            raise _refused(f"there is {name}, or this user may not use it")
        if read_only:
            raise _refused("options set default_transaction_read_only")
        self.schema = current
        self.is_pooled = pid != self.info.backend_pid
        changes = list(_changes(settings))
        if changes:
            calls = ", ".join(["set_config(%s, %s, false)"] * len(changes))
            self.execute(f"SELECT {calls}".encode(), [text for pair in changes for text in pair])


def _changes(settings: dict[str, tuple[str, str]]) -> Any:
    """What to set, as (name, value). Raises ``DatabaseUnusable`` for what was asked in vain."""
    for name, (value, source) in settings.items():
        setting = _SESSION[name]
        if source == "client":
            if not setting.may_be.fullmatch(value):
                raise _refused(f"options set {name} to {value}, which breaks a promise of Keyosk's")
        elif name != "synchronous_commit" or not setting.may_be.fullmatch(value):
            yield name, setting.value


def _refused(why: str) -> DatabaseUnusable:
    return DatabaseUnusable(_REFUSED, reason=why)


def _share_a_session(connection: _Connection, parameters: dict[str, Any]) -> bool:
    """Whether a second connection gets the session of the first while that one is idle."""
    ask = "SELECT pg_backend_pid()"
    try:
        with _Connection.connect(autocommit=True, **parameters) as other:
            other.outage, other.patience = Outage(), _PROBE_TIMEOUT
            before = connection.execute(ask).fetchone()
            other.execute("BEGIN")
            if other.execute(ask).fetchone() == before:
                return True
            # The second one holds a session now, so the first one may have to take another.
            return connection.execute(ask).fetchone() != before
    except psycopg.Error as error:
        # Else there is no room for a second session, as each connection has its own.
        return "statement pooling" in str(error)


class _Adapter(peewee.Psycopg3Adapter):
    def __init__(self, url: PostgresqlUrl, schema: str | None, outage: Outage) -> None:
        super().__init__()
        self._url = url
        self._schema = schema
        self._outage = outage

    def connect(self, db: peewee.Database, **params: Any) -> _Connection:  # noqa: ARG002 - peewee's
        # peewee connects one thread after another: those who waited need not find it out again.
        if self._outage.forbids:
            raise Unavailable(_AWAY)
        try:
            connection = _Connection.connect(**params)
        except psycopg.errors.ConnectionTimeout:
            self._outage.begin()
        except psycopg.Error as error:
            raise self._failure(str(error)) from None
        else:
            connection.outage = self._outage
            try:
                connection.set_up(self._schema)
            except BaseException:
                connection.close()
                raise
            return connection
        raise Unavailable(_AWAY, reason="the server does not respond")

    def _failure(self, text: str) -> Unavailable:
        """What a failed connection means; several hosts that all failed are told together."""
        text = self._url.hide_secrets(text)
        first, *others = text.split("\n- host: ")
        causes = [each.partition(": ")[2] for each in others] or [first]
        told = "; ".join(dict.fromkeys(driver_errors.one_line(cause) for cause in causes))
        if any(driver_errors.is_poolers(cause) for cause in causes):
            return _refused(
                f"a connection pooler refuses it ({told}): take such parameters out of the URL, or "
                "connect to PostgreSQL itself"
            )
        if all(driver_errors.is_lasting(driver_errors.one_line(cause)) for cause in causes):
            return DatabaseUnusable("The database refuses Keyosk.", reason=told)
        return Unavailable(_AWAY, reason=told)


class Postgresql(peewee.PostgresqlDatabase):
    """A PostgreSQL database by its URL."""

    def __init__(self, url: PostgresqlUrl, schema: str | None, outage: Outage) -> None:
        """``outage``: begun when the server does not respond."""
        self.psycopg3_adapter = partial(_Adapter, url, schema, outage)
        defaults = {"fallback_application_name": "keyosk", "client_encoding": "UTF8"}
        # libpq's environment may have a timeout of its own, which stays.
        if "connect_timeout" not in url.parameters and "PGCONNECT_TIMEOUT" not in os.environ:
            defaults["connect_timeout"] = str(CONNECT_TIMEOUT)
        self._parameters: dict[str, Any] = {**defaults, **url.parameters}
        super().__init__("postgresql", prefer_psycopg3=True, **self._parameters)

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Have this thread's connection wait for each answer as long as it takes."""
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        [(usual,)] = connection.execute("SHOW statement_timeout").fetchall()
        connection.execute("SET statement_timeout = 0")
        connection.patience = None
        try:
            yield
        finally:
            del connection.patience
            connection.execute("SELECT set_config('statement_timeout', %s, false)", (usual,))

    def refuse_transaction_pooling(self) -> None:
        """Raise ``DatabaseUnusable`` behind a pooler that gives each transaction another session.

        Locks, prepared statements and settings are the session's. There the connection that this
        thread keeps has no session of its own: a second one gets the same.
        """
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        if not connection.is_pooled:
            return
        for _ in range(_PROBES):
            if _share_a_session(connection, self._parameters):
                raise _refused(
                    "a connection pooler gives each transaction another session; Keyosk needs "
                    "pool_mode = session, or PostgreSQL itself"
                )
