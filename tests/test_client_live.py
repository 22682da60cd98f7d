"""keyosk-client with a real Keyosk: rotations, revocations, outages, exchange."""

import contextlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from keyosk_client import InvalidToken, LoginRefused, TokenSource, TokenUnavailable, Verifier
from live import Client, LiveServer, free_port
from people import PASSWORD, Person, make_key, make_person, make_service, ok
from waiting import running, until

ROOT = Path(__file__).parent.parent


def is_refused(verifier: Verifier, text: str) -> bool:
    try:
        verifier.verify(text)
    except InvalidToken:
        return True
    return False


@pytest.fixture
def todo(admin: Client) -> str:
    return make_service(admin)


@pytest.fixture
def alice(admin: Client, todo: str) -> Person:
    return make_person(admin, f"{todo}:read", f"{todo}:write")


def source(person: Person, **options: Any) -> TokenSource:
    return TokenSource(person.url, person.username, **{"secret": PASSWORD, **options})


def test_a_password_becomes_a_token_and_the_token_a_value(
    server: LiveServer, todo: str, alice: Person
) -> None:
    verifier = Verifier(server.url, todo)
    text = source(alice, audience=todo, scope=f"{todo}:read").token()
    token = verifier.verify(text)
    assert (token.subject, token.username) == (alice.id, alice.username)
    assert token.scopes == {f"{todo}:read"}
    assert token.act is None
    with pytest.raises(InvalidToken):
        Verifier(server.url, "somebody-else").verify(text)
    verifier.close()


def test_wrong_logins_say_why(admin: Client, todo: str, alice: Person) -> None:
    _, secret = make_key(admin, alice)
    for given, error in (
        (source(alice, secret=secret[:-1] + "x"), "invalid_client"),
        (source(alice, secret=secret, scope="obsolete:read"), "invalid_scope"),
        (source(alice, secret=secret, audience="obsolete"), "invalid_target"),
    ):
        with pytest.raises(LoginRefused) as refused:
            given.token()
        assert refused.value.error == error
        assert refused.value.description
        assert secret[:-1] not in str(refused.value)


@pytest.mark.parametrize("revoke", ["token", "account", "key", "service"])
def test_what_is_revoked_is_refused_within_the_interval(
    server: LiveServer, admin: Client, todo: str, alice: Person, revoke: str
) -> None:
    key, secret = make_key(admin, alice)
    text = source(alice, secret=secret, audience=todo).token()
    verifier = Verifier(server.url, todo, poll_interval=0.2)
    verifier.verify(text)
    if revoke == "token":
        ok(server.client(alice.username, secret).post("/auth/revoke", data={"token": text}))
    elif revoke == "account":
        ok(admin.patch(alice.path, json={"enabled": False}))
    elif revoke == "key":
        ok(admin.delete(f"{alice.path}/api-keys/{key}"), 204)
    else:
        ok(admin.patch(f"/services/{todo}", json={"enabled": False}))

    until(lambda: is_refused(verifier, text))
    verifier.close()


def test_good_tokens_pass_while_keyosk_is_away(own_server: LiveServer) -> None:
    with own_server as server:
        admin = server.admin()
        todo = make_service(admin)
        alice = make_person(admin, f"{todo}:read")
        _, secret = make_key(admin, alice)
        tokens = source(alice, secret=secret)
        text = tokens.token()
        verifier = Verifier(server.url, todo, poll_interval=0.2)
        verifier.verify(text)
    polls = verifier._state._revoked_at
    assert polls is not None
    for _ in range(20):  # it tries, in vain
        verifier.verify(text).require(f"{todo}:read")
        time.sleep(0.05)
    assert tokens.token() == text
    with server:
        until(lambda: (verifier._state._revoked_at or 0) > polls)
        ok(server.admin().patch(alice.path, json={"enabled": False}))
        until(lambda: is_refused(verifier, text))
    verifier.close()


def test_a_login_waits_for_keyosk_to_come_back(own_server: LiveServer) -> None:
    with own_server as server:
        admin = server.admin()
        todo = make_service(admin)
        alice = make_person(admin, f"{todo}:read")
        _, secret = make_key(admin, alice)
    tokens = source(alice, secret=secret)
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(tokens.token()))
    asking.start()
    with server:
        asking.join(60)
        assert found
        Verifier(server.url, todo).verify(found[0])


def test_an_outage_is_told_in_the_end(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyosk_client.token_source._PATIENCE", 1.0)
    away = TokenSource(f"http://127.0.0.1:{free_port()}", alice.username, secret=PASSWORD)
    with pytest.raises(TokenUnavailable):
        away.token()


@pytest.mark.slow
def test_rotations_under_load_refuse_no_good_token(database_url: str, tmp_path: Path) -> None:
    settings = {"key_publish_ahead": "6", "key_retain": "2", "token_lifetime": "30"}
    with LiveServer(database_url, tmp_path, **settings) as server:
        admin = server.admin()
        todo = make_service(admin)
        alice = make_person(admin, f"{todo}:read")
        _, secret = make_key(admin, alice)
        login = server.client(alice.username, secret)
        verifier = Verifier(server.url, todo, poll_interval=1)
        verdicts: Counter[str] = Counter()
        kids = set()
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                text = ok(login.post("/auth/token", data={"audience": todo}))["access_token"]
                try:
                    verifier.verify(text)
                    verdicts["good"] += 1
                except InvalidToken as error:
                    verdicts[str(error)] += 1
                kids.add(text.partition(".")[0])

        loading = threading.Thread(target=load)
        loading.start()
        try:
            for _ in range(10):
                _rotate(server)
        finally:
            stop.set()
            loading.join()
        verifier.close()
    assert set(verdicts) == {"good"}
    assert len(kids) >= 10


def _rotate(server: LiveServer) -> None:
    """Rotate as soon as there is room in the set, and wait until the new key signs."""
    made: list[str] = []

    def is_made() -> bool:
        result = server.run("signing-key", "rotate", "--json")
        if result.returncode == 0:
            made.append(json.loads(result.stdout)["kid"])
        return bool(made)

    def is_signing() -> bool:
        result = server.run("signing-key", "list", "--json")
        states = {key["kid"]: key["state"] for key in json.loads(result.stdout)["items"]}
        return bool(states[made[0]] == "active")

    until(is_made, seconds=120, pause=0.5)
    until(is_signing, seconds=120, pause=0.5)


def test_a_stolen_key_is_refused_and_the_next_accepted(own_server: LiveServer) -> None:
    with own_server as server:
        admin = server.admin()
        todo = make_service(admin)
        alice = make_person(admin, f"{todo}:read")
        _, secret = make_key(admin, alice)
        tokens = source(alice, secret=secret, audience=todo)
        verifier = Verifier(server.url, todo, poll_interval=0.2)
        old = tokens.token()
        verifier.verify(old)
        stolen = ok(admin.get("/auth/jwks"))["keys"][0]["kid"]
        ok(admin.post(f"/signing-keys/{stolen}/compromise"))
        tokens._forget(old)
        assert verifier.verify(tokens.token()).subject == alice.id
        until(lambda: verifier._state.key(stolen) is None)
        with pytest.raises(InvalidToken):
            verifier.verify(old)
        verifier.close()


def test_a_rotation_knows_which_service_has_the_new_key(own_server: LiveServer) -> None:
    with own_server as server:
        admin = server.admin()
        todo = make_service(admin)
        text = source(make_person(admin, f"{todo}:read"), audience=todo).token()

        def fetch() -> None:
            verifier = Verifier(server.url, todo)
            verifier.verify(text)
            verifier.close()

        fetch()
        kid = ok(admin.post("/signing-keys/rotate"), 201)["kid"]

        def lacking() -> list[str]:
            not_seen_by: list[str] = ok(admin.get(f"/signing-keys/{kid}"))["not_seen_by"]
            return not_seen_by

        def has_fetched() -> bool:
            fetch()  # it may reach a process that has not heard of the new key yet
            return lacking() == []

        until(lambda: lacking() == [todo])
        until(has_fetched, pause=0.5)


# --- The examples ---------------------------------------------------------------------------------


@contextlib.contextmanager
def example(name: str, port: int, folder: Path, **environment: str) -> Iterator[None]:
    """A program of ``examples/`` as a process of its own."""
    program = [sys.executable, str(ROOT / "examples" / name)]
    log = folder / f"{name}.log"
    with running(program, log, port=port, env={**os.environ, **environment}):
        yield


def test_the_shop_calls_billing_for_its_caller(own_server: LiveServer, tmp_path: Path) -> None:
    shop_port, billing_port = free_port(), free_port()
    secret_file = tmp_path / "secret"
    with own_server as server:
        admin = server.admin()
        ok(admin.post("/services", json={"name": "billing", "scopes": ["billing:read"]}), 201)
        body = {"username": "shop-backend", "kind": "machine"}
        backend = ok(admin.post("/accounts", json=body), 201)
        exchanges = [{"service": "billing", "scopes": ["billing:read"]}]
        shop_body = {
            "name": "shop",
            "scopes": ["shop:read"],
            "account": "shop-backend",
            "exchanges": exchanges,
        }
        ok(admin.post("/services", json=shop_body), 201)
        key = ok(admin.post(f"/accounts/{backend['id']}/api-keys", json={"name": "x"}), 201)
        secret_file.write_text(key["secret"] + "\n")
        alice = make_person(admin, "shop:read", "billing:read")
        bob = make_person(admin, "shop:read")
        urls = {
            "KEYOSK_URL": server.url,
            "BILLING_URL": f"http://127.0.0.1:{billing_port}",
            "BILLING_BIND": f"127.0.0.1:{billing_port}",
            "SHOP_BIND": f"127.0.0.1:{shop_port}",
            "KEYOSK_CLIENT_SECRET_FILE": str(secret_file),
        }
        shop = f"http://127.0.0.1:{shop_port}/orders"
        with example("shop_service.py", shop_port, tmp_path, **urls):
            with example("billing_service.py", billing_port, tmp_path, **urls):
                assert httpx.get(shop, auth=source(alice, audience="shop")).json() == {
                    "orders": ["a watering can"],
                    "invoices": [f"an invoice for {alice.username}, asked for by shop-backend"],
                }
                # Her token for the shop opens nothing at billing.
                direct = f"{urls['BILLING_URL']}/invoices"
                shops = source(alice, audience="shop").token()
                refused = httpx.get(direct, headers={"Authorization": f"Bearer {shops}"})
                assert refused.status_code == 401
                # Bob may not read invoices, and nobody gives him what he does not hold.
                refused = httpx.get(shop, auth=source(bob, audience="shop"))
                assert (refused.status_code, refused.json()["error"]) == (
                    503,
                    "billing_unavailable",
                )
            assert httpx.get(shop, auth=source(alice, audience="shop")).status_code == 503
