"""Connections, transactions and compiled queries, for SQLite and PostgreSQL alike.

Each thread keeps one connection open: opening costs 0.3 ms on SQLite and 5 ms on PostgreSQL, and a
process without an open SQLite connection cannot even read once the disk is full.
"""

import hashlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import peewee

from keyosk.errors import Conflict, DatabaseUnusable, Unavailable
from keyosk.storage.compiled import Compiled, Row
from keyosk.storage.outage import Outage

_BUSY_TIMEOUT: Final = 4.0  # seconds that a SQLite writer waits for another
_ROWS_AT_ONCE: Final = 500  # of a dozen columns: SQLite takes 32,766 values in a statement

_SQLITE_PRAGMAS: Final = {
    "journal_mode": "wal",
    # SECURITY: NORMAL is four times as fast and may lose acknowledged writes when the power fails.
    "synchronous": "full",
    "foreign_keys": 1,  # off by default in SQLite
}

T = TypeVar("T")


class Database:
    """One database, whichever it is. Safe to share between threads, not across a fork.

    Everything here raises ``Unavailable`` when the database cannot be reached or cannot write now.
    """

    def __init__(self, url: str) -> None:
        """``url``: ``sqlite:///relative``, ``sqlite:////absolute`` or ``postgresql://...``.

        Nothing is opened yet.
        """
        self.path = sqlite_path(url)
        self._ends = threading.local()
        self._outage = Outage()
        self._known = threading.local()  # the outages before this thread's connection
        self._templates: dict[Any, tuple[str, str, str, list[tuple[str, Any]]]] = {}
        self._peewee: peewee.Database
        if self.path is not None:
            self._peewee = peewee.SqliteDatabase(
                str(self.path), pragmas=_SQLITE_PRAGMAS, timeout=_BUSY_TIMEOUT
            )
        else:
            from keyosk.storage.postgresql import Postgresql  # noqa: PLC0415 - its driver is an extra

            self._peewee = Postgresql(url, self._outage)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite; everything but locks and migrations should not care."""
        return self.path is not None

    @property
    def raw(self) -> peewee.Database:
        """The peewee database, for migrations only."""
        return self._peewee

    def create_file(self) -> None:
        """Make the SQLite file, its folder (0700) and its permissions (0600), where missing."""
        if self.path is None:
            return
        try:
            if not self.path.parent.exists():
                self.path.parent.mkdir(mode=0o700, parents=True)
            if not self.path.exists():
                # SECURITY: made before SQLite would make it by the umask; -wal and -shm copy it.
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            if stat.S_IMODE(self.path.stat().st_mode) != 0o600:
                self.path.chmod(0o600)
        except OSError as error:
            raise DatabaseUnusable(f"Cannot make {self.path}: {error.strerror}.") from error

    def rows(self, query: peewee.Query) -> list[dict[str, Any]]:
        """All rows of a select, as dictionaries by column."""
        return list(self._run(lambda: query.dicts().execute(self._peewee), repeatable=True))

    def row(self, query: peewee.Query) -> dict[str, Any] | None:
        """The first row of a select, or ``None``."""
        found = self.rows(query.limit(1))
        return found[0] if found else None

    def count(self, query: "peewee.ModelSelect[Any]") -> int:
        """How many rows a select has."""
        return int(self._run(lambda: query.count(self._peewee), repeatable=True))

    def write(self, query: peewee.Query) -> int:
        """Run an insert, update or delete; answers how many rows it touched.

        Raises ``peewee.IntegrityError`` for the store to translate with ``conflict``.
        """
        touched = self._run(lambda: query.execute(self._peewee), reads=False)
        return touched if isinstance(touched, int) else 0

    def insert(self, table: type[peewee.Model], rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows without asking their keys back."""
        if rows:
            self._run(
                lambda: table.insert_many(rows).returning().execute(self._peewee), reads=False
            )

    def insert_all(
        self,
        table: type[peewee.Model],
        rows: Sequence[Mapping[str, Any]],
        *,
        skipping_taken: bool = False,
    ) -> list[Any]:
        """Insert many rows, which all name the same columns and all of them, by few statements.

        As ``insert``, at a sixth of its cost: peewee takes 150 us to compile a row. Answers the
        primary keys of those inserted, which with ``skipping_taken`` may not be all: rows whose
        unique values another row has are left out. Raises ``peewee.IntegrityError``.
        """
        inserted: list[Any] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            batch = rows[start : start + _ROWS_AT_ONCE]
            head, group, tail, fields = self._template(
                table, tuple(batch[0]), skipping_taken=skipping_taken
            )
            sql = f"{head}{', '.join([group] * len(batch))}{tail}"
            values = [field.db_value(row[name]) for row in batch for name, field in fields]
            inserted.extend(row[0] for row in self._execute(sql, values, repeatable=False))
        return inserted

    def compile(self, query: peewee.Query, *, repeatable: bool = True) -> "Compiled":
        """Turn a query with ``parameter`` values into SQL once, to be run many times.

        ``repeatable``: it only reads, and may be run again on another connection. peewee takes
        225 us to compile a join that runs in 10.
        """
        sql, parameters = query.bind(self._peewee).sql()
        execute = partial(self._execute, repeatable=repeatable)
        return Compiled(execute, sql, tuple(parameters))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside happen or none does; joins a transaction that is already open.

        On SQLite it takes the write lock at once (BEGIN IMMEDIATE): a deferred one that turns into
        a writer fails without waiting. Committed means on disk.
        """
        if self._peewee.in_transaction():
            yield
            return
        context = self._begin()
        self._ends.items = {}
        try:
            yield
            for write, items in self._ends.items.items():
                write(items)
        except BaseException:
            self._end(context, *sys.exc_info())
            raise
        finally:
            self._ends.items = {}
        self._end(context, None, None, None)

    def at_end(self, write: Callable[[Collection[T]], None], item: T) -> None:
        """Inside a transaction: have ``write`` called at its end, once, with all items given so.

        For writes under a lock that every transaction may want. Taken last, it is held for hardly
        more than the commit, and no two transactions can wait for one another.
        """
        self._ends.items.setdefault(write, []).append(item)

    def lock(self, name: str) -> None:
        """Inside a transaction: wait until no other one on this database holds the lock ``name``.

        SQLite needs none, as it has one writer at a time.
        """
        if not self.is_sqlite:
            number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
            self._execute("SELECT pg_advisory_xact_lock(%s)", (number,))

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Have this thread's connection wait for each answer as long as it takes.

        Locks and migrations may take long, and that is no reason to give up.
        """
        if self.is_sqlite:
            yield
            return
        connection = self._peewee.connection()
        self._peewee.execute_sql("SET statement_timeout = 0")
        connection.patience = None
        try:
            yield
        finally:
            del connection.patience
            self._peewee.execute_sql("RESET statement_timeout")

    def ping(self) -> None:
        """Succeed if the database answers."""
        try:
            self._execute("SELECT 1", ())
        except peewee.DatabaseError as error:
            raise DatabaseUnusable(
                "The database cannot be used: damaged, or no database."
            ) from error

    def check(self) -> None:
        """Raise ``Unavailable`` if the database is known not to answer, before other waits."""
        if self._outage.is_on:
            with self.transaction():
                pass

    def close(self) -> None:
        """Close the connection of this thread."""
        self._peewee.close()

    def _begin(self) -> Any:
        def begin() -> Any:
            lock_type = ("IMMEDIATE",) if self.is_sqlite else ()
            return self._peewee.transaction(*lock_type).__enter__()

        return self._run(begin, repeatable=True, reads=False)

    def _end(self, context: Any, *exc_info: Any) -> None:
        try:
            context.__exit__(*exc_info)
        except (peewee.OperationalError, peewee.InterfaceError) as error:
            if not self._outage.is_on:
                self._drop_connection()
            if exc_info[0] is None:
                raise Unavailable("The database did not confirm the write.") from error

    def _template(
        self, table: type[peewee.Model], names: tuple[str, ...], *, skipping_taken: bool
    ) -> tuple[str, str, str, list[tuple[str, Any]]]:
        """An insert as SQL: what stands before the rows, one row, what stands behind, its fields.

        The fields as (name, field), in the order of the places in a row.
        """
        known = self._templates.get((table, names, skipping_taken))
        if known is not None:
            return known
        meta = table._meta
        fields = [meta.combined[name] for name in names]
        query = table.insert_many([[None] * len(fields)], fields=fields)
        if skipping_taken:
            query = query.on_conflict_ignore()
        sql, _ = query.returning(meta.primary_key).bind(self._peewee).sql()
        head, values, rest = sql.partition(" VALUES ")
        group, end, tail = rest.partition(")")
        made = (head + values, group + end, tail, list(zip(names, fields, strict=True)))
        self._templates[table, names, skipping_taken] = made
        return made

    def _execute(
        self, sql: str, parameters: Sequence[Any], *, repeatable: bool = True
    ) -> list[Row]:
        return self._run(
            lambda: self._peewee.execute_sql(sql, parameters).fetchall(),
            repeatable=repeatable,
            reads=repeatable,
        )

    def _run(self, action: Callable[[], T], *, repeatable: bool = False, reads: bool = True) -> T:
        """Run ``action``; if ``repeatable``, once more when the kept connection was found dead.

        ``reads``: it only does. SECURITY: a write is never repeated. It may have happened before
        its answer was lost.
        """
        if self._peewee.in_transaction():
            return self._attempt(action)
        # A SQLite file that somebody has locked can still be read.
        if self._outage.is_on and not (reads and self.is_sqlite):
            with self._outage.trial():
                self._renew_connection()
                return self._attempt(action)
        self._renew_connection()
        return self._attempt(action, again=repeatable)

    def _attempt(self, action: Callable[[], T], *, again: bool = False) -> T:
        try:
            return action()
        # An InternalError is what PostgreSQL calls a write to a server that is a standby now.
        except (peewee.OperationalError, peewee.InterfaceError, peewee.InternalError) as error:
            if self.is_sqlite and "locked" in str(error):
                self._outage.begin()
            again = again and not self._outage.is_on and self._is_broken()
            if not self._outage.is_on:  # else it would wait for the thread that tries
                self._drop_connection()
            if not again:
                raise Unavailable("The database is not available.") from error
        return self._attempt(action)

    def _renew_connection(self) -> None:
        """Drop a connection from before the last outage: it may be dead without knowing."""
        if getattr(self._known, "outages", 0) != self._outage.number:
            self._known.outages = self._outage.number
            self._drop_connection()

    def _is_broken(self) -> bool:
        return not self.is_sqlite and not self._peewee.is_connection_usable()

    def _drop_connection(self) -> None:
        # Inside a transaction the connection stays until its end has rolled back.
        if not self.is_sqlite and not self._peewee.in_transaction():
            try:
                self._peewee.close()
            except peewee.PeeweeException:
                self._peewee.dispose()


def sqlite_path(url: str) -> Path | None:
    """The file that a ``sqlite:`` URL names, or ``None`` for another database."""
    scheme, _, rest = url.partition(":///")
    return Path(rest) if scheme == "sqlite" else None


def conflict(
    error: peewee.IntegrityError,
    table: type[peewee.Model],
    fields: Mapping[str, str],
    *,
    field: str | None = None,
) -> Conflict:
    """The ``Conflict`` that a violated uniqueness means; ``fields`` maps column to sentence.

    ``field``: what callers call the column, where its name is another.

    SQLite names table and column in its message, PostgreSQL the index that peewee named after them.
    """
    # Only the first line: PostgreSQL's second one quotes the value that somebody sent.
    text = str(error).partition("\n")[0]
    name, key = table._meta.table_name, table._meta.primary_key
    for column, detail in fields.items():
        index = "pkey" if key is not False and column == key.column_name else column
        if f"{name}.{column}" in text or f'"{name}_{index}"' in text:
            return Conflict(field or column, detail)
    raise error
