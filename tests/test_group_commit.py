"""What the event loop writes to a SQLite file: in groups, and on disk before a request goes on."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import peewee
import pytest

from event_loops import EventLoop, Left
from keyosk import delays
from keyosk.storage import group_commit, turns
from keyosk.storage.compiled import Compiled, Row, parameter
from keyosk.storage.database import Database
from keyosk.storage.group_commit import GroupCommit, Statement
from waiting import until

NUMBER = peewee.Table("number", ("id", "value"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyosk.db"


@pytest.fixture
def database(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(turns, "LONGEST", 1.0)
    opened = Database(f"sqlite:///{path}")
    opened.create_file()
    opened.raw.execute_sql("CREATE TABLE number (id INTEGER PRIMARY KEY, value TEXT UNIQUE)")
    yield opened
    opened.close()


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as loop:
        yield loop


@pytest.fixture
def groups(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the groups that are written."""
    sizes: list[int] = []
    writes: Any = database._loop_writes
    run = writes._run

    def noting(group: list[Statement]) -> list[list[Row]]:
        sizes.append(len(group))
        rows: list[list[Row]] = run(group)
        return rows

    monkeypatch.setattr(writes, "_run", noting)
    return sizes


def insert(database: Database) -> Compiled:
    query = NUMBER.insert(value=parameter("value")).returning(peewee.SQL("value"))
    return database.compile(query, writes=True)


def stored(path: Path) -> set[str]:
    """The values that another connection sees: those of committed transactions."""
    with closing(sqlite3.connect(path)) as other:
        return {value for (value,) in other.execute("SELECT value FROM number")}


def test_what_one_turn_writes_is_one_transaction_and_on_disk_before_its_requests_go_on(
    database: Database, loop: EventLoop, groups: list[int], path: Path
) -> None:
    add = insert(database)

    def write(value: str) -> tuple[list[Row], set[str]]:
        return add(value=value), stored(path)

    values = [f"{number}" for number in range(20)]
    responses: list[Any] = loop.at_once(*(partial(write, value) for value in values))
    for value, (rows, seen) in zip(values, responses, strict=True):
        assert rows == [(value,)]
        assert seen == set(values)
    assert groups == [20]


def test_what_comes_while_a_commit_waits_is_the_next_group(
    database: Database, loop: EventLoop, groups: list[int], path: Path
) -> None:
    add = insert(database)
    writes: Any = database._loop_writes
    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")

        def release() -> None:
            until(lambda: len(writes._waiting) == 4)
            other.rollback()

        releasing = threading.Thread(target=release)
        releasing.start()
        actions = [partial(add, value=f"{number}") for number in range(5)]
        responses = loop.at_once(*actions, in_one_turn=False)
        releasing.join()
    assert responses == [[(f"{number}",)] for number in range(5)]
    assert groups == [1, 4]


def test_where_one_statement_fails_none_is_written_and_all_begin_again_in_threads(
    database: Database, loop: EventLoop, path: Path
) -> None:
    add = insert(database)
    assert loop.at_once(partial(add, value="taken")) == [[("taken",)]]
    same = [partial(add, value=value) for value in ("before", "taken", "after")]
    assert all(isinstance(each, Left) for each in loop.at_once(*same))
    assert stored(path) == {"taken"}
    assert loop.at_once(partial(add, value="later")) == [[("later",)]]


def test_where_the_file_is_locked_for_long_all_begin_again_in_threads(
    database: Database, loop: EventLoop, path: Path
) -> None:
    add = insert(database)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        responses = loop.at_once(*(partial(add, value=value) for value in ("a", "b")))
    assert all(isinstance(each, Left) for each in responses)
    assert stored(path) == set()
    assert database._outage.is_on  # so that no thread waits for as long again


def test_no_more_wait_than_a_few(database: Database, loop: EventLoop) -> None:
    add = insert(database)
    number = group_commit._MOST + 3
    responses = loop.at_once(*(partial(add, value=f"{value}") for value in range(number)))
    left = [isinstance(each, Left) for each in responses]
    assert left == [False] * group_commit._MOST + [True] * 3


def test_outside_a_request_of_the_loop_it_is_written_at_once(database: Database) -> None:
    add = insert(database)
    assert add(value="in a thread") == [("in a thread",)]
    delays.leave_loop.set(_leave)
    try:
        with pytest.raises(Left):
            add(value="in the loop, which cannot suspend the caller")
    finally:
        delays.leave_loop.set(None)


def _leave() -> Any:
    raise Left


def test_a_request_that_fails_as_it_goes_on_holds_up_no_other(loop: EventLoop) -> None:
    writes = GroupCommit(lambda group: [[(statement.sql,)] for statement in group])

    def fail(_: object) -> None:
        raise OSError

    def write_and_fail() -> list[Row] | None:
        rows = writes.fetch("first", ())
        writes._wait(Statement("failing", ()), fail)
        return rows

    assert loop.at_once(write_and_fail) == [[("first",)]]
    for _ in range(2):
        assert loop.at_once(partial(writes.fetch, "next", ())) == [[("next",)]]


def test_a_request_that_writes_twice_goes_on_twice(loop: EventLoop) -> None:
    writes = GroupCommit(lambda group: [[(statement.sql,)] for statement in group])

    def write(name: str) -> list[Any]:
        return [writes.fetch(f"{name}{step}", ()) for step in range(3)]

    responses = loop.at_once(partial(write, "a"), partial(write, "b"))
    assert responses == [[[(f"{name}{step}",)] for step in range(3)] for name in "ab"]
