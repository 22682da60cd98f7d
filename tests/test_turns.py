"""Who writes next to a SQLite file, where several threads and processes want to."""

import errno
import fcntl
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peewee
import pytest

from keyosk.errors import Unavailable
from keyosk.storage import turns
from keyosk.storage.database import Database
from keyosk.storage.turns import Turns
from waiting import until

#: Three threads of another process, each of which writes again as soon as it can.
BUSY = """
import sys, threading
from keyosk.storage.database import Database

database = Database(sys.argv[1])

def write():
    while True:
        with database.transaction():
            database._execute("UPDATE counter SET value = value + 1", (), repeatable=False)

for _ in range(2):
    threading.Thread(target=write, daemon=True).start()
print(flush=True)
write()
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'keyosk.db'}")
    opened.create_file()
    opened.raw.execute_sql("CREATE TABLE counter (value INTEGER)")
    opened.raw.execute_sql("INSERT INTO counter VALUES (0)")
    yield opened
    opened.close()


@contextmanager
def another_process(database: Database) -> Iterator[None]:
    """Run one that writes over and over."""
    command = [sys.executable, "-c", BUSY, f"sqlite:///{database.path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()  # it has begun
            yield
        finally:
            process.kill()


def increased(database: Database) -> int:
    sql = "UPDATE counter SET value = value + 1 RETURNING value"
    [(value,)] = database._execute(sql, (), repeatable=False)
    return int(value)


def value_of(database: Database) -> int:
    [(value,)] = database._execute("SELECT value FROM counter", ())
    return int(value)


@pytest.mark.slow
def test_a_process_that_writes_on_and_on_lets_another_write(database: Database) -> None:
    passed_over, last = [], 0
    with another_process(database):
        for _ in range(100):
            while (seen := value_of(database)) == last:
                pass  # the other one is to be at it
            last = increased(database)
            passed_over.append(last - seen - 1)
    # SQLite alone has one that sleeps passed over a thousand times, or refuses it at last. The
    # median, as this process itself may sleep for a moment on a busy machine.
    assert statistics.median(passed_over) < 100


def test_a_write_waits_for_that_of_another_process(database: Database) -> None:
    # As another process has it: a lock belongs to the opening of the folder.
    assert database.path is not None
    another, began, written = Turns(database.path), threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        increased(database)
        database.close()
        written.set()

    another.take()
    thread = threading.Thread(target=write)
    thread.start()
    began.wait(30)
    assert not written.wait(0.05)
    another.give()
    assert written.wait(30)
    thread.join()
    another.take()  # and gives it back
    another.give()


def test_who_waits_in_vain_is_told_that_the_database_is_not_available(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LONGEST", 0.05)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            increased(database)
        except Unavailable as error:
            errors.append(error)

    with database.transaction():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(30)
    assert [str(error) for error in errors] == ["The database is not available."]


def test_whoever_waits_for_a_process_that_was_stopped_in_its_turn_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a command and in a thread of the server: ``flock`` itself has no deadline."""
    own, stopped = Turns(tmp_path / "keyosk.db"), Turns(tmp_path / "keyosk.db")
    errors: list[peewee.OperationalError] = []

    def take() -> None:
        try:
            own.take()
        except peewee.OperationalError as error:
            errors.append(error)

    stopped.take()
    monkeypatch.setattr(turns, "LONGEST", 0.05)
    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(60)
    gave_up = not thread.is_alive()
    if gave_up:
        take()  # the main thread, as in a command
    stopped.give()
    thread.join(30)
    assert gave_up
    assert [str(error) for error in errors] == ["database is locked"] * 2


def test_a_turn_that_comes_after_whoever_wanted_it_gave_up_is_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, stopped = Turns(tmp_path / "keyosk.db"), Turns(tmp_path / "keyosk.db")

    def give_up() -> None:
        stopped.take()
        with monkeypatch.context() as patched:
            patched.setattr(turns, "LONGEST", 0.01)
            with pytest.raises(peewee.OperationalError):
                own.take()
        stopped.give()

    def came() -> bool:
        return own._waiter is not None and not own._waiter.is_waiting

    for _ in range(20):
        give_up()
        own.take()  # it may come before the thread that still waits for it
        until(came)
        assert not is_free(tmp_path)
        own.give()
    give_up()
    until(came)
    assert is_free(tmp_path)  # nobody here wants it


def is_free(folder: Path) -> bool:
    """Whether another process could take its turn."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def test_a_late_one_gives_its_turn_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONGEST", 0.0)
    own = Turns(tmp_path / "keyosk.db")
    with pytest.raises(peewee.OperationalError, match="locked"):
        own.take()
    monkeypatch.undo()
    other = Turns(tmp_path / "keyosk.db")
    for each in (own, other, own):
        each.take()
        each.give()


def test_a_turn_needs_no_folder_that_can_be_locked(tmp_path: Path) -> None:
    own = Turns(tmp_path / "missing" / "keyosk.db")
    own.take()
    own.give()
    own.take()
    own.give()


def test_a_write_is_done_where_nothing_can_be_locked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert increased(database) == 1
    with database.transaction():
        increased(database)
    assert increased(database) == 3


def test_a_transaction_that_cannot_begin_gives_its_turn_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object = None) -> None:
        raise peewee.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(database.raw, "begin", fail)
        with pytest.raises(Unavailable), database.transaction():
            pass
    assert increased(database) == 1


def test_a_write_that_fails_gives_its_turn_back(database: Database) -> None:
    with pytest.raises(Unavailable):
        database._execute("UPDATE missing SET value = 1", (), repeatable=False)
    with pytest.raises(ZeroDivisionError), database.transaction():
        raise ZeroDivisionError
    assert increased(database) == 1
