"""Rights lost are lost: at once, everywhere, for good, and also for a login that was under way."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from installed import installed
from keyosk.credentials.password_hashing import Passwords
from keyosk.credentials.presented import candidates
from keyosk.credentials.throttling import Throttling
from keyosk.errors import BadCredentials
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Principal, Scope
from keyosk.storage.throttling import ThrottlingStore
from keyosk.tokens.issuing import TokenRequest
from live import ADMIN_PASSWORD, Client, LiveServer, soon, unique, wait_for

pytestmark = pytest.mark.every_database(always=True)

PASSWORD = "seven quiet herons wade"
OTHER = "seven loud herons wade"

Loss = Callable[[Installation], object]


def expire(installation: Installation) -> None:
    """Give alice an end, and wait until it has passed."""
    end = soon()
    installation.accounts.change(OPERATOR, "alice", {"expires_at": int(end)})
    wait_for(end)


#: What an admin does while a login waits for its hash, and what is left of it: scopes, or nothing.
LOSSES: dict[str, tuple[Loss, str | None]] = {
    "disabled": (lambda it: it.accounts.change(OPERATOR, "alice", {"enabled": False}), None),
    "deleted": (lambda it: it.accounts.remove(OPERATOR, "alice"), None),
    "expired": (expire, None),
    "another password": (lambda it: it.accounts.set_password(OPERATOR, "alice", OTHER), None),
    "no password": (lambda it: it.accounts.remove_password(OPERATOR, "alice"), None),
    "demoted": (
        lambda it: it.grants.replace(OPERATOR, "alice", [Grant("todo:read")]),
        "todo:read",
    ),
    "service disabled": (lambda it: it.services.change(OPERATOR, "todo", {"enabled": False}), ""),
    "nothing": (lambda _: None, "todo:read todo:write"),
}


@pytest.fixture
def alice(prepared_url: str) -> Iterator[Installation]:
    with installed(prepared_url) as installation:
        scopes = [Scope("todo:read"), Scope("todo:write")]
        installation.services.create(OPERATOR, name="todo", scopes=scopes)
        grants = [Grant("todo:read"), Grant("todo:write")]
        installation.grants.create_account(OPERATOR, grants, username="alice", password=PASSWORD)
        yield installation


@pytest.mark.attack
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_lost_during_a_login_is_lost_for_it(
    alice: Installation, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose, left = LOSSES[loss]
    verify = Passwords.verify

    def verify_while_it_is_lost(self: Passwords, password: str, stored: str | None) -> str | None:
        replacement = verify(self, password, stored)  # right, by what was read before
        lose(alice)
        return replacement

    monkeypatch.setattr(Passwords, "verify", verify_while_it_is_lost)
    if left is None:
        with pytest.raises(BadCredentials):
            alice.authentication.by_secret(candidates([("alice", PASSWORD)]))
        return
    login = alice.authentication.by_secret(candidates([("alice", PASSWORD)]))
    assert alice.token_issuer.by_login(login, TokenRequest()).token.scope == left


def _refunded(it: Installation, login: Principal) -> Callable[[], object]:
    throttling = Throttling(it.database, ThrottlingStore(it.database), time.time)
    attempt = throttling.admit("alice", "192.0.2.7", seen_at=None)
    return lambda: throttling.refund([attempt], login.account_id)


def _refresh_session(it: Installation, login: Principal) -> Callable[[], object]:
    granted = it.token_issuer.entitled(login, TokenRequest())
    token = it.tokens.issue(login, granted)
    granted = replace(granted, refresh_lifetimes=frozenset({None}))
    return lambda: it.sessions.begin(login, granted, token, address=None)


#: The last steps of a login, behind the last look at its account: what makes each ready.
LAST_STEPS: dict[str, Callable[[Installation, Principal], Callable[[], object]]] = {
    "its address becomes known": _refunded,
    "its refresh session begins": _refresh_session,
    "its console session begins": lambda it, login: partial(
        it.console_sessions.begin, login, address=None, agent="", request_id=None
    ),
    "it waits for a second factor": lambda it, login: partial(it.pending_logins.begin, login),
}


@pytest.mark.attack
@pytest.mark.parametrize("step", LAST_STEPS)
def test_an_account_that_is_deleted_at_the_end_of_a_login_is_wrong_credentials(
    step: str, alice: Installation
) -> None:
    """The database finds it, as rows refer to the account. It was an internal error."""
    login = alice.authentication.by_secret(candidates([("alice", PASSWORD)]))
    last_step = LAST_STEPS[step](alice, login)
    alice.accounts.remove(OPERATOR, "alice")
    with pytest.raises(BadCredentials):
        last_step()


@pytest.mark.attack
def test_an_api_key_that_is_deleted_at_the_end_of_a_login_is_wrong_credentials(
    alice: Installation,
) -> None:
    api_key = alice.api_keys.create(OPERATOR, "alice", name="key")
    login = alice.authentication.by_secret(candidates([("alice", api_key.secret)]))
    last_step = _refresh_session(alice, login)
    alice.api_keys.remove(OPERATOR, "alice", api_key.key.id)
    with pytest.raises(BadCredentials):
        last_step()


class Somebody:
    """An account that may read accounts, with all that proves it."""

    def __init__(self, server: LiveServer) -> None:
        self.name = unique("somebody")
        grants = {"scopes": ["keyosk:accounts:read"]}
        body = {"username": self.name, "password": PASSWORD, "grants": grants}
        self.admin = server.admin()
        response = self.admin.post("/accounts", json=body)
        assert response.status_code == 201, response.text
        self.path = response.headers["Location"]
        self.key: str = self.admin.post(f"{self.path}/api-keys", json={"name": "k"}).json()[
            "secret"
        ]
        asked = server.client(self.name, PASSWORD).post("/auth/token", data={"audience": "keyosk"})
        self.token: str = asked.json()["access_token"]

    def statuses(self, server: LiveServer) -> list[int]:
        """By token, by key and by password."""
        callers = [
            Client(server.url, token=self.token),
            server.client(self.name, self.key),
            server.client(self.name, PASSWORD),
        ]
        return [caller.get("/accounts").status_code for caller in callers]


EVERYWHERE: dict[str, tuple[Callable[[Somebody], object], list[int]]] = {
    "disabled": (
        lambda it: it.admin.patch(it.path, json={"enabled": False}),
        [401, 401, 401],
    ),
    "deleted": (lambda it: it.admin.delete(it.path), [401, 401, 401]),
    "demoted": (
        lambda it: it.admin.put(f"{it.path}/grants", json={"scopes": [], "roles": []}),
        [401, 403, 403],
    ),
    "tokens revoked": (lambda it: it.admin.delete(f"{it.path}/tokens"), [401, 200, 200]),
    "another password": (
        lambda it: it.admin.put(f"{it.path}/password", json={"password": OTHER}),
        [401, 200, 401],
    ),
}


@pytest.mark.slow
@pytest.mark.fault
def test_a_loss_holds_at_once_on_every_worker_and_node_and_survives_a_kill(
    database_url: str, tmp_path: Path
) -> None:
    options = {"workers": "2", "issuer": "http://127.0.0.1:8080"}
    with (
        LiveServer(database_url, tmp_path, **options) as one,
        LiveServer(database_url, tmp_path, **options) as two,
    ):
        people = {loss: Somebody(one) for loss in EVERYWHERE}
        for loss, (lose, left) in EVERYWHERE.items():
            somebody = people[loss]
            assert somebody.statuses(two) == [200, 200, 200]
            lose(somebody)
            # Each request comes by a connection of its own, which either worker may take.
            for server in (two, one, two, one):
                assert somebody.statuses(server) == left, loss
        for server in (one, two):
            server.kill()
        one.start()
        for loss, (_, left) in EVERYWHERE.items():
            assert people[loss].statuses(one) == left, loss
        assert one.client("admin", ADMIN_PASSWORD).post("/auth/token").status_code == 200
