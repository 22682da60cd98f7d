"""PostgreSQL for peewee, with a timeout for each response of the server.

PostgreSQL's ``statement_timeout`` ends statements that take long. It cannot end the wait for a
server that hangs, was stopped or is cut off: its socket looks like that of a busy server.

The settings of a session are set after it has begun, not by its startup parameters. So the
parameters of the URL and of libpq's environment apply as well, and poolers, which refuse unknown
parameters, never see ours. ``_SESSION`` says which value wins.

A pooler may give each transaction another session. Behind a pooler each transaction sets what it
needs, statements are not prepared, and a single statement is sent as a transaction of its own, in
one round trip.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

import peewee
import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.types import json as json_types

from keyosk.config.database_urls import PostgresqlUrl
from keyosk.errors import DatabaseUnusable, Unavailable
from keyosk.storage import driver_errors
from keyosk.storage.compiled import Insert, Row
from keyosk.storage.direct_statements import DirectStatements
from keyosk.storage.outage import Outage
from keyosk.storage.pipeline import Pipeline

# It warns of each connection that breaks; ``outage`` logs that once, with the cause.
logging.getLogger("psycopg").setLevel(logging.ERROR)

# peewee sets these if it can import the driver; ``keyosk.storage`` prevents that.
for _name, _value in (
    ("psycopg", psycopg),
    ("TransactionStatus", TransactionStatus),
    ("Json_pg3", json_types.Json),
    ("Jsonb_pg3", json_types.Jsonb),
):
    setattr(peewee, _name, _value)

CONNECT_TIMEOUT: Final = 3  # seconds until a session has begun
STATEMENT_TIMEOUT: Final = 7_000  # milliseconds for one statement, enforced by the server
_RESPONSE_TIMEOUT: Final = 8.0  # seconds, with the time on the network
_PREPARE_AFTER: Final = 5  # executions of a statement, psycopg's own default
#: Before the failure of each host, where psycopg tried several.
_FAILED_HOST: Final = re.compile(r"\n- host: [^\n]*?, hostaddr: (?:None|'[^'\n]*'): ")
_REFUSED: Final = "The database cannot be used as it is."
_AWAY: Final = "The database is not available."


@dataclass(frozen=True, slots=True)
class _Setting:
    """The value that a session needs for one setting of PostgreSQL.

    ``value`` replaces the default of the role, database or server. A value in the URL or in
    PGOPTIONS stays if it matches ``may_be``; otherwise it is refused.
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
    # Keyosk takes explicit locks; a stricter level would abort transactions for no reason.
    "default_transaction_isolation": _Setting("read committed", re.compile("read committed")),
}
_PROBE: Final = """\
SELECT pg_backend_pid(), current_setting('server_encoding'),
  (SELECT json_object_agg(name, json_build_array(setting, source)) FROM pg_settings
    WHERE name = ANY(%s))"""
_PROBED: Final = [*_SESSION, "search_path", "default_transaction_read_only"]
#: The types that values of a JSON document are read as.
_JSON_TYPES: Final = {str: "text", int: "bigint", bool: "boolean"}
_OPEN: Final = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
_BEGIN: Final = b"BEGIN ISOLATION LEVEL READ COMMITTED"


class _Connection(psycopg.Connection[Any]):
    """A connection that ends when the server does not respond in time."""

    outage: Outage
    #: Seconds to wait for one response; ``None`` for no limit.
    response_timeout: float | None = _RESPONSE_TIMEOUT
    #: The schema of the tables.
    schema: str
    #: Whether the connection leads to a pooler.
    is_pooled = False
    #: The settings that the session needs.
    needed: dict[str, str]
    #: The statements that begin a transaction behind a pooler.
    opening: tuple[bytes, bytes]
    #: The cursor for statements whose rows are all fetched at once.
    reader: psycopg.Cursor[Any]
    #: Runs compiled statements; ``None`` if they need a cursor.
    direct: DirectStatements | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(
                gen, interval, self.response_timeout if timeout is None else timeout
            )
        except psycopg.errors._WaitTimeout:
            pass
        return self.give_up()

    def give_up(self) -> NoReturn:
        """End the connection, because the server does not respond."""
        self.pgconn.finish()  # close() would wait too
        self.outage.begin()
        # peewee translates this error by the name of its class.
        raise psycopg.OperationalError("The server does not respond.")

    def set_up(self, schema: str | None, prepare: int | str) -> None:
        """Set up the session. Raises ``DatabaseUnusable`` if it cannot have what Keyosk needs."""
        self.autocommit = True
        self.reader = self.cursor()
        self.prepare_threshold = None  # a pooler's session must keep nothing of this
        path = {} if schema is None else {"search_path": sql.Identifier(schema).as_string(self)}
        (pid, encoding, settings), current = self._probe(path)
        search_path, source = settings.pop("search_path")
        if path and source == "client" and search_path not in (schema, path["search_path"]):
            raise _refused("options set a search_path, and KEYOSK_DATABASE_SCHEMA a schema")
        if encoding != "UTF8":
            raise _refused(f"its encoding is {encoding}, and Keyosk needs one with ENCODING 'UTF8'")
        if current is None:
            name = f"no schema {schema}" if schema else "no schema of the search path"
            raise _refused(f"there is {name}, or this user may not use it")
        if settings.pop("default_transaction_read_only") == ["on", "client"]:
            raise _refused("options set default_transaction_read_only")
        self.schema = current
        needed = path | dict(_changes(settings))
        # A pooler reports a process of its own.
        self.is_pooled = pid != self.info.backend_pid
        self.need(needed)
        if self.is_pooled:
            self._refuse_statement_pooling()
        if isinstance(prepare, int):
            self.prepare_threshold = prepare
        elif prepare == "auto" and not self.is_pooled:
            self.prepare_threshold = _PREPARE_AFTER
        # Traces replace the class of cursors. Behind a pooler, four statements are sent for one.
        if not self.is_pooled and type(self.reader) is psycopg.Cursor:
            self.direct = DirectStatements(self, prepare_after=self.prepare_threshold)

    def need(self, settings: dict[str, str]) -> None:
        """Set this for the session; behind a pooler, at the beginning of each transaction."""
        self.needed = settings
        if self.is_pooled:
            self.opening = (_BEGIN, _set_config(settings, is_local=True).as_bytes(self))
        elif settings:
            self.execute(_set_config(settings, is_local=False))

    def _probe(self, path: dict[str, str]) -> tuple[Any, str | None]:
        """Return what the session has by default, and the schema that it has with ``path``.

        One transaction, because a pooler may give the next one another session. One round trip,
        because a limit on idle transactions may be short.
        """
        with self.pipeline():
            self.execute(_BEGIN)
            result = self.execute(_PROBE, (_PROBED,))
            if path:
                self.execute(_set_config(path, is_local=True))
            current = self.execute("SELECT current_schema()")
            self.execute("COMMIT")
        [probed], [(schema,)] = result.fetchall(), current.fetchall()
        return probed, schema

    def begin(self) -> None:
        """Begin a transaction behind a pooler and set what it needs, in one round trip."""
        self.execute(b"; ".join(self.opening))

    def _refuse_statement_pooling(self) -> None:
        try:
            self.begin()
            self.execute("COMMIT")
        except psycopg.Error as error:
            if "statement pooling" in str(error):
                raise _refused(
                    "a connection pooler allows no transactions; Keyosk needs pool_mode = "
                    "transaction or session, or PostgreSQL itself"
                ) from None
            raise


def _set_config(needed: dict[str, str], *, is_local: bool) -> sql.Composed:
    calls = [
        sql.SQL("set_config({}, {}, {})").format(name, value, is_local)
        for name, value in needed.items()
    ]
    return sql.SQL("SELECT ") + sql.SQL(", ").join(calls)


def _changes(settings: dict[str, tuple[str, str]]) -> Any:
    """Yield what to set, as (name, value). Raises ``DatabaseUnusable`` for a refused value."""
    for name, (value, source) in settings.items():
        setting = _SESSION[name]
        if source == "client":
            if not setting.may_be.fullmatch(value):
                raise _refused(f"options set {name} to {value}, which breaks a promise of Keyosk's")
            yield name, value
        elif name != "synchronous_commit" or not setting.may_be.fullmatch(value):
            yield name, setting.value


def _refused(why: str) -> DatabaseUnusable:
    return DatabaseUnusable(_REFUSED, reason=why)


class _Adapter(peewee.Psycopg3Adapter):
    txn_idle = TransactionStatus.IDLE
    txn_inerror = TransactionStatus.INERROR
    txn_unknown = TransactionStatus.UNKNOWN

    def __init__(
        self, url: PostgresqlUrl, schema: str | None, outage: Outage, *, prepare: int | str
    ) -> None:
        super().__init__()
        self._url = url
        self._schema = schema
        self._outage = outage
        self._prepare = prepare

    def connect(self, db: peewee.Database, **params: Any) -> _Connection:  # noqa: ARG002 - peewee's
        # peewee connects one thread at a time: those that waited need not time out as well.
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
                connection.set_up(self._schema, self._prepare)
            except BaseException:
                connection.close()
                raise
            return connection
        raise Unavailable(_AWAY, reason="the server does not respond")

    def _failure(self, text: str) -> Unavailable:
        """Return the error for a failed connection; the failures of several hosts are joined."""
        text = self._url.hide_secrets(text)
        first, *others = _FAILED_HOST.split(text)
        causes = others or [first]
        message = "; ".join(dict.fromkeys(driver_errors.one_line(cause) for cause in causes))
        if any(driver_errors.is_poolers(cause) for cause in causes):
            return _refused(
                f"a connection pooler refuses it ({message}): take such parameters out of the URL, "
                "or connect to PostgreSQL itself"
            )
        if all(driver_errors.is_lasting(driver_errors.one_line(cause)) for cause in causes):
            return DatabaseUnusable("The database refuses Keyosk.", reason=message)
        return Unavailable(_AWAY, reason=message)


class Postgresql(peewee.PostgresqlDatabase):
    """A PostgreSQL database by its URL."""

    def __init__(
        self, url: PostgresqlUrl, schema: str | None, outage: Outage, *, prepare: int | str
    ) -> None:
        """``outage``: begun when the server does not respond; ``prepare``: as ``Database``."""
        self.psycopg3_adapter = partial(_Adapter, url, schema, outage, prepare=prepare)
        defaults = {"fallback_application_name": "keyosk", "client_encoding": "UTF8"}
        # What libpq's environment has stays.
        if "connect_timeout" not in url.parameters and "PGCONNECT_TIMEOUT" not in os.environ:
            defaults["connect_timeout"] = str(CONNECT_TIMEOUT)
        # SECURITY: a standby may not know yet what was revoked, and a connection that found only it
        # would stay there.
        several = any("," in url.parameters.get(name, "") for name in ("host", "hostaddr"))
        if several and "PGTARGETSESSIONATTRS" not in os.environ:
            defaults["target_session_attrs"] = "read-write"
        parameters: dict[str, Any] = {**defaults, **url.parameters}
        super().__init__("postgresql", prefer_psycopg3=True, **parameters)
        #: For the event loop, which has no connection but this.
        self.pipeline = Pipeline(self._connect, outage)  # type: ignore[attr-defined]
        #: Another, so that nothing is read behind a commit that waits for the disk.
        self.write_pipeline = Pipeline(self._connect, outage)  # type: ignore[attr-defined]

    def begin(self, isolation_level: Any = None) -> None:
        """Begin a transaction; behind a pooler, with the settings that it needs."""
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        if not connection.is_pooled:
            super().begin(isolation_level)
            return
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
            connection.begin()

    def execute_sql(self, statement: str, params: Any = None) -> Any:
        """Run a statement; behind a pooler always in a transaction, if need be in its own."""
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        if not connection.is_pooled or self.in_transaction():
            return super().execute_sql(statement, params)  # type: ignore[no-untyped-call]
        with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
            try:
                with connection.pipeline():
                    for each in connection.opening:
                        connection.execute(each)
                    cursor = super().execute_sql(statement, params)  # type: ignore[no-untyped-call]
                    connection.execute("COMMIT")
            except BaseException:
                if connection.info.transaction_status in _OPEN:
                    connection.rollback()
                raise
        return cursor

    def cursor(self, named_cursor: str | None = None, *, kept: bool = False) -> Any:
        """Return a cursor, or the one that this thread keeps for ``fetch``."""
        if not kept:
            return super().cursor(named_cursor)  # type: ignore[no-untyped-call]
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        return connection.reader

    def fetch(self, statement: str, params: Any) -> list[tuple[Any, ...]]:
        """Run a statement and return all of its rows, at half the cost of ``execute_sql``.

        The cursor is reused: creating one and describing its columns takes as long as running the
        statement of a login.
        """
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        if connection.is_pooled:
            cursor = self.execute_sql(statement, params)
        else:
            cursor = self._execute_cursor(statement, params, kept=True)  # type: ignore[attr-defined]
        # psycopg refuses to fetch from a write without RETURNING.
        return cursor.fetchall() if cursor.pgresult.nfields else []

    def fetch_compiled(self, statement: str, params: Any) -> list[tuple[Any, ...]]:
        """As ``fetch``, for the few statements that run at each request."""
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        direct = connection.direct
        if direct is None or not direct.is_idle or self.query_hooks:
            return self.fetch(statement, params)
        self._log_query(statement, params)  # type: ignore[attr-defined]
        return direct.fetch(statement, params)

    def insert_many(self, insert: Insert, columns: Sequence[Sequence[Any]]) -> list[Row]:
        """Insert rows, given the values of each column. Call it inside a transaction.

        It takes a fifth of the time of an INSERT with parameters.

        COPY has no parameters, but can neither skip rows nor return keys: where that is needed, the
        rows are sent as one JSON document.
        """
        rows = zip(*columns, strict=True)
        names = sql.SQL(", ").join(sql.Identifier(each.stored_as) for each in insert.columns)
        if insert.returns:
            types = ", ".join(
                f'"{each.stored_as}" {_JSON_TYPES[each.kind]}' for each in insert.columns
            )
            named = names.as_string()
            keys = [each.stored_as for each in insert.columns]
            document = json.dumps([dict(zip(keys, row, strict=True)) for row in rows])
            return self.fetch(
                f"{insert.head} SELECT {named} FROM json_to_recordset(%s) AS given({types})"  # noqa: S608  # nosec B608
                f"{insert.tail}",
                [document],
            )
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(insert.table), names)
        with peewee.__exception_wrapper__, connection.reader.copy(copy) as into:  # type: ignore[attr-defined]
            for row in rows:
                into.write_row(row)
        return []

    @contextmanager
    def without_timeouts(self) -> Iterator[None]:
        """Remove the timeouts of this thread's connection."""
        connection: _Connection = self.connection()  # type: ignore[no-untyped-call]
        usual = connection.needed
        connection.response_timeout = None
        connection.need(usual | {"statement_timeout": "0"})
        try:
            yield
        finally:
            del connection.response_timeout
            connection.need(usual)
