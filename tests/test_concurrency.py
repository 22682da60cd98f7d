"""Many at once: uniqueness, entity tags, the last admin, and requests that are sent again."""

import json
import random
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
import requests
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from installed import Clock, installed, rows_of
from keyosk import app
from keyosk.credentials.password_hashing import Passwords
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from keyosk.web import routes
from live import ADMIN_PASSWORD, Client, LiveServer, Request, at_once, patching, posting, unique
from people import ok

# Part of `make test-long`.
pytestmark = [pytest.mark.slow, pytest.mark.every_database]


def statuses(responses: Sequence[requests.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


# --- One name, one object -------------------------------------------------------------------------


def spellings(name: str, count: int) -> list[str]:
    """Ways to write one username: case, composed or not, full width."""
    rng = random.Random(name)
    forms = []
    for _ in range(count):
        spelled = "".join(rng.choice((letter.lower(), letter.upper())) for letter in name)
        if rng.random() < 0.5:
            spelled = unicodedata.normalize("NFD", spelled)
        if rng.random() < 0.5:
            wide = {ord(letter): ord(letter) + 0xFEE0 for letter in spelled if "A" <= letter <= "z"}
            spelled = spelled.translate(wide)
        forms.append(spelled)
    return forms


def test_fifty_creates_of_one_username_in_any_spelling_leave_one(admin: Client) -> None:
    name = unique("josé")
    forms = spellings(name, 50)
    assert len(set(forms)) > 25
    responses = at_once(admin, [posting("/accounts", {"username": form}) for form in forms])
    assert statuses(responses) == {201: 1, 409: 49}
    for response in responses:
        if response.status_code == 409:
            assert [fault["field"] for fault in response.json()["errors"]] == ["username"]
    (created,) = [response.json() for response in responses if response.status_code == 201]
    accounts = ok(admin.get("/accounts", params={"q": name}))["items"]
    assert [account["id"] for account in accounts] == [created["id"]]
    assert {ok(admin.get(f"/accounts/{form}"))["id"] for form in forms[:5]} == {created["id"]}


@pytest.mark.parametrize("path", ["/services", "/roles"])
def test_twenty_creates_of_one_name_leave_one(admin: Client, path: str) -> None:
    body = {"name": unique("same")}
    responses = at_once(admin, [lambda own: own.post(path, json=body)] * 20)
    assert statuses(responses) == {201: 1, 409: 19}


def test_twenty_services_that_want_one_scope_leave_one(admin: Client) -> None:
    scope = unique("scope")
    bodies = [{"name": unique("service"), "scopes": [scope]} for _ in range(20)]
    responses = at_once(admin, [posting("/services", body) for body in bodies])
    assert statuses(responses) == {201: 1, 409: 19}
    services = [
        ok(admin.get(response.headers["Location"])) for response in responses if response.ok
    ]
    assert [service["scopes"] for service in services] == [[{"name": scope, "description": ""}]]


# --- One entity tag, one winner -------------------------------------------------------------------


def make_account(admin: Client) -> tuple[str, str]:
    account = ok(admin.post("/accounts", json={"username": unique("account")}), 201)
    return f"/accounts/{account['id']}", "display_name"


def make_service(admin: Client) -> tuple[str, str]:
    service = ok(admin.post("/services", json={"name": unique("service")}), 201)
    return f"/services/{service['id']}", "title"


def make_role(admin: Client) -> tuple[str, str]:
    role = ok(admin.post("/roles", json={"name": unique("role")}), 201)
    return f"/roles/{role['name']}", "description"


def make_api_key(admin: Client) -> tuple[str, str]:
    account, _ = make_account(admin)
    api_key = ok(admin.post(f"{account}/api-keys", json={"name": "key"}), 201)
    return f"{account}/api-keys/{api_key['id']}", "description"


MAKERS: Final = [make_account, make_service, make_role, make_api_key]


@pytest.mark.parametrize("make", MAKERS)
def test_twenty_changes_on_one_entity_tag_leave_one_winner(
    admin: Client, make: Callable[[Client], tuple[str, str]]
) -> None:
    path, field = make(admin)
    tag = admin.get(path).headers["ETag"]
    responses = at_once(
        admin,
        [patching(path, {field: f"writer {number}"}, **{"If-Match": tag}) for number in range(20)],
    )
    assert statuses(responses) == {200: 1, 412: 19}
    (winner,) = [response for response in responses if response.ok]
    now = admin.get(path)
    assert now.json() == winner.json()
    assert now.headers["ETag"] == winner.headers["ETag"] != tag


@pytest.mark.parametrize("make", MAKERS)
def test_a_change_and_a_deletion_on_one_entity_tag_leave_one_winner(
    admin: Client, make: Callable[[Client], tuple[str, str]]
) -> None:
    path, field = make(admin)
    headers = {"If-Match": admin.get(path).headers["ETag"]}
    change: Request = lambda own: own.patch(path, json={field: "x"}, headers=headers)  # noqa: E731
    delete: Request = lambda own: own.delete(path, headers=headers)  # noqa: E731
    responses = at_once(admin, [change, delete] * 5)
    assert sum(response.ok for response in responses) == 1
    assert statuses(responses).keys() <= {200, 204, 404, 412}


@pytest.mark.parametrize("make", MAKERS)
def test_without_an_entity_tag_nothing_is_lost_but_what_is_overwritten(
    admin: Client, make: Callable[[Client], tuple[str, str]]
) -> None:
    path, field = make(admin)
    responses = at_once(
        admin,
        [patching(path, {field: f"{number}"}) for number in range(20)],
    )
    assert statuses(responses) == {200: 20}
    assert len({response.headers["ETag"] for response in responses}) == 20


def test_changes_of_different_members_lose_none(admin: Client) -> None:
    path, _ = make_account(admin)
    responses = at_once(
        admin,
        [patching(path, {"metadata": {f"m{number}": number}}) for number in range(20)],
    )
    assert statuses(responses) == {200: 20}
    assert ok(admin.get(path))["metadata"] == {f"m{number}": number for number in range(20)}


def test_twenty_grants_of_different_scopes_lose_none(admin: Client) -> None:
    name = unique("service")
    scopes = [f"{name}:{number}" for number in range(20)]
    ok(admin.post("/services", json={"name": name, "scopes": scopes}), 201)
    path, _ = make_account(admin)
    responses = at_once(
        admin,
        [patching(f"{path}/grants", {"add": {"scopes": [scope]}}) for scope in scopes],
    )
    assert statuses(responses) == {200: 20}
    assert sorted(ok(admin.get(f"{path}/grants"))["scopes"]) == sorted(scopes)
    responses = at_once(
        admin,
        [patching(f"{path}/grants", {"remove": {"scopes": [scope]}}) for scope in scopes],
    )
    assert statuses(responses) == {200: 20}
    assert ok(admin.get(f"{path}/grants")) == {"scopes": [], "roles": []}


# --- The last admin -------------------------------------------------------------------------------

SECOND_PASSWORD: Final = "the second admin of this test only"


@pytest.fixture
def lonely(own_server: LiveServer) -> LiveServer:
    """A server where nobody else administers."""
    own_server.start()
    return own_server


def disable(own: Client, other: str) -> requests.Response:
    return own.patch(f"/accounts/{other}", json={"enabled": False})


def delete(own: Client, other: str) -> requests.Response:
    return own.delete(f"/accounts/{other}")


def strip(own: Client, other: str) -> requests.Response:
    return own.put(f"/accounts/{other}/grants", json={})


def take_password(own: Client, other: str) -> requests.Response:
    return own.delete(f"/accounts/{other}/password")


@pytest.mark.attack
def test_two_admins_who_go_for_each_other_at_once_leave_one(lonely: LiveServer) -> None:
    survivor, password = "admin", ADMIN_PASSWORD
    for number, attack in enumerate([disable, delete, strip, take_password] * 2):
        other, other_password = f"admin-{number}", f"{SECOND_PASSWORD} {number}"
        first = lonely.client(survivor, password)
        ok(
            first.post(
                "/accounts",
                json={
                    "username": other,
                    "password": other_password,
                    "grants": {"scopes": ["keyosk:admin"]},
                },
            ),
            201,
        )
        tokens = [
            lonely.client(*login).post("/auth/token", data={"audience": "keyosk"}).json()
            for login in ((survivor, password), (other, other_password))
        ]
        callers = [Client(lonely.url, token=token["access_token"]) for token in tokens]
        ready = threading.Barrier(2)

        def fight(
            pair: tuple[Client, str], attack: Any = attack, ready: threading.Barrier = ready
        ) -> requests.Response:
            ready.wait(timeout=30)
            response: requests.Response = attack(*pair)
            return response

        with ThreadPoolExecutor(2) as pool:
            responses = list(pool.map(fight, zip(callers, (other, survivor), strict=True)))
        for caller in callers:
            caller.session.close()
        assert sum(response.ok for response in responses) == 1, [
            response.text for response in responses
        ]
        # Refused by the rule, or as a login that is no more.
        assert {response.status_code for response in responses if not response.ok} <= {
            401,
            403,
            404,
        }
        loser = survivor if responses[1].ok else other
        if responses[1].ok:
            survivor, password = other, other_password
        last = lonely.client(survivor, password)
        assert last.get("/accounts/me").status_code == 200
        # Nor can the last one go by their own hand.
        assert last.delete("/accounts/me").status_code == 403
        assert last.delete("/accounts/me/password").status_code == 403
        if attack is not delete:
            ok(last.delete(f"/accounts/{loser}"), 204)
        last.session.close()
        first.session.close()


# --- Requests that are sent again -----------------------------------------------------------------


def paths(admin: Client) -> dict[str, tuple[str, dict[str, Any], str]]:
    """For each POST that makes something: its path, a body, and where what it made is listed."""
    account, _ = make_account(admin)
    key, _ = make_api_key(admin)
    keys = key.rpartition("/")[0]
    issuer, machine = unique("ci"), unique("deployer")
    ok(admin.post("/accounts", json={"username": machine, "kind": "machine"}), 201)
    ok(
        admin.post("/issuers", json={"name": issuer, "issuer": f"https://{issuer}.example.com"}),
        201,
    )
    return {
        "accounts": (
            "/accounts",
            {"username": unique("once"), "password": "a password of this test only"},
            "/accounts",
        ),
        "api-keys": (f"{account}/api-keys", {"name": "key"}, f"{account}/api-keys"),
        "rotate": (f"{key}/rotate", {"overlap": 60}, keys),
        "services": ("/services", {"name": unique("once")}, "/services"),
        "roles": ("/roles", {"name": unique("once")}, "/roles"),
        "issuers": (
            "/issuers",
            {"name": unique("once"), "issuer": f"https://{unique('once')}.example.com"},
            "/issuers",
        ),
        "rules": (
            f"/issuers/{issuer}/rules",
            {"name": unique("once"), "claims": {"sub": "x"}, "account": machine},
            f"/issuers/{issuer}/rules",
        ),
    }


ROUTES: Final = ("accounts", "api-keys", "rotate", "services", "roles", "issuers", "rules")


def test_every_post_that_makes_something_is_in_this_table() -> None:
    repeatable = {
        route.path
        for route in routes.ROUTES
        if "POST" in route.access and not route.oauth and route.resource.repeatable
    }
    # The one makes nothing, the other nothing of its own (test_apply_endpoint.py).
    repeatable -= {"/signing-keys/<kid>/compromise", "/apply"}
    assert {path.rpartition("/")[2] for path in repeatable} == set(ROUTES)


def total(admin: Client, path: str) -> int:
    return int(admin.get(path, params={"total": "true"}).headers["X-Total-Count"])


@pytest.mark.parametrize("route", ROUTES)
def test_ten_posts_with_one_key_make_one_object(admin: Client, route: str) -> None:
    path, body, listed = paths(admin)[route]
    before = total(admin, listed)
    headers = {"Idempotency-Key": unique("key")}
    responses = at_once(admin, [lambda own: own.post(path, json=body, headers=headers)] * 10)
    assert statuses(responses) == {201: 10}
    assert len({response.text for response in responses}) == 1
    for name in ("Location", "ETag", "Cache-Control", "Content-Type"):
        assert len({response.headers[name] for response in responses}) == 1
    replayed = [response.headers.get("Idempotency-Replayed") for response in responses]
    assert sorted(map(str, replayed)) == ["None", *["true"] * 9]
    assert total(admin, listed) == before + 1
    if route in ("api-keys", "rotate"):
        assert "secret" in responses[0].json()
        assert responses[0].headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("route", ROUTES)
def test_another_body_under_the_same_key_is_refused(admin: Client, route: str) -> None:
    path, body, _ = paths(admin)[route]
    headers = {"Idempotency-Key": unique("key")}
    ok(admin.post(path, json=body, headers=headers), 201)
    changed = {**body, **({"overlap": 61} if route == "rotate" else {"description": "another"})}
    if route == "accounts":
        changed = {**body, "display_name": "another"}
    refused = admin.post(path, json=changed, headers=headers)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
    assert admin.post("/roles?x=1", json=body, headers=headers).status_code == 422


def test_another_caller_is_independent(server: LiveServer, admin: Client) -> None:
    name, password = unique("caller"), "a password of this test only"
    ok(
        admin.post(
            "/accounts",
            json={
                "username": name,
                "password": password,
                "grants": {"scopes": ["keyosk:services:write", "keyosk:services:read"]},
            },
        ),
        201,
    )
    headers = {"Idempotency-Key": unique("key")}
    mine = ok(admin.post("/roles", json={"name": unique("role")}, headers=headers), 201)
    theirs = server.client(name, password).post(
        "/roles", json={"name": unique("role")}, headers=headers
    )
    assert theirs.status_code == 201
    assert "Idempotency-Replayed" not in theirs.headers
    assert theirs.json()["id"] != mine["id"]


def test_a_refused_request_may_be_sent_again_in_another_form(admin: Client) -> None:
    headers = {"Idempotency-Key": unique("key")}
    assert admin.post("/roles", json={"name": "Not A Name"}, headers=headers).status_code == 422
    ok(admin.post("/roles", json={"name": unique("role")}, headers=headers), 201)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "tab\there"])
def test_a_key_that_is_none_is_refused(admin: Client, key: str) -> None:
    refused = admin.post("/roles", json={"name": unique("role")}, headers={"Idempotency-Key": key})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "Idempotency-Key"


class Again:
    """The admin of an installation whose clock the test sets."""

    def __init__(self, installation: Installation, clock: Clock) -> None:
        self.installation = installation
        self.clock = clock
        self.client: FlaskClient = app.create_app(installation).test_client()

    def post(self, path: str, key: str, **body: Any) -> TestResponse:
        return self.client.post(
            path,
            json=body,
            headers={"Idempotency-Key": key},
            auth=("admin", ADMIN_PASSWORD),
        )


@pytest.fixture
def again(prepared_url: str) -> Iterator[Again]:
    clock = Clock(time.time())
    with installed(prepared_url, clock=clock) as installation:
        yield Again(installation, clock)


def secret_of(response: TestResponse) -> str | None:
    assert response.status_code == 201, response.get_data()
    secret: str | None = response.get_json().get("secret")
    return secret


@pytest.mark.attack
def test_a_secret_is_repeated_for_ten_minutes_and_then_gone(again: Again) -> None:
    path = "/accounts/me/api-keys"
    first = again.post(path, "k", name="key")
    secret = secret_of(first)
    assert secret is not None
    kept = json.dumps(rows_of(again.installation, "SELECT * FROM idempotency"), default=bytes.hex)
    assert secret not in kept
    assert secret.encode().hex() not in kept
    again.clock.now += 600
    assert secret_of(again.post(path, "k", name="key")) == secret
    again.clock.now += 1
    later = again.post(path, "k", name="key")
    assert secret_of(later) is None
    assert {**first.get_json(), "secret": None} == {**later.get_json(), "secret": None}
    assert later.headers["Location"] == first.headers["Location"]
    assert rows_of(again.installation, "SELECT sealed FROM idempotency") == [(None,)]


def test_an_answer_is_kept_for_a_day(again: Again) -> None:
    first = again.post("/accounts/me/api-keys", "k", name="key")
    again.clock.now += 86_400
    assert again.post("/accounts/me/api-keys", "k", name="key").headers["Idempotency-Replayed"]
    again.clock.now += 1
    anew = again.post("/accounts/me/api-keys", "k", name="key")
    assert "Idempotency-Replayed" not in anew.headers
    assert anew.get_json()["id"] != first.get_json()["id"]
    assert len(rows_of(again.installation, "SELECT * FROM idempotency")) == 1


def test_hashing_a_password_holds_no_lock(again: Again, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite nobody else could write for as long."""
    database, hashed, under_lock = again.installation.database, Passwords.hash, []

    def watched(self: Passwords, password: str) -> str:
        under_lock.append(database.raw.in_transaction())
        return hashed(self, password)

    monkeypatch.setattr(Passwords, "hash", watched)
    new = {"username": "new", "password": "a password of this test only"}
    assert again.post("/accounts", "k", **new).status_code == 201
    assert under_lock == [False]


def test_what_a_failed_request_began_is_undone_with_it(again: Again) -> None:
    again.installation.roles.create(OPERATOR, name="taken")
    assert again.post("/roles", "k", name="taken").status_code == 409
    assert rows_of(again.installation, "SELECT * FROM idempotency") == []
    assert again.post("/roles", "k", name="free").status_code == 201


@pytest.mark.attack
def test_a_password_in_a_request_is_not_kept(again: Again) -> None:
    password = "a password of this test only"
    assert again.post("/accounts", "k", username="alice", password=password).status_code == 201
    (row,) = rows_of(again.installation, "SELECT * FROM idempotency")
    assert password not in str(row)
