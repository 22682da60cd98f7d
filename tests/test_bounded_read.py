"""Reads for which requests wait only briefly: what they return, and for how long at most."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from keyosk.errors import Unavailable
from keyosk.keys import bounded_read
from keyosk.keys.bounded_read import BoundedRead
from waiting import until


class Store:
    """A database whose reads return when they may."""

    def __init__(self) -> None:
        self.compromised_keys = 0
        self.reads = 0
        self.error: Exception | None = None
        self.may_return = threading.Event()
        self.may_return.set()

    def compromised(self) -> int:
        self.reads += 1
        number = self.compromised_keys
        assert self.may_return.wait(60)
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def reading(store: Store, monkeypatch: pytest.MonkeyPatch) -> BoundedRead[int]:
    """One of a server, whose requests wait for a thread: here until it gets a processor."""
    monkeypatch.setattr(bounded_read, "_LONGEST", 60)
    reading = BoundedRead(store.compromised)
    reading.start()
    return reading


@contextmanager
def hanging(store: Store) -> Iterator[None]:
    store.may_return.clear()
    try:
        yield
    finally:
        store.may_return.set()


def test_a_request_gets_the_result_of_a_read_that_began_after_it(
    store: Store, reading: BoundedRead[int]
) -> None:
    before = time.monotonic()
    assert reading.result(None) == 0
    store.compromised_keys = 1
    assert reading.result(before) == 0  # read after it began
    assert reading.result(time.monotonic()) == 1
    assert store.reads == 2


def test_requests_that_wait_share_a_read_that_begins_after_all_of_them(
    store: Store, reading: BoundedRead[int]
) -> None:
    with ThreadPoolExecutor(9) as threads:
        with hanging(store):
            first = threads.submit(reading.result, None)
            until(lambda: store.reads == 1)
            store.compromised_keys = 1
            others = [threads.submit(reading.result, None) for _ in range(8)]
            until(lambda: len(reading._changed._waiters) == 9)  # type: ignore[attr-defined]
        assert first.result() in (0, 1)  # it may wake up late, to a newer result
        assert [each.result() for each in others] == [1] * 8
    assert store.reads == 2


def test_a_database_that_hangs_holds_up_nobody_after_the_first(
    store: Store, reading: BoundedRead[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_read, "_LONGEST", 0.01)
    with ThreadPoolExecutor(1) as threads, hanging(store):
        assert reading.result(None) is None
        monkeypatch.setattr(bounded_read, "_LONGEST", 60)
        assert reading._began is not None
        reading._began -= 120
        for _ in range(5):
            assert threads.submit(reading.result, None).result(60) is None
        assert store.reads == 1
    until(lambda: reading.result(None) == 0)


def test_a_read_that_fails_has_no_result_and_is_made_again(
    store: Store, reading: BoundedRead[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for longest, error in (
        (60, Unavailable("The database is not available.")),
        (0.01, ValueError()),
    ):
        monkeypatch.setattr(bounded_read, "_LONGEST", longest)
        store.error = error
        assert reading.result(None) is None
    monkeypatch.setattr(bounded_read, "_LONGEST", 60)
    store.error = None
    assert reading.result(None) == 0


def test_without_a_server_a_request_waits_for_the_database(store: Store) -> None:
    reading = BoundedRead(store.compromised)
    assert reading.result(None) == 0
    store.error = Unavailable("The database is not available.")
    assert reading.result(None) is None
    assert not reading._has_thread
