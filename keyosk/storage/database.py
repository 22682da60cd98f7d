"""Connections, transactions and compiled queries, for SQLite and PostgreSQL alike.

Each thread keeps one connection open: opening costs 0.3 ms on SQLite and 5 ms on PostgreSQL, and a
process without an open SQLite connection cannot even read once the disk is full.
"""

import hashlib
import random
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import peewee

from keyosk import delays
from keyosk.config import database_urls
from keyosk.config.database_urls import SqliteUrl
from keyosk.errors import Unavailable
from keyosk.metrics import Metrics
from keyosk.storage import driver_errors, drivers, files
from keyosk.storage.compiled import Compiled, Inserts, Row
from keyosk.storage.driver_errors import Kind
from keyosk.storage.drivers import Driver
from keyosk.storage.files import OpenedFile
from keyosk.storage.group_commit import GroupCommit, Statement
from keyosk.storage.outage import Outage, OutageLog, ThreadState
from keyosk.storage.sqlite import Sqlite
from keyosk.storage.turns import Turns

if TYPE_CHECKING:
    from keyosk.storage.pipeline import Pipeline

_ROWS_AT_ONCE: Final = 500  # of a dozen columns; a statement of SQLite has at most 32,766 values
_MANY: Final = 50  # from here on a way with more round trips pays

T = TypeVar("T")


class Database:
    """A SQLite or PostgreSQL database. Threads may share it; processes may not, after a fork.

    Everything here raises ``Unavailable`` when the database cannot be reached or cannot write now.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        prepare_threshold: int | str = "auto",
        metrics: Metrics | None = None,
        outage_log: OutageLog | None = None,
    ) -> None:
        """Configure the database; nothing is opened yet. ``url``: see ``config.database_urls``.

        For PostgreSQL, ``schema``: that of the tables; ``prepare_threshold``: how often a statement
        runs before the server keeps its plan. ``metrics`` counts and times all statements,
        ``outage_log`` logs outages.
        """
        self._metrics = metrics or Metrics()
        self._options = (url, schema, prepare_threshold)
        parsed = database_urls.parse(url)
        self.path = parsed.path if isinstance(parsed, SqliteUrl) else None
        #: Whether this is SQLite; only locks and migrations should need to know.
        self.is_sqlite: Final = self.path is not None
        self._log = outage_log or OutageLog()
        self._ends = threading.local()
        self._outage = Outage()
        self._thread = ThreadState()
        self._turns: Turns | None = None
        self._file: OpenedFile | None = None
        self._peewee: Driver
        if isinstance(parsed, SqliteUrl):
            self._turns = Turns(parsed.path)
            self._file = OpenedFile(parsed.path)
            self._peewee = Sqlite(parsed.path)
        else:
            self._peewee = drivers.postgresql(
                parsed, schema, self._outage, prepare=prepare_threshold
            )
        self._inserts = Inserts(self._peewee)
        self._loop_writes = self._peewee.write_pipeline or GroupCommit(self._run_group)

    @property
    def raw(self) -> peewee.Database:
        """The peewee database, for migrations only."""
        return self._peewee

    def read_without_waiting(self) -> None:
        """Make this thread's connection to a SQLite file fail at once if the file is locked."""
        if self.is_sqlite:
            self.ping()
            self._execute("PRAGMA busy_timeout = 0", ())

    def reads_in_loop(self) -> bool:
        """Return whether compiled queries delay nothing else of the event loop, which calls it."""
        pipeline = self._peewee.pipeline
        return pipeline is None or pipeline.is_ready()

    def create_file(self) -> None:
        """Create the SQLite file (0600) and its folder (0700), where missing."""
        if self.path is not None:
            files.create(self.path)

    def has_file(self) -> bool:
        """Return whether there is a SQLite file.

        Raises ``DatabaseUnusable`` if it is inaccessible.
        """
        return self.path is not None and files.exists(self.path)

    def rows(self, query: peewee.Query) -> list[dict[str, Any]]:
        """Return all rows of a select, as dictionaries by column."""
        return list(self._run(lambda: query.dicts().execute(self._peewee), repeatable=True))

    def values(self, query: peewee.Query) -> list[Any]:
        """Return the first column of a select, unconverted: for keys, which are text.

        It takes a tenth of the time of ``rows``.
        """
        sql, parameters = query.bind(self._peewee).sql()
        return [row[0] for row in self._execute(sql, parameters)]

    def row(self, query: peewee.Query) -> dict[str, Any] | None:
        """Return the first row of a select, or ``None``."""
        rows = self.rows(query.limit(1))
        return rows[0] if rows else None

    def count(self, query: "peewee.ModelSelect[Any]") -> int:
        """Return the number of rows of a select."""
        return int(self._run(lambda: query.count(self._peewee), repeatable=True))

    def write(self, query: peewee.Query) -> int:
        """Run an insert, update or delete; returns the number of rows.

        Raises ``peewee.IntegrityError`` for the store to translate with ``conflict``.
        """
        touched = self._run(lambda: query.execute(self._peewee), reads=False)
        return touched if isinstance(touched, int) else 0

    def returned(self, query: peewee.Query) -> list[dict[str, Any]]:
        """Run a write with a RETURNING clause; returns its rows as dictionaries by column.

        Raises ``peewee.IntegrityError`` as ``write``.
        """
        return self._run(lambda: list(query.dicts().execute(self._peewee)), reads=False)

    def insert(self, table: type[peewee.Model], rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, without returning their keys."""
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
        """Insert many rows, which all have every column, by few statements.

        It costs a sixth of ``insert``: peewee takes 150 us to compile a row. ``skipping_taken``:
        skip rows whose unique values are taken, and return the primary keys of the others. Raises
        ``peewee.IntegrityError``.
        """
        names = tuple(rows[0]) if rows else ()
        columns = {name: [row[name] for row in rows] for name in names}
        return self.insert_columns(table, columns, skipping_taken=skipping_taken)

    def insert_columns(
        self,
        table: type[peewee.Model],
        columns: Mapping[str, Sequence[Any]],
        *,
        skipping_taken: bool = False,
    ) -> list[Any]:
        """Insert rows as ``insert_all`` does, given the values of each column."""
        number = len(next(iter(columns.values()), ()))
        inserted: list[Any] = []
        for start in range(0, number, _ROWS_AT_ONCE):
            size = min(_ROWS_AT_ONCE, number - start)
            insert = self._inserts.of(table, tuple(columns), skipping_taken=skipping_taken)
            by_column = [
                column.values(columns[column.name][start : start + size])
                for column in insert.columns
            ]
            if size >= _MANY:
                insert_many = partial(self._peewee.insert_many, insert, by_column)
                with self.transaction():
                    keys = self._run(insert_many, reads=False)
            else:
                values = [*chain.from_iterable(zip(*by_column, strict=True))]
                keys = self._execute(insert.values(size), values, repeatable=False)
            inserted.extend(row[0] for row in keys)
        return inserted

    def compile(
        self, query: peewee.Query, *, repeatable: bool = True, writes: bool = False
    ) -> "Compiled":
        """Compile a query with ``parameter`` values to SQL once.

        ``repeatable``: it may run twice, on two connections. A request in the event loop may run it
        there, and then begin again in a thread. So what ``writes`` as well must change nothing the
        second time. peewee takes 225 us to compile a join that runs in 10.
        """
        in_loop: Pipeline | GroupCommit | None = None
        if repeatable:
            in_loop = self._loop_writes if writes else self._peewee.pipeline

        def execute(sql: str, parameters: Sequence[Any]) -> list[Row]:
            if in_loop is not None and delays.leave_loop.get() is not None:
                began = time.perf_counter()
                rows: list[Row] | None = in_loop.fetch(sql, parameters)
                if rows is not None:
                    self._metrics.query(time.perf_counter() - began)
                    return rows
            fetch = partial(self._peewee.fetch_compiled, sql, parameters)
            reads = repeatable and not writes
            rows = self._run(fetch, repeatable=reads, reads=reads)
            if in_loop is not None and in_loop.is_wanted:
                in_loop.open()
            return rows

        return Compiled(execute, query.bind(self._peewee))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Enclose a transaction; joins one that is already open.

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
        """Inside a transaction: call ``write`` once at its end, with the items of all calls.

        For writes under a lock that many transactions need. Because it is taken last, it is held
        for hardly longer than the commit, and two transactions never deadlock.
        """
        self._ends.items.setdefault(write, []).append(item)

    def lock(self, name: str, *, in_public: int | None = None) -> bool:
        """Inside a transaction: take the lock ``name``, until the end of the transaction.

        SQLite needs none, because it has one writer at a time. Returns whether others may have
        written since the transaction began. ``in_public``: as for ``lock_number``.
        """
        if self.is_sqlite:
            return False
        number = self.lock_number(name, in_public=in_public)
        self._execute("SELECT pg_advisory_xact_lock(%s)", (number,))
        return True

    @contextmanager
    def lock_apart(self, name: str, *, in_public: int | None = None) -> Iterator[None]:
        """Hold the lock ``name`` over several transactions. For PostgreSQL.

        A transaction on another connection holds it, because behind a pooler only a transaction
        keeps its session, and a lock with it.
        """
        url, schema, prepare_threshold = self._options
        holder = Database(
            url, schema=schema, prepare_threshold=prepare_threshold, outage_log=self._log
        )
        holder.ping()
        try:
            with holder.without_timeouts(), holder.transaction():
                holder.lock(name, in_public=in_public)
                yield
        finally:
            holder.close()

    def lock_number(self, name: str, *, in_public: int | None = None) -> int:
        """Return PostgreSQL's number of a lock; it differs for each schema.

        ``public`` keeps the numbers of older versions; ``in_public``: that of the schema
        ``public``.
        """
        with self.driver_errors():
            schema = self._peewee.connection().schema  # type: ignore[no-untyped-call]
        if in_public is not None and schema == "public":
            return in_public
        text = name if schema == "public" else f"{name} of {schema}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)

    @contextmanager
    def driver_errors(self) -> Iterator[None]:
        """Enclose code that uses ``raw``: raise ``Unavailable`` for its errors."""
        try:
            with driver_errors.translated():
                yield
        except peewee.DatabaseError as last:
            error = driver_errors.first_of(last)
            raise self._failure(error) from error

    @contextmanager
    def without_timeouts(self) -> Iterator[None]:
        """Remove the timeouts of this thread's connection, for locks and migrations."""
        with self.driver_errors(), self._peewee.without_timeouts():
            yield

    def ping(self) -> None:
        """Succeed if the database responds, and its file is still the one that was opened."""
        if self._file is not None:
            self._file.due = 0.0  # look now: whoever asks does nothing else
        self._execute("SELECT 1", ())

    def clock(self) -> float | None:
        """Return the time by the database's clock, if it has one of its own."""
        if self.is_sqlite:
            return None
        [(now,)] = self._execute("SELECT extract(epoch FROM clock_timestamp())::float8", ())
        return float(now)

    def size(self) -> int:
        """Return the size of the database in bytes."""
        if self.is_sqlite:
            statement = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        else:
            statement = "SELECT pg_database_size(current_database())"
        return int(self._execute(statement, ())[0][0])

    def connections(self) -> tuple[int, int]:
        """Return how many connections PostgreSQL has to this database, and how many it allows."""
        if self.is_sqlite:
            return 0, 0
        [(used, most)] = self._execute(
            "SELECT (SELECT numbackends FROM pg_stat_database WHERE datname = current_database()),"
            " current_setting('max_connections')::int",
            (),
        )
        return int(used), int(most)

    def check(self) -> None:
        """Raise ``Unavailable`` if the database is known not to respond, before other waits."""
        if self._outage.is_on:
            with self.transaction():
                pass

    def seconds_away(self, *, within: float) -> float:
        """Return for how many seconds, at most, the database was not available until just now.

        0 unless it still is not, or that ended less than ``within`` seconds ago.
        """
        return self._log.seconds(within=within)

    def close(self) -> None:
        """Close the connection of this thread."""
        self._peewee.close()

    def _run_group(self, group: Sequence[Statement]) -> list[list[Row]]:
        # One statement is a transaction by itself.
        with self.transaction() if len(group) > 1 else nullcontext():
            return [self._execute(*statement, repeatable=False) for statement in group]

    def _begin(self) -> Any:
        delays.before_waiting()

        def begin() -> Any:
            if self._turns is None:
                return self._peewee.transaction().__enter__()
            self._turns.take()
            try:
                return self._peewee.transaction("IMMEDIATE").__enter__()
            except BaseException:
                self._turns.give()
                raise

        begun = self._run(begin, repeatable=True, reads=False)
        self._thread.wrote = False
        return begun

    def _end(self, context: Any, *exc_info: Any) -> None:
        began = time.perf_counter()
        try:
            with driver_errors.translated():
                try:
                    context.__exit__(*exc_info)
                finally:
                    if self._turns is not None:
                        self._turns.give()
        except peewee.DatabaseError as last:
            if not self._outage.is_on:
                self._drop_connection()
            if exc_info[0] is None:
                self._raise_unconfirmed(last)
        else:
            self._metrics.query(time.perf_counter() - began)
            if self._log.is_on and exc_info[0] is None and self._thread.wrote:
                self._log.end(reads=False)

    def _raise_unconfirmed(self, last: peewee.DatabaseError) -> NoReturn:
        """Raise the error that ended a transaction, while ``last`` is handled."""
        error = driver_errors.first_of(last)
        failure = self._failure(error, reads=False)
        try:
            if not isinstance(failure, Unavailable):
                raise last
            failure.detail = "The database did not confirm the write."
            raise failure from error
        finally:
            del last, error, failure  # as in driver_errors.raise_translated

    def _execute(
        self, sql: str, parameters: Sequence[Any], *, repeatable: bool = True
    ) -> list[Row]:
        return self._run(
            partial(self._peewee.fetch, sql, parameters), repeatable=repeatable, reads=repeatable
        )

    def _run(self, action: Callable[[], T], *, repeatable: bool = False, reads: bool = True) -> T:
        """Run ``action``; if ``repeatable``, once more if the open connection was dead.

        ``reads``: it only reads. SECURITY: a write is never repeated, because it may have succeeded
        before its response was lost.
        """
        # In the event loop only reads of SQLite over an open connection are allowed: their pages
        # are in memory or few, and they wait for no writer.
        if not (reads and self.is_sqlite) or self._peewee.is_closed():
            delays.before_waiting()
        if self._peewee.in_transaction():
            return self._attempt(action, reads=reads)
        if self._turns is not None and not (reads or repeatable):
            action = partial(_in_turn, self._turns, action)
        # A SQLite file that is locked can still be read.
        if self._outage.is_on and not (reads and self.is_sqlite):
            with self._outage.trial():
                self._renew_connection()
                return self._attempt(action, reads=reads)
        self._renew_connection()
        return self._attempt(action, again=repeatable, reads=reads)

    def _attempt(
        self, action: Callable[[], T], *, again: bool = False, reads: bool = True, tries: int = 3
    ) -> T:
        is_alone = not self._peewee.in_transaction()
        began = time.perf_counter()
        try:
            try:
                if is_alone and self._file is not None and (not reads or began >= self._file.due):
                    self._file.check()
                result = action()
            except Exception as error:  # noqa: BLE001 - it raises
                if self._file is not None:
                    self._file.check()  # it tells more than SQLite, which cannot open a file
                driver_errors.raise_translated(error)
        except Unavailable as error:  # the connection failed
            self._metrics.database_failed()
            self._log.begin(error, reads=True)
            raise
        except peewee.DatabaseError as error:
            kind = driver_errors.kind(error)
            if kind is Kind.CONSTRAINT:
                raise
            if kind is Kind.UNDONE and is_alone and tries > 1:
                time.sleep(random.uniform(0.01, 0.1))  # noqa: S311  # nosec B311  # it is jitter
                return self._attempt(action, again=again, reads=reads, tries=tries - 1)
            if self.is_sqlite and "locked" in str(error):
                delays.before_waiting()
                self._outage.begin()
            again = again and not self._outage.is_on and self._is_broken()
            if kind is not Kind.VALUE and not self._outage.is_on:
                self._drop_connection()  # otherwise it would wait for the thread that probes
            if driver_errors.is_read_only(error):
                self._thread.is_read_only = True
            if not again:
                raise self._failure(error, reads=reads) from error
        else:
            self._metrics.query(time.perf_counter() - began)
            self._thread.wrote = not reads or (not is_alone and self._thread.wrote)
            if self._thread.is_read_only and not (
                reads or (is_alone and self._peewee.in_transaction())
            ):
                self._thread.is_read_only = False
            # A transaction can be begun on a full disk and on a standby, so that is no success.
            if self._log.is_on and is_alone and not self._peewee.in_transaction():
                self._log.end(reads=reads)
            return result
        return self._attempt(action, reads=reads)

    def _failure(self, error: peewee.DatabaseError, *, reads: bool = True) -> Exception:
        """Return the ``KeyoskError`` for a driver's error; a new outage is logged."""
        failure = driver_errors.failure(error)
        if isinstance(failure, Unavailable) and driver_errors.kind(error) is not Kind.UNDONE:
            self._metrics.database_failed()
            reads = reads and not driver_errors.is_of_a_write(error)
            self._log.begin(failure, reads=reads, is_full=driver_errors.is_disk_full(error))
        return failure

    def _renew_connection(self) -> None:
        """Drop a connection from before the last outage, because it may be dead.

        And one that was opened while its SQLite file could only be read, because it stays so.
        """
        if self._thread.outages != self._outage.number:
            self._thread.outages = self._outage.number
            self._drop_connection()
        if self._thread.is_read_only:
            self._peewee.close()

    def _is_broken(self) -> bool:
        return not self.is_sqlite and not self._peewee.is_connection_usable()

    def _drop_connection(self) -> None:
        # Inside a transaction the connection is kept until the transaction is rolled back.
        if not self.is_sqlite and not self._peewee.in_transaction():
            try:
                self._peewee.close()
            except peewee.PeeweeException:
                self._peewee.dispose()


def _in_turn(turns: Turns, action: Callable[[], T]) -> T:
    turns.take()
    try:
        return action()
    finally:
        turns.give()
