"""Statements that PostgreSQL is sent by libpq's own functions."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import peewee
import psycopg
import pytest
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from keyosk.errors import Unavailable
from keyosk.storage import schema
from keyosk.storage.compiled import Compiled, parameter
from keyosk.storage.database import Database

READY = b"Z\0\0\0\5I"  # the server's last message to each statement outside of a transaction


class Number(peewee.Model):
    """A table of the test's own."""

    value = peewee.IntegerField(primary_key=True)


class Relay:
    """Between Keyosk and PostgreSQL; it can keep the server's last word, and then end or not."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.withholds = self.ends = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client:
                        server.sendall(data)
                        continue
                    is_last = self.withholds and data.endswith(READY)
                    client.sendall(data.removesuffix(READY) if is_last else data)
                    if is_last and self.ends:
                        return

    def close(self) -> None:
        self._listener.close()


@contextmanager
def opened(url: str, *, threshold: int | str = "auto") -> Iterator[Database]:
    database = Database(url, prepare_threshold=threshold)
    database.raw.connect()
    yield database
    database.close()


def echo(database: Database) -> Compiled:
    """A statement that returns what it is given."""
    return database.compile(peewee.Select(columns=[parameter("value"), peewee.SQL("'100%%'")]))


def prepared(database: Database) -> int:
    """How many statements the server keeps for this thread's connection."""
    query = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'keyosk%%'"
    [(number,)] = database.raw.execute_sql(query).fetchall()
    return int(number)


def test_values_come_back_as_they_were_given(postgresql_url: str) -> None:
    with opened(postgresql_url) as database:
        same = echo(database)
        long = "Zoë " * (8 << 18)  # more than a socket takes at once
        for value in ("Zoë", "", None, True, False, -1, 0, 70_000, 1 << 40, 1.5, b"\0\xff", long):
            for _ in range(8):  # before it is prepared, and afterwards
                [(returned, percent)] = same(value=value)
                assert (returned, percent) == (value, "100%")


@pytest.mark.parametrize(("threshold", "runs"), [("auto", 5), (0, 0), (2, 2)])
def test_the_server_keeps_a_plan_after_some_runs(
    postgresql_url: str, threshold: int | str, runs: int
) -> None:
    with opened(postgresql_url, threshold=threshold) as database:
        same, before = echo(database), prepared(database)
        for _ in range(runs):
            same(value="text")
        assert prepared(database) == before
        for _ in range(3):
            same(value="text")
        assert prepared(database) == before + 1


def test_the_server_keeps_no_plan_where_it_is_not_to(postgresql_url: str) -> None:
    with opened(postgresql_url, threshold="off") as database:
        same = echo(database)
        for _ in range(20):
            same(value="text")
        assert prepared(database) == 0


def test_a_statement_that_the_server_forgot_is_prepared_again(postgresql_url: str) -> None:
    with opened(postgresql_url) as database:
        same = echo(database)
        for _ in range(8):
            same(value="text")
        # As psycopg does where a transaction is rolled back.
        database.raw.execute_sql("DEALLOCATE ALL")
        assert same(value="text") == [("text", "100%")]
        assert prepared(database) == 1
        with database.transaction():  # where an error would be the end of all of it
            database.raw.execute_sql("DEALLOCATE ALL")
            assert same(value="text") == [("text", "100%")]


def test_a_statement_whose_table_was_changed_is_prepared_again(postgresql_url: str) -> None:
    with opened(postgresql_url) as database, opened(postgresql_url) as migrating:
        database.raw.execute_sql("CREATE TABLE number (value integer)")
        write = database.compile(
            Number.insert(value=parameter("value")).returning(Number.value), repeatable=False
        )
        for _ in range(8):
            write(value=1)
        migrating.raw.execute_sql("ALTER TABLE number ALTER value TYPE bigint")
        assert write(value=2) == [(2,)]
        assert database._execute("SELECT count(*) FROM number WHERE value = 2", ()) == [(1,)]


@pytest.mark.parametrize(
    "error", [psycopg.errors.InvalidSqlStatementName, psycopg.errors.FeatureNotSupported]
)
def test_a_statement_is_prepared_again_once(
    postgresql_url: str, error: type[psycopg.Error], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(postgresql_url) as database:
        same = echo(database)
        for _ in range(8):
            same(value="text")
        direct = database.raw.connection().direct
        executed, result_of = [], direct._result

        def result() -> PGresult:
            found: PGresult = result_of()
            if found.status == ExecStatus.TUPLES_OK:  # of an execution
                executed.append(found)
                raise error
            return found

        monkeypatch.setattr(direct, "_result", result)
        with pytest.raises((Unavailable, peewee.PeeweeException)):
            same(value="text")
        assert len(executed) == 2


def test_a_statement_within_a_transaction_is_a_part_of_it(postgresql_url: str) -> None:
    with opened(postgresql_url) as database:
        schema.upgrade(database)
        state = database.compile(
            peewee.Select(columns=[peewee.fn.pg_current_xact_id_if_assigned().cast("text")])
        )
        with database.transaction():
            [(number,)] = database.raw.execute_sql("SELECT pg_current_xact_id()::text").fetchall()
            assert state() == [(number,)]
        assert state() == [(None,)]


@pytest.mark.parametrize("ends", [True, False])
def test_a_result_that_the_server_did_not_confirm_is_none(
    postgresql_url: str, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement alone is committed after its result is sent, and before the server is ready."""
    parts = urlsplit(postgresql_url)
    relay = Relay(parts.hostname or "127.0.0.1", parts.port or 5432)
    relayed = postgresql_url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{relay.port}")
    with opened(relayed) as database:
        same = database.compile(peewee.Select(columns=[parameter("value")]), repeatable=False)
        assert same(value="before") == [("before",)]
        monkeypatch.setattr(database.raw.connection(), "response_timeout", 0.5)
        relay.withholds, relay.ends = True, ends
        with pytest.raises(Unavailable):
            same(value="within")
        relay.withholds = False
    relay.close()


@pytest.mark.parametrize(
    ("at_commit", "expected"),
    [
        ("RAISE unique_violation", peewee.IntegrityError),
        ("PERFORM pg_terminate_backend(pg_backend_pid())", Unavailable),
    ],
)
def test_a_failed_commit_is_a_failure(
    postgresql_url: str, at_commit: str, expected: type[Exception]
) -> None:
    """The server sends its result, then commits it, and only then says that it could not."""
    with opened(postgresql_url) as database:
        for statement in (
            "CREATE TABLE number (value integer)",
            f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$"
            f" BEGIN {at_commit}; RETURN NULL; END $$",
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON number"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.value < 0)"
            " EXECUTE FUNCTION fail()",
        ):
            database.raw.execute_sql(statement)
        write = database.compile(
            Number.insert(value=parameter("value")).returning(Number.value), repeatable=False
        )
        for runs in (1, 8):  # before it is prepared, and afterwards
            for _ in range(runs):
                assert write(value=1) == [(1,)]
            with pytest.raises(expected):
                write(value=-1)
        assert database._execute("SELECT count(*) FROM number WHERE value < 0", ()) == [(0,)]


def test_one_that_the_server_ended_says_why(postgresql_url: str) -> None:
    with opened(postgresql_url) as database:
        ended = database.compile(
            peewee.Select(columns=[peewee.fn.pg_terminate_backend(peewee.fn.pg_backend_pid())]),
            repeatable=False,
        )
        with pytest.raises(Unavailable) as caught:
            ended()
        assert "terminating connection" in caught.value.explanation
        database.ping()
