"""Responses that wait for a moment: whom they keep waiting, and whom they must not."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from installed import Clock, installed
from keyosk import app, delays
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from keyosk.web.middleware import HOLD
from live import ADMIN_PASSWORD, LiveServer
from people import PASSWORD, claims_of


def revoke(keyosk: Installation) -> None:
    keyosk.accounts.revoke_tokens(OPERATOR, "alice")


def compromise(keyosk: Installation) -> None:
    keyosk.rotation.compromise(OPERATOR, keyosk.signing_keys.current.default.kid)


#: What makes the next token wait, and for how long at the most.
CAUSES = pytest.mark.parametrize(("cause", "longest"), [(revoke, 1), (compromise, 3)])


def issued_at(response: dict[str, str]) -> int:
    moment: int = claims_of(response["access_token"])["iat"]
    return moment


def alice(keyosk: Installation, cause: Callable[[Installation], None]) -> tuple[FlaskClient, str]:
    """A client, and the API key of an account whose next token has to wait."""
    keyosk.grants.create_account(OPERATOR, [], username="alice", password=PASSWORD)
    secret = keyosk.api_keys.create(OPERATOR, "alice", name="a key").secret
    cause(keyosk)
    return app.create_app(keyosk).test_client(), secret


@CAUSES
def test_the_server_is_told_to_hold_the_response(
    prepared_url: str, cause: Callable[[Installation], None], longest: int
) -> None:
    # A fifth of a second into one: a revocation holds until its end.
    clock = Clock(int(time.time()) + 60.2)
    with installed(prepared_url, clock=clock) as keyosk:
        client, secret = alice(keyosk, cause)
        held: list[float] = []

        def ask() -> int:
            response = client.post(
                "/auth/token", auth=("alice", secret), environ_overrides={HOLD: held.append}
            )
            assert response.status_code == 200
            return issued_at(response.get_json())

        moment = ask()
        assert 0 < max(held) <= longest
        # When the response leaves, the token is valid, and so is the key that signed it.
        assert moment <= clock() + max(held)
        clock.now += max(held)
        held.clear()
        ask()
        assert not held


@CAUSES
def test_without_a_server_the_thread_itself_waits(
    prepared_url: str, cause: Callable[[Installation], None], longest: int
) -> None:
    clock = Clock(int(time.time()) + 60.2)
    with installed(prepared_url, clock=clock) as keyosk:
        client, secret = alice(keyosk, cause)
        began = time.monotonic()
        response = client.post("/auth/token", auth=("alice", secret))
        waited = time.monotonic() - began
        assert issued_at(response.get_json()) <= clock() + waited
        assert waited >= 0.75 * longest


def test_nobody_waits_for_longer_than_three_seconds() -> None:
    held: list[float] = []
    set_before = delays.hold.set(held.append)
    try:
        delays.delay_response(3600)
    finally:
        delays.hold.reset(set_before)
    assert held == [3]


@pytest.mark.slow
def test_an_account_that_revoked_its_tokens_keeps_no_thread_from_others(tmp_path: Path) -> None:
    """As many requests as it likes: each has its token once the second is over."""
    url = f"sqlite:///{tmp_path / 'keyosk.db'}"
    with LiveServer(url, tmp_path, workers="1", threads="1") as server:
        admin = server.client("admin", ADMIN_PASSWORD)
        key = admin.post("/accounts/me/api-keys", json={"name": "k"}).json()["secret"]
        assert server.client("admin", key).post("/auth/token").status_code == 200
        while time.time() % 1 > 0.3:
            time.sleep(0.01)  # so that there is something left of the second
        assert server.admin().delete("/accounts/me/tokens").ok
        with ThreadPoolExecutor(9) as pool:
            asked = [pool.submit(server.client("admin", key).post, "/auth/token") for _ in range(8)]
            # This one needs the only thread, too.
            assert server.client().get("/health/ready").status_code == 200
            responses = [request.result() for request in asked]
        assert [response.status_code for response in responses] == [200] * 8
        for response in responses:
            token = response.json()["access_token"]
            shown = admin.post("/auth/introspect", data={"token": token}).json()
            assert shown["active"] is True
