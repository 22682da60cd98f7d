"""The contract of the storage layer, the same on SQLite and on PostgreSQL."""

import gc
import itertools
import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import peewee
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installed import settings as settings_of
from keyosk import app
from keyosk.config import Config
from keyosk.credentials import api_key_format
from keyosk.errors import Conflict, DatabaseTooNew, DatabaseUnusable, NotFound, Unavailable
from keyosk.ids import new_id
from keyosk.installation import Installation
from keyosk.model import (
    OPERATOR,
    Account,
    ApiKey,
    CredentialKind,
    Entitlement,
    Grant,
    Kind,
    ListQuery,
    Principal,
    Role,
    Scope,
    Service,
    StoredPassword,
)
from keyosk.storage import migrations, schema, tables
from keyosk.storage.accounts import AccountStore
from keyosk.storage.api_keys import ApiKeyStore
from keyosk.storage.compiled import Insert
from keyosk.storage.database import Database
from keyosk.storage.grants import GrantStore
from keyosk.storage.logins import LoginStore
from keyosk.storage.roles import RoleStore
from keyosk.storage.services import ServiceStore
from values import policy

pytestmark = pytest.mark.every_database(always=True)

NOW = 1_800_000_000


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    """An up-to-date database."""
    opened = Database(migrated_url)
    yield opened
    opened.close()


@pytest.fixture
def postgresql(backend: str) -> None:
    """For what only a database behind a connection can suffer."""
    if backend == "sqlite":
        pytest.skip("SQLite has no connection that could be lost")


@pytest.fixture
def sqlite(backend: str) -> None:
    if backend != "sqlite":
        pytest.skip("about SQLite's own files and settings")


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """The same database as another process has it."""
    database = Database(url)
    yield database
    database.close()


def account(username: str, **changes: Any) -> Account:
    stored = Account(
        id=new_id(),
        username=username,
        kind=Kind.PERSON,
        display_name="",
        enabled=True,
        claims={},
        metadata={},
        expires_at=None,
        has_password=False,
        last_login_at=None,
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )
    return replace(stored, **changes)


def service(name: str, *scopes: str, **changes: Any) -> Service:
    """A service; ``changes`` are to what it says of its tokens."""
    return Service(
        id=new_id(),
        policy=policy(name, **changes),
        title="",
        description="",
        contact="",
        scopes=tuple(Scope(scope) for scope in scopes),
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


def role(name: str, *scopes: str) -> Role:
    return Role(
        id=new_id(),
        name=name,
        description="",
        scopes=scopes,
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


def api_key(account_id: str, **changes: Any) -> ApiKey:
    key = ApiKey(
        id=new_id(),
        account_id=account_id,
        name="laptop",
        description="",
        prefix="kysk_1234567",
        scopes=None,
        networks=None,
        enabled=True,
        expires_at=None,
        last_used_at=None,
        successor=None,
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )
    return replace(key, **changes)


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Every statement that the database is sent, transactions' own included."""
    sent: list[str] = []
    database.raw.query_hooks.append(lambda event: sent.append(event.sql))
    yield sent
    database.raw.query_hooks.pop()


# --- Migrations -----------------------------------------------------------------------------------


@pytest.fixture
def from_models(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A second database, its tables made from tables.py and not by migrations."""
    if backend == "sqlite":
        file = tmp_path / "models.db"
        file.touch()  # what is not there is not made by who only opens it
        url = f"sqlite:///{file}"
    else:
        url = request.getfixturevalue("postgres_server").create_database()
    with opened(url) as made:
        with made.raw.bind_ctx(tables.ALL):
            made.raw.create_tables(tables.ALL)
        yield made
    if backend != "sqlite":
        request.getfixturevalue("postgres_server").drop_database(url)


def columns(database: Database, table: str) -> set[tuple[Any, ...]]:
    return {
        (column.name, column.data_type.lower(), column.null, column.primary_key)
        for column in database.raw.get_columns(table)
    }


def indexes(database: Database, table: str) -> set[tuple[Any, ...]]:
    return {
        (tuple(index.columns), index.unique)
        for index in database.raw.get_indexes(table)
        # peewee cannot write a partial index into a model
        if index.name not in ("signing_key_active", "signing_key_next")
    }


def references(database: Database, table: str) -> set[tuple[Any, ...]]:
    return {
        (key.column, key.dest_table, key.dest_column)
        for key in database.raw.get_foreign_keys(table)
    }


def cascades(database: Database) -> set[tuple[str, str]]:
    """(table, referenced table) of each foreign key that deletes with what it refers to."""
    if database.is_sqlite:
        return {
            (table, row[2])
            for table in database.raw.get_tables()
            for row in database.raw.execute_sql(f'PRAGMA foreign_key_list("{table}")').fetchall()
            if row[6] == "CASCADE"
        }
    rows = database.raw.execute_sql(
        "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint "
        "WHERE contype = 'f' AND confdeltype = 'c'"
    ).fetchall()
    return {(table.strip('"'), other.strip('"')) for table, other in rows}


def test_no_two_migrations_have_one_number() -> None:
    files = Path(migrations.__path__[0]).glob("[0-9]*.py")
    numbers = [file.name.partition("_")[0] for file in files]
    assert len(numbers) == len(set(numbers)) > 20


def test_migrations_leave_tables_of_the_models(database: Database, from_models: Database) -> None:
    migrated = set(database.raw.get_tables()) - {"schema_migration"}
    assert migrated == set(from_models.raw.get_tables())
    assert migrated == {model._meta.table_name for model in tables.ALL}


def test_every_migrated_table_is_the_one_that_its_model_describes(
    database: Database, from_models: Database
) -> None:
    for table in [model._meta.table_name for model in tables.ALL]:
        assert columns(database, table) == columns(from_models, table), table
        assert len(columns(database, table)) >= 2, table
        assert indexes(from_models, table) <= indexes(database, table), table
        # What only the migrations write are the indexes that lists walk along.
        more = indexes(database, table) - indexes(from_models, table)
        assert not any(unique for _, unique in more), table
        assert references(database, table) == references(from_models, table), table


def test_no_index_finds_only_what_another_finds(database: Database) -> None:
    needless = []
    for table in database.raw.get_tables():
        plain = [
            index
            for index in database.raw.get_indexes(table)
            if not re.search("WHERE|COLLATE|COALESCE", index.sql or "")
        ]
        needless += [
            one.name
            for one, other in itertools.permutations(plain, 2)
            if not one.unique and other.columns[: len(one.columns)] == one.columns
        ]
    assert needless == []


def test_foreign_keys_delete_with_their_object(database: Database, from_models: Database) -> None:
    expected = {
        ("password", "account"),
        ("scope_use", "account"),
        ("verification", "service"),
        ("scope_use", "scope"),
        ("api_key", "account"),
        ("grant", "account"),
        ("grant", "scope"),
        ("grant", "role"),
        ("role_scope", "role"),
        ("role_scope", "scope"),
        ("scope", "service"),
        ("exchange", "service"),
        ("known_source", "account"),
        ("session", "account"),
        ("console_session", "account"),
        ("pending_login", "account"),
        ("second_factor", "account"),
        ("recovery_code", "second_factor"),
        ("key_sight", "service"),
        ("service_identifier", "service"),
        ("session", "api_key"),
        ("workload_rule", "trusted_issuer"),
        ("workload_rule", "account"),
        ("fetched_keys", "trusted_issuer"),
    }
    assert cascades(database) == cascades(from_models) == expected


def test_a_second_upgrade_finds_nothing_to_do(database: Database) -> None:
    assert schema.pending(database) == []
    with schema.exclusive(database):
        assert schema.upgrade(database) == []


def test_an_empty_database_has_all_migrations_pending(database_url: str) -> None:
    with opened(database_url) as empty:
        names = sorted(path.stem for path in schema.MIGRATIONS.glob("[0-9]*.py"))
        assert schema.pending(empty) == names
        with schema.exclusive(empty):
            assert schema.upgrade(empty) == names


UPGRADER = """
import sys
from keyosk.storage import schema
from keyosk.storage.database import Database
database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with schema.exclusive(database):
    print(*schema.upgrade(database), flush=True)
"""


@pytest.mark.fault
@pytest.mark.slow
def test_four_processes_that_start_at_once_apply_each_migration_once(database_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADER, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    applied = [name for out, _ in said for name in out.split()]
    assert applied == sorted(path.stem for path in schema.MIGRATIONS.glob("[0-9]*.py"))
    with opened(database_url) as database:
        assert schema.pending(database) == []
        [(rows,)] = database.raw.execute_sql("SELECT COUNT(*) FROM schema_migration").fetchall()
        assert rows == len(applied)


def test_a_database_newer_than_the_program_is_refused_and_left_alone(database: Database) -> None:
    database.raw.execute_sql(
        "INSERT INTO schema_migration (name, applied) VALUES ('9999_from_the_future', '2090-01-01')"
    )
    for refused in (schema.upgrade, schema.pending):
        with pytest.raises(DatabaseTooNew, match="9999_from_the_future"):
            refused(database)
    [(rows,)] = database.raw.execute_sql("SELECT COUNT(*) FROM schema_migration").fetchall()
    assert rows == len(list(schema.MIGRATIONS.glob("[0-9]*.py"))) + 1


@pytest.mark.fault
def test_a_migration_that_fails_in_the_middle_leaves_nothing_behind(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in schema.MIGRATIONS.glob("[0-9]*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "0900_breaks.py").write_text(
        "def up(migrator, db):\n"
        "    db.execute_sql('CREATE TABLE half (id INTEGER)')\n"
        "    raise RuntimeError('in the middle')\n"
    )
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path)
    with pytest.raises(RuntimeError, match="in the middle"), schema.exclusive(database):
        schema.upgrade(database)
    assert "half" not in database.raw.get_tables()
    assert schema.pending(database) == ["0900_breaks"]


def test_the_right_to_set_up_is_held_by_one_at_a_time(database_url: str) -> None:
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        with opened(database_url) as other:
            inside.wait(60)
            with schema.exclusive(other):
                order.append("second")

    with opened(database_url) as first, ThreadPoolExecutor(1) as pool:
        with schema.exclusive(first):
            waiting = pool.submit(second)
            inside.set()
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            order.append("first")
        waiting.result(timeout=60)
    assert order == ["first", "second"]


# --- Connections and files ------------------------------------------------------------------------


def test_every_connection_has_the_settings_that_durability_and_integrity_need(
    database: Database, backend: str
) -> None:
    def settings_here() -> dict[str, Any]:
        names = {
            "sqlite": ("journal_mode", "synchronous", "foreign_keys", "busy_timeout"),
            "postgresql": ("synchronous_commit", "statement_timeout", "application_name"),
        }[backend]
        verb = "PRAGMA" if backend == "sqlite" else "SHOW"
        settings = {
            name: database.raw.execute_sql(f"{verb} {name}").fetchone()[0] for name in names
        }
        if threading.current_thread() is not threading.main_thread():
            database.close()
        return settings

    expected = {
        "sqlite": {
            "journal_mode": "wal",
            "synchronous": 2,  # FULL: an acknowledged write survives the loss of power
            "foreign_keys": 1,
            "busy_timeout": 4000,
        },
        "postgresql": {
            "synchronous_commit": "on",  # the tests' own server has it off
            "statement_timeout": "7s",
            "application_name": "keyosk",
        },
    }[backend]
    assert settings_here() == expected
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(settings_here).result() == expected


@pytest.mark.usefixtures("sqlite")
def test_the_files_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "made" / "keyosk.db"
    old = os.umask(0)
    try:
        with opened(f"sqlite:///{path}") as database, schema.exclusive(database):
            schema.upgrade(database)
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(old)
    names = {f"keyosk.db{suffix}" for suffix in ("", "-wal", "-shm", ".lock")}
    assert modes == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.usefixtures("sqlite")
def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "keyosk.db"
    path.touch()
    path.chmod(0o644)
    with opened(f"sqlite:///{path}") as database:
        database.create_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.usefixtures("sqlite")
def test_a_folder_that_cannot_be_made_is_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        opened(f"sqlite:///{tmp_path / 'file' / 'keyosk.db'}") as database,
        pytest.raises(Unavailable, match="Not a directory"),
        schema.exclusive(database),
    ):
        pass


@pytest.mark.usefixtures("sqlite")
def test_a_file_that_is_no_database_is_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "keyosk.db"
    path.write_bytes(b"anything but a database " * 200)
    with opened(f"sqlite:///{path}") as database:
        for use in (schema.pending, Database.ping):
            with pytest.raises(DatabaseUnusable) as caught:
                use(database)
            assert caught.value.explanation.endswith(": file is not a database.")


#: What prepares, opens or looks at the database of the settings.
USES: tuple[Callable[[Config], object], ...] = (app.prepare, app.pending_migrations, app.is_empty)


def folder_with(path: Path) -> dict[str, tuple[int, bytes]]:
    """What is beside a file, with it: modes and bytes. Without -shm, which each reader may make."""
    return {
        each.name: (stat.S_IMODE(each.stat().st_mode), each.read_bytes())
        for each in path.parent.iterdir()
        if not each.name.endswith("-shm")
    }


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("ended", ["closed", "killed"])
def test_a_file_of_another_program_is_refused_and_stays_as_it_was(
    journal: str, ended: str, tmp_path: Path
) -> None:
    path = tmp_path / "its" / "other.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA journal_mode = {journal}")
        other.execute("PRAGMA cache_size = 1")  # so that a transaction is in the files at once
        other.executescript("CREATE TABLE note (text); CREATE TABLE account (number)")
        if ended == "killed":
            other.execute("BEGIN IMMEDIATE")
            other.executemany("INSERT INTO note VALUES (?)", [("x" * 3000,)] * 10)
            shutil.copytree(path.parent, tmp_path / "copy")
            path = tmp_path / "copy" / "other.db"
    path.chmod(0o644)
    before = folder_with(path)
    assert len(before) == (1 if ended == "closed" else 2)
    for use in USES:
        with pytest.raises(DatabaseUnusable, match=r"another program: it has the table account,"):
            use(settings_of(f"sqlite:///{path}"))
        assert folder_with(path) == before


@pytest.mark.usefixtures("sqlite")
def test_a_file_that_is_no_database_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear all,\n" * 200)
    path.chmod(0o644)
    before = folder_with(path)
    for use in USES:
        with pytest.raises(DatabaseUnusable) as caught:
            use(settings_of(f"sqlite:///{path}"))
        assert caught.value.explanation.endswith(": file is not a database.")
        assert folder_with(path) == before


@pytest.mark.usefixtures("sqlite")
def test_a_pipe_is_not_waited_for_and_not_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "keyosk.db"
    os.mkfifo(path)
    path.chmod(0o644)
    for use in USES:
        with pytest.raises(DatabaseUnusable, match="as the database: it is no file"):
            use(settings_of(f"sqlite:///{path}"))
    assert [each.name for each in tmp_path.iterdir()] == ["keyosk.db"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.usefixtures("postgresql")
def test_a_postgresql_that_is_not_there_is_unavailable_and_its_password_is_not_told() -> None:
    with opened("postgresql://keyosk:hidden-word@127.0.0.1:1/keyosk") as database:
        for use in (schema.pending, Database.ping):
            with pytest.raises(Unavailable) as caught:
                use(database)
            assert "Connection refused" in caught.value.explanation
            assert "hidden-word" not in str(caught.value) + caught.value.explanation


def test_a_thread_that_closed_its_connection_gets_a_new_one(database: Database) -> None:
    accounts = AccountStore(database)
    accounts.add(account("alice"))
    database.close()
    assert accounts.by_username("alice").username == "alice"


# --- Transactions ---------------------------------------------------------------------------------


def usernames(database: Database) -> set[str]:
    return {found.username for found in AccountStore(database).page(ListQuery(limit=100))}


def test_an_error_in_a_transaction_undoes_all_of_it(database: Database) -> None:
    accounts = AccountStore(database)
    accounts.add(account("before"))

    def fail() -> None:
        with database.transaction():
            accounts.add(account("within"))
            assert usernames(database) == {"before", "within"}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert usernames(database) == {"before"}
    accounts.add(account("after"))
    assert usernames(database) == {"before", "after"}


def test_a_transaction_inside_another_is_undone_with_it(database: Database) -> None:
    accounts = AccountStore(database)

    def fail() -> None:
        with database.transaction():
            with database.transaction():
                accounts.add(account("inner"))
            accounts.add(account("outer"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert usernames(database) == set()


def test_a_nested_transaction_is_committed_with_all(database: Database, migrated_url: str) -> None:
    accounts = AccountStore(database)
    with opened(migrated_url) as other, database.transaction():
        with database.transaction():
            accounts.add(account("inner"))
        assert usernames(other) == set()
    assert usernames(database) == {"inner"}


def test_a_violated_constraint_in_a_transaction_undoes_all_before(database: Database) -> None:
    accounts = AccountStore(database)
    accounts.add(account("alice"))

    def fail() -> None:
        with database.transaction():
            accounts.add(account("bob"))
            accounts.add(account("alice"))

    with pytest.raises(Conflict):
        fail()
    assert usernames(database) == {"alice"}


@pytest.mark.usefixtures("sqlite")
def test_a_transaction_on_sqlite_has_the_write_lock_from_its_beginning(database: Database) -> None:
    with closing(sqlite3.connect(str(database.path), timeout=0)) as other:
        with database.transaction(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")


@pytest.mark.usefixtures("sqlite")
def test_readers_on_sqlite_do_not_wait_for_a_writer(database: Database, migrated_url: str) -> None:
    AccountStore(database).add(account("alice"))
    with opened(migrated_url) as reader, database.transaction():
        AccountStore(database).add(account("bob"))
        assert usernames(reader) == {"alice"}


def test_what_is_read_and_written_under_a_lock_loses_no_update(database: Database) -> None:
    accounts = AccountStore(database)
    counter = account("counter", claims={"count": 0})
    accounts.add(counter)
    workers, rounds = 4, 20
    versions = [counter.version]

    def count(_: int) -> None:
        for _ in range(rounds):
            with database.transaction():
                database.lock("counter")
                seen = accounts.by_id(counter.id).claims["count"]
                number = accounts.change(counter.id, {"claims": {"count": seen + 1}}, now=NOW)
                versions.append(number)
        database.close()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(count, range(workers)))
    counted = accounts.by_id(counter.id)
    assert counted.claims == {"count": workers * rounds}
    assert versions == sorted(set(versions))
    assert (counted.version, len(versions)) == (versions[-1], 1 + workers * rounds)


# --- Uniqueness, staleness, references ------------------------------------------------------------


def is_failure(found: object) -> bool:
    # By its type itself: a lazy object of another library would be made by looking at its class.
    return issubclass(type(found), peewee.IntegrityError)


def test_a_statement_that_failed_leaves_nothing_to_a_collection(database: Database) -> None:
    """Not even itself: a SQLite statement that is not over keeps the lock of its write."""
    accounts = AccountStore(database)
    accounts.add(account("alice"))
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Conflict):
            accounts.add(account("alice"))
        left = [each for each in gc.get_objects() if is_failure(each)]
    finally:
        gc.enable()
    assert left == []


@pytest.mark.usefixtures("sqlite")
def test_a_commit_that_failed_leaves_nothing_behind_either(database: Database) -> None:
    def write_what_refers_to_nothing() -> None:
        with database.transaction():
            database.raw.execute_sql("PRAGMA defer_foreign_keys = ON")
            database.insert(tables.Scope, [{"name": "a", "service": "b", "description": ""}])

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(peewee.IntegrityError):
            write_what_refers_to_nothing()
        left = [each for each in gc.get_objects() if is_failure(each)]
    finally:
        gc.enable()
    assert left == []


def populated(database: Database) -> tuple[Account, Service]:
    alice, todo = account("alice"), service("todo", "todo:read")
    AccountStore(database).add(alice)
    ServiceStore(database).add(todo)
    return alice, todo


def test_what_refers_to_nothing_is_refused_by_the_database(database: Database) -> None:
    alice, _ = populated(database)
    grants, keys = GrantStore(database), ApiKeyStore(database)
    gone = new_id()
    with pytest.raises(Conflict), database.transaction():
        grants.set(alice.id, [Grant("nothing:here")], {}, now=NOW)
    with pytest.raises(Conflict), database.transaction():
        grants.set(alice.id, [Grant(role="reader")], {"reader": gone}, now=NOW)
    with pytest.raises(Conflict), database.transaction():
        grants.set(gone, [Grant("todo:read")], {}, now=NOW)
    with pytest.raises(NotFound):
        keys.add(api_key(gone), b"d" * 32)
    assert rows_in(database, "grant", "api_key") == [0, 0]


def rows_in(database: Database, *names: str) -> list[int]:
    quoted = '"{}"'
    return [
        database.raw.execute_sql(f"SELECT COUNT(*) FROM {quoted.format(name)}").fetchone()[0]
        for name in names
    ]


def test_a_new_password_takes_the_place_of_the_old_one_and_a_rehash_does_not_overtake_it(
    database: Database,
) -> None:
    alice, _ = populated(database)
    accounts = AccountStore(database)
    assert accounts.password("alice", "")[0] is None
    old, new = StoredPassword(new_id(), "old"), StoredPassword(new_id(), "new")
    accounts.set_password(alice.id, old, now=NOW)
    assert accounts.by_id(alice.id).has_password
    accounts.set_password(alice.id, new, now=NOW)
    accounts.rehash(StoredPassword(old.id, "the old one, with more work"))
    assert accounts.password("alice", "")[0] == accounts.password_of(alice.id) == new
    accounts.rehash(StoredPassword(new.id, "newer"))
    assert accounts.password("alice", "")[0] == StoredPassword(new.id, "newer")
    assert accounts.remove_password(alice.id) is True
    assert accounts.remove_password(alice.id) is False
    assert accounts.password_of(alice.id) is None


def test_a_login_is_noted_without_making_a_new_version(database: Database) -> None:
    alice, _ = populated(database)
    key = api_key(alice.id)
    keys, accounts = ApiKeyStore(database), AccountStore(database)
    keys.add(key, b"d" * 32)
    accounts.record_login(alice.id, NOW + 5)
    assert keys.record_use(key.id, NOW + 6) is True
    assert keys.record_use(key.id, NOW + 7, first=True) is False
    assert accounts.by_id(alice.id) == replace(alice, last_login_at=NOW + 5)
    assert keys.get(alice.id, key.id) == replace(key, last_used_at=NOW + 6)


# --- The path of every token ----------------------------------------------------------------------


def prepared_login(database: Database) -> tuple[Account, ApiKey, bytes]:
    alice = account("alice", expires_at=NOW + 900, claims={"team": "züri"})
    AccountStore(database).add(alice)
    services = ServiceStore(database)
    services.add(service("todo", "todo:read", "todo:write", token_lifetime=300, typ="JWT"))
    services.add(service("mail", "mail:read", enabled=False, audience="https://mail"))
    choosy = frozenset({CredentialKind.API_KEY})
    services.add(service("quiet", "quiet:read", on_request_only=True, accepts=choosy))
    services.add(service("plain", "plain:read", claims=("team", "site"), signing_algorithm="EdDSA"))
    editor, empty = role("editor", "plain:read", "todo:read", "todo:write"), role("empty")
    for each in (editor, empty):
        RoleStore(database).add(each)
    AccountStore(database).set_password(alice.id, StoredPassword("p" * 36, "a hash"), now=NOW)
    GrantStore(database).set(
        alice.id,
        [
            Grant("todo:read"),
            Grant("todo:write", CredentialKind.PASSWORD, NOW + 60),
            Grant("mail:read", CredentialKind.API_KEY),
            Grant("quiet:read"),
            Grant(role="editor", credential=CredentialKind.PASSWORD, until=NOW + 90),
            Grant(role="empty"),
        ],
        {each.name: each.id for each in (editor, empty)},
        now=NOW,
    )
    key = api_key(
        alice.id,
        scopes=("todo:read", "quiet:read"),
        networks=("10.0.0.0/8", "::1/128"),
        expires_at=NOW + 600,
        successor=new_id(),
    )
    digest = api_key_format.digest(api_key_format.generate())
    ApiKeyStore(database).add(key, digest)
    return alice, key, digest


def login_by_models(database: Database, who: Account, key: ApiKey | None) -> Principal:
    """The same login put together from the stores of each noun, one query after another."""
    who = AccountStore(database).by_id(who.id)
    owner = {
        scope.name: service.policy
        for service in ServiceStore(database).page(ListQuery())
        for scope in service.scopes
    }
    bundles = {each.name: each.scopes for each in RoleStore(database).page(ListQuery())}
    entitlements = sorted(
        (
            Entitlement(scope, grant.role, grant.credential, grant.until, owner[scope])
            for grant in GrantStore(database).of_account(who.id)
            for scope in ([grant.scope] if grant.scope else bundles[grant.role or ""])
        ),
        key=entitlement_key,
    )
    expiries = [time for time in (who.expires_at, key.expires_at if key else None) if time]
    return Principal(
        account_id=who.id,
        username=who.username,
        claims=json.dumps(who.claims),
        credential=CredentialKind.API_KEY if key else CredentialKind.PASSWORD,
        enabled=who.enabled and (key is None or key.enabled),
        expires_at=min(expiries, default=None),
        authenticated_at=NOW,
        last_seen_at=key.last_used_at if key else who.last_login_at,
        credential_id=key.id if key else None,
        limit=None if key is None or key.scopes is None else frozenset(key.scopes),
        networks=key.networks if key else None,
        successor=key.successor if key else None,
        tokens_from=0,
        entitlements=tuple(entitlements),
    )


def entitlement_key(entitlement: Entitlement) -> tuple[str, str]:
    return entitlement.scope, entitlement.role or ""


def in_order(login: Principal | None) -> Principal:
    """The login with its holdings in one order: where several grants give a scope, any is right."""
    assert login is not None
    return replace(login, entitlements=tuple(sorted(login.entitlements, key=entitlement_key)))


def test_the_compiled_queries_give_what_the_models_give(database: Database) -> None:
    who, key, digest = prepared_login(database)
    logins = LoginStore(database)
    by_key = login_by_models(database, who, key)
    by_password = login_by_models(database, who, None)
    assert len(by_key.entitlements) == 7
    assert in_order(logins.by_digest(digest, NOW)) == by_key
    assert in_order(logins.by_api_key(key.id, NOW)) == by_key
    by_id = replace(by_password, password_id="p" * 36)
    assert in_order(logins.by_password("p" * 36, NOW)) == by_id
    assert in_order(logins.by_account(who.id, NOW)) == by_password


@pytest.mark.parametrize("change", ["account", "key"])
def test_compiled_queries_see_a_disabled_account_or_key(database: Database, change: str) -> None:
    who, key, digest = prepared_login(database)
    if change == "account":
        AccountStore(database).change(who.id, {"enabled": False}, now=NOW)
    else:
        ApiKeyStore(database).change(key.id, {"enabled": False}, now=NOW)
    login = LoginStore(database).by_digest(digest, NOW)
    assert login is not None
    assert not login.enabled


def test_a_login_without_grants_is_still_a_login(database: Database) -> None:
    bob = account("bob")
    AccountStore(database).add(bob)
    ApiKeyStore(database).add(api_key(bob.id), b"d" * 32)
    login = LoginStore(database).by_digest(b"d" * 32, NOW)
    assert login is not None
    assert (login.account_id, login.entitlements) == (bob.id, ())


def test_what_nobody_has_is_no_login(database: Database) -> None:
    prepared_login(database)
    logins = LoginStore(database)
    assert logins.by_digest(b"x" * 32, NOW) is None
    assert logins.by_api_key(new_id(), NOW) is None
    assert logins.by_password(new_id(), NOW) is None
    assert logins.by_account(new_id(), NOW) is None


def test_a_login_by_api_key_is_one_statement(database: Database) -> None:
    _, _, digest = prepared_login(database)
    logins = LoginStore(database)
    with statements(database) as sent:
        assert logins.by_digest(digest, NOW) is not None
    assert len(sent) == 1
    assert sent[0].startswith("SELECT ")


def test_a_token_by_api_key_takes_one_query_and_no_write(installation: Installation) -> None:
    secret = installation.api_keys.create(OPERATOR, "admin", name="ci").secret
    client = app.create_app(installation).test_client()
    installation.signing_keys.refresh()

    def ask() -> list[str]:
        with statements(installation.database) as sent:
            response = client.post("/auth/token", auth=("admin", secret), buffered=True)
            assert response.status_code == 200
            assert response.get_json()["access_token"]
        return sent

    first = ask()
    assert first[0].startswith("SELECT ")
    # The first use is noted and audited once the response has gone, and for minutes no other.
    assert [each.split()[:3] for each in first[1:]] == [
        ["UPDATE", '"api_key"', "SET"],
        ["INSERT", "INTO", '"waiting_audit_row"'],
    ]
    for _ in range(3):
        assert ask() == first[:1]


def test_an_unknown_api_key_is_looked_for_and_counted(installation: Installation) -> None:
    client = app.create_app(installation).test_client()

    with statements(installation.database) as sent:
        key = api_key_format.generate()
        assert client.post("/auth/token", auth=("admin", key)).status_code == 401

    # The two in between bound how many rows one account gets in a minute.
    looked_for, named, _, _, counted = sent
    assert '"api_key"' in looked_for
    assert named.startswith("SELECT")
    assert counted.startswith("INSERT")
    assert '"login_failure"' in counted


# --- PostgreSQL that goes away --------------------------------------------------------------------


def terminate(database: Database, url: str) -> None:
    """End the connection that this thread has, as an operator or a failover would."""
    [(pid,)] = database.raw.execute_sql("SELECT pg_backend_pid()").fetchall()
    with psycopg.connect(url, autocommit=True) as operator:
        # With a timeout it waits until the process is gone.
        ended = operator.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,)).fetchone()
    assert ended == (True,)


@pytest.mark.fault
@pytest.mark.usefixtures("postgresql")
def test_a_read_on_an_ended_connection_is_repeated(database: Database, migrated_url: str) -> None:
    accounts, logins = AccountStore(database), LoginStore(database)
    _, _, digest = prepared_login(database)
    reads: list[Callable[[], Any]] = [
        lambda: accounts.by_username("alice").username,
        lambda: accounts.count(ListQuery()),
        lambda: logins.by_digest(digest, NOW),
    ]
    for read in reads:
        expected = read()
        terminate(database, migrated_url)
        assert read() == expected
        assert expected is not None
    terminate(database, migrated_url)
    database.ping()


@pytest.mark.fault
@pytest.mark.usefixtures("postgresql")
def test_a_transaction_on_a_connection_that_was_ended_before_begins_on_a_new_one(
    database: Database, migrated_url: str
) -> None:
    accounts = AccountStore(database)
    terminate(database, migrated_url)
    with database.transaction():
        accounts.add(account("alice"))
    assert usernames(database) == {"alice"}


@pytest.mark.fault
@pytest.mark.usefixtures("postgresql")
def test_a_single_write_on_a_connection_that_was_ended_is_not_tried_again(
    database: Database, migrated_url: str
) -> None:
    accounts = AccountStore(database)
    alice = account("alice")
    accounts.add(alice)
    terminate(database, migrated_url)
    with pytest.raises(Unavailable):
        accounts.change(alice.id, {"display_name": "Alice"}, now=NOW)
    assert accounts.by_id(alice.id) == alice
    number = accounts.change(alice.id, {"display_name": "Alice"}, now=NOW)
    assert accounts.by_id(alice.id).version == number > alice.version


@pytest.mark.fault
@pytest.mark.usefixtures("postgresql")
@pytest.mark.parametrize("moment", ["between two writes", "before the commit"])
def test_a_connection_that_ends_within_a_transaction_leaves_nothing_of_it(
    database: Database, migrated_url: str, moment: str
) -> None:
    accounts = AccountStore(database)
    accounts.add(account("before"))

    def fail() -> None:
        with database.transaction():
            accounts.add(account("first"))
            terminate(database, migrated_url)
            if moment == "between two writes":
                accounts.add(account("second"))

    with pytest.raises(Unavailable):
        fail()
    assert usernames(database) == {"before"}
    with database.transaction():
        accounts.add(account("after"))
    assert usernames(database) == {"before", "after"}


@pytest.mark.fault
@pytest.mark.usefixtures("postgresql")
def test_a_read_within_a_transaction_that_lost_its_connection_is_not_tried_on_a_new_one(
    database: Database, migrated_url: str
) -> None:
    # It would see the database without what the transaction wrote.
    accounts = AccountStore(database)

    def fail() -> None:
        with database.transaction():
            accounts.add(account("alice"))
            terminate(database, migrated_url)
            accounts.count(ListQuery())

    with pytest.raises(Unavailable):
        fail()
    assert accounts.count(ListQuery()) == 0


# --- Any text -------------------------------------------------------------------------------------

# What the layer above lets through: no lone surrogates, no NUL (checks.py).
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
ANY_JSON = st.dictionaries(
    ANY_TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | ANY_TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
round_trip = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@round_trip
@given(ANY_TEXT, ANY_JSON)
def test_any_text_and_any_object_come_back_as_they_were(
    database: Database, text: str, document: dict[str, Any]
) -> None:
    written = account(
        f"name{new_id()}", display_name=text, claims=document, metadata={"text": text, **document}
    )
    accounts = AccountStore(database)
    accounts.add(written)
    assert accounts.by_id(written.id) == written
    accounts.change(written.id, {"display_name": text[::-1], "claims": {"a": text}}, now=NOW)
    changed = accounts.by_id(written.id)
    assert (changed.display_name, changed.claims) == (text[::-1], {"a": text})
    assert json.dumps(changed.metadata) == json.dumps(written.metadata)


@round_trip
@given(ANY_TEXT, ANY_TEXT, st.none() | st.lists(ANY_TEXT, max_size=3).map(tuple))
def test_any_text_of_a_key_comes_back_as_it_was(
    database: Database, name: str, description: str, scopes: tuple[str, ...] | None
) -> None:
    owner = account(f"name{new_id()}")
    AccountStore(database).add(owner)
    key = api_key(owner.id, name=name, description=description, scopes=scopes)
    keys = ApiKeyStore(database)
    keys.add(key, os.urandom(32))
    assert keys.get(owner.id, key.id) == key


def test_rows_that_are_alike_in_every_column_are_inserted_all_the_same(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "alike.db")) as database:
        database.execute("CREATE TABLE pair (a, b)")
        insert = Insert("pair", (), "INSERT INTO pair (a, b)", "(?, ?)", "", returns=False)
        database.execute(*insert.with_shared([[1, 1, 1], ["x", "x", "x"]]))
        assert database.execute("SELECT a, b FROM pair").fetchall() == [(1, "x")] * 3
