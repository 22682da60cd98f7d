"""What a key set waits for: whether the database confirms it, and for how long at most."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from keyosk.errors import Unavailable
from keyosk.keys import confirmation
from keyosk.keys.confirmation import Confirmation
from waiting import until


class Store:
    """A database that answers when it may."""

    def __init__(self) -> None:
        self.compromised_keys = 0
        self.questions = 0
        self.error: Exception | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()

    def compromised(self) -> int:
        self.questions += 1
        number = self.compromised_keys
        assert self.may_answer.wait(60)
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def asking(store: Store, monkeypatch: pytest.MonkeyPatch) -> Confirmation[int]:
    """One of a server, whose requests wait for a thread: here until it gets a processor."""
    monkeypatch.setattr(confirmation, "_LONGEST", 60)
    asking = Confirmation(store.compromised)
    asking.start()
    return asking


@contextmanager
def hanging(store: Store) -> Iterator[None]:
    store.may_answer.clear()
    try:
        yield
    finally:
        store.may_answer.set()


def test_a_request_gets_what_the_database_said_after_it_began(
    store: Store, asking: Confirmation[int]
) -> None:
    before = time.monotonic()
    assert asking.answer(None) == 0
    store.compromised_keys = 1
    assert asking.answer(before) == 0  # asked after it began
    assert asking.answer(time.monotonic()) == 1
    assert store.questions == 2


def test_requests_that_wait_share_a_question_that_begins_after_all_of_them(
    store: Store, asking: Confirmation[int]
) -> None:
    with ThreadPoolExecutor(9) as threads:
        with hanging(store):
            first = threads.submit(asking.answer, None)
            until(lambda: store.questions == 1)
            store.compromised_keys = 1
            others = [threads.submit(asking.answer, None) for _ in range(8)]
            until(lambda: len(asking._changed._waiters) == 9)  # type: ignore[attr-defined]
        assert first.result() in (0, 1)  # it may wake up late, to a newer answer
        assert [each.result() for each in others] == [1] * 8
    assert store.questions == 2


def test_a_database_that_hangs_holds_up_nobody_after_the_first(
    store: Store, asking: Confirmation[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmation, "_LONGEST", 0.01)
    with ThreadPoolExecutor(1) as threads, hanging(store):
        assert asking.answer(None) is None
        monkeypatch.setattr(confirmation, "_LONGEST", 60)
        assert asking._began is not None
        asking._began -= 120
        for _ in range(5):
            assert threads.submit(asking.answer, None).result(60) is None
        assert store.questions == 1
    until(lambda: asking.answer(None) == 0)


def test_what_cannot_be_asked_is_not_confirmed_and_is_asked_again(
    store: Store, asking: Confirmation[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for longest, error in (
        (60, Unavailable("The database is not available.")),
        (0.01, ValueError()),
    ):
        monkeypatch.setattr(confirmation, "_LONGEST", longest)
        store.error = error
        assert asking.answer(None) is None
    monkeypatch.setattr(confirmation, "_LONGEST", 60)
    store.error = None
    assert asking.answer(None) == 0


def test_without_a_server_whoever_asks_waits_for_the_database(store: Store) -> None:
    asking = Confirmation(store.compromised)
    assert asking.answer(None) == 0
    store.error = Unavailable("The database is not available.")
    assert asking.answer(None) is None
    assert not asking._has_thread
