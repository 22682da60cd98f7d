"""Accounts whose tokens were just revoked: who waits for the second to end, and who must not."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from installed import Clock, installed
from keyosk import app
from keyosk.errors import RetryLater
from keyosk.model import OPERATOR
from keyosk.pauses import Pauses
from people import PASSWORD


def test_an_account_puts_one_thread_to_sleep_and_not_all(prepared_url: str) -> None:
    # A fifth of a second into one: a revocation holds until its end.
    with installed(prepared_url, clock=Clock(int(time.time()) - 600 + 0.2)) as keyosk:
        keyosk.grants.create_account(OPERATOR, [], username="alice", password=PASSWORD)
        secret = keyosk.api_keys.create(OPERATOR, "alice", name="a key").secret
        keyosk.accounts.revoke_tokens(OPERATOR, "alice")
        wsgi = app.create_app(keyosk)
        together = Barrier(4)

        def ask(_: int) -> tuple[int, str | None]:
            client = wsgi.test_client()
            together.wait(30)
            answer = client.post("/auth/token", auth=("alice", secret))
            keyosk.database.close()  # the thread's own connection
            return answer.status_code, answer.headers.get("Retry-After")

        with ThreadPoolExecutor(4) as threads:
            answers = sorted(threads.map(ask, range(4)), key=str)
        assert answers[0] == (200, None)
        assert answers[-1] == (503, "1")
        # Later ones find the place free again.
        assert wsgi.test_client().post("/auth/token", auth=("alice", secret)).status_code == 200


def test_a_key_that_was_just_published_puts_one_thread_to_sleep_and_not_all(
    prepared_url: str,
) -> None:
    with installed(prepared_url, clock=Clock(int(time.time()) + 60)) as keyosk:
        keyosk.grants.create_account(OPERATOR, [], username="alice", password=PASSWORD)
        secret = keyosk.api_keys.create(OPERATOR, "alice", name="a key").secret
        keyosk.rotation.compromise(OPERATOR, keyosk.signing_keys.current.default.kid)
        wsgi = app.create_app(keyosk)
        together = Barrier(4)

        def ask(_: int) -> tuple[int, str | None]:
            client = wsgi.test_client()
            together.wait(30)
            answer = client.post("/auth/token", auth=("alice", secret))
            keyosk.database.close()  # the thread's own connection
            return answer.status_code, answer.headers.get("Retry-After")

        with ThreadPoolExecutor(4) as threads:
            answers = sorted(threads.map(ask, range(4)), key=str)
        assert answers[0] == (200, None)
        assert answers[-1] == (503, "1")


def test_where_there_is_one_thread_nobody_sleeps() -> None:
    with pytest.raises(RetryLater):
        Pauses(threads=1).wait(1)


def test_the_second_who_would_sleep_is_told_to_come_again() -> None:
    pauses = Pauses(threads=4)
    together = Barrier(4)

    def wait(_: int) -> bool:
        together.wait(30)
        try:
            pauses.wait(1)
        except RetryLater:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(wait, range(4))) == 1
    pauses.wait(0)
