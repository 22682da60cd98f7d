"""Lists over HTTP: pages by keyset, orders, filters, search; and what a page costs."""

import base64
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlencode

import peewee
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from installed import rows_of, sqlite_steps
from keyosk import app
from keyosk.accounts import accounts
from keyosk.ids import new_id
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Kind, ListQuery, Scope
from keyosk.storage import listing, tables
from keyosk.storage.account_lists import AccountLists
from keyosk.storage.audit import AuditStore
from keyosk.storage.database import Database
from keyosk.storage.grants import GrantStore
from keyosk.web import paging
from live import ADMIN_PASSWORD
from tables import table

# Part of `make test-long`.
pytestmark = [pytest.mark.slow, pytest.mark.every_database]

#: Each list with its orders; the keys of the account ``admin`` stand for those of any.
LISTS: Final = {
    "/accounts": ("created_at", "updated_at", "username"),
    "/accounts/admin/api-keys": ("created_at", "name"),
    "/api-keys": ("created_at", "name"),
    "/services": ("created_at", "name"),
    "/roles": ("created_at", "name"),
    "/audit": ("sequence", "time"),
}
ORDERS: Final = [(path, sort) for path, sorts in LISTS.items() for sort in sorts]


class Caller:
    """The first admin, by token, of an installation in this process."""

    def __init__(self, installation: Installation) -> None:
        self.client: FlaskClient = app.create_app(installation).test_client()
        token = self.client.post(
            "/auth/token", data={"audience": "keyosk"}, auth=("admin", ADMIN_PASSWORD)
        )
        self.headers = {"Authorization": f"Bearer {token.get_json()['access_token']}"}

    def get(self, path: str, **query: Any) -> TestResponse:
        address = f"{path}?{urlencode(query)}" if query else path
        return self.client.get(address, headers=self.headers)

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        response = self.get(path, **query)
        assert response.status_code == 200, response.get_json()
        return list(response.get_json()["items"])

    def pages(self, path: str, **query: Any) -> Iterator[list[dict[str, Any]]]:
        """The pages of a list, by the link that each gives to the next."""
        address = f"{path}?{urlencode(query)}"
        while True:
            response = self.client.get(address, headers=self.headers)
            assert response.status_code == 200, response.get_json()
            body = response.get_json()
            yield body["items"]
            if body["next"] is None:
                assert "Link" not in response.headers
                return
            link, relation = response.headers["Link"].split("; ")
            assert relation == 'rel="next"'
            address = link.strip("<>")
            assert f"cursor={quote(body['next'])}" in address

    def all(self, path: str, **query: Any) -> list[dict[str, Any]]:
        return [item for page in self.pages(path, **query) for item in page]


@pytest.fixture
def caller(installation: Installation) -> Caller:
    return Caller(installation)


def fill(installation: Installation, count: int = 8) -> None:
    """Put something into every list, with equal values where an order may have them."""
    for number in random.Random(count).sample(range(count), count):
        installation.grants.create_account(OPERATOR, [], username=f"user-{number}")
        installation.services.create(OPERATOR, name=f"service-{number}")
        installation.roles.create(OPERATOR, name=f"role-{number}")
        installation.api_keys.create(OPERATOR, "admin", name=f"key {number % 3}")


def ids(items: list[dict[str, Any]]) -> list[Any]:
    return [item.get("id", item.get("sequence")) for item in items]


# --- Pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "sort"), ORDERS)
def test_pages_of_any_size_give_the_whole_list_in_order(
    installation: Installation, caller: Caller, path: str, sort: str
) -> None:
    fill(installation)
    whole = caller.items(path, sort=sort, limit=200)
    assert len(whole) >= 8
    values = [item[sort] for item in whole]
    assert values == sorted(values)
    for limit in (1, 3, len(whole) - 1, len(whole), len(whole) + 1):
        pages = list(caller.pages(path, sort=sort, limit=limit))
        assert all(len(page) == limit for page in pages[:-1])
        assert 1 <= len(pages[-1]) <= limit
        assert ids([item for page in pages for item in page]) == ids(whole)
    assert ids(caller.all(path, sort=f"-{sort}", limit=3)) == ids(whole)[::-1]


def test_signing_keys_have_pages_as_well(installation: Installation, caller: Caller) -> None:
    for algorithm in ("ES256", "EdDSA", "ML-DSA-44"):
        installation.rotation.rotate(OPERATOR, algorithm)
    whole = caller.items("/signing-keys")
    assert len(whole) > 3
    for limit in (1, 2, len(whole)):
        pages = list(caller.pages("/signing-keys", limit=limit))
        assert all(len(page) == limit for page in pages[:-1])
        assert [key for page in pages for key in page] == whole
    assert caller.all("/signing-keys", sort="-created_at", limit=1) == whole[::-1]
    counted = caller.get("/signing-keys", total="true", limit=1)
    assert counted.headers["X-Total-Count"] == str(len(whole))


@pytest.mark.parametrize("path", LISTS)
def test_the_total_is_counted_only_when_asked_for(
    installation: Installation, caller: Caller, path: str
) -> None:
    fill(installation)
    whole = caller.all(path)
    response = caller.get(path, limit=2, total="true")
    assert response.headers["X-Total-Count"] == str(len(whole))
    assert "total=true" in response.headers["Link"]
    assert "X-Total-Count" not in caller.get(path).headers
    assert "X-Total-Count" not in caller.get(path, total="false").headers


def test_a_total_is_counted_up_to_a_bound_where_that_is_asked_for(
    installation: Installation, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(installation)
    monkeypatch.setattr(paging, "COUNTED", 5)
    for path in LISTS:
        whole = len(caller.all(path))
        capped = caller.get(path, limit=2, total="capped")
        assert capped.headers["X-Total-Count"] == "5"
        assert capped.headers["X-Total-Count-Capped"] == "true"
        exact = caller.get(path, limit=2, total="true")
        assert exact.headers["X-Total-Count"] == str(whole)
        assert "X-Total-Count-Capped" not in exact.headers
    for filters in ({"kind": "person"}, {"q": "user"}, {"scope": "keyosk:admin"}):
        assert int(caller.get("/accounts", total="capped", **filters).headers["X-Total-Count"]) <= 5


def test_a_search_is_in_the_order_of_its_names(installation: Installation, caller: Caller) -> None:
    names = {
        "bob": "Alan",
        "alice": "Zoe",
        "albert": "Albert",
        "carol": "al",
        "alan": "",
        "dora": "",
    }
    for username, display_name in names.items():
        installation.grants.create_account(
            OPERATOR, [], username=username, display_name=display_name
        )
    for limit in (1, 2, 3, 5, 6):
        items = caller.all("/accounts", q="AL", limit=limit)
        assert [item["username"] for item in items] == ["carol", "bob", "alan", "albert", "alice"]
    assert [
        item["username"] for item in caller.all("/accounts", q="al", limit=1, sort="-username")
    ] == ["carol", "bob", "alice", "albert", "alan"]
    items = caller.all("/accounts", q="al", kind="person", limit=2)
    assert len(items) == 5


def test_a_page_has_50_objects_unless_told_so(installation: Installation, caller: Caller) -> None:
    with installation.database.transaction():
        for number in range(205):
            installation.roles.create(OPERATOR, name=f"role-{number}")
    assert len(caller.items("/roles")) == 50
    assert len(caller.items("/roles", limit=200)) == 200


#: What means nothing to any list.
WRONG: Final = {
    "limit": ("0", "201", "-1", "1e1", "x", "", "1.0", "٣", "99999999999"),
    "sort": ("id", "--created_at", "", "metadata"),
    "total": ("yes",),
    "offset": ("1",),
    "page": ("2",),
    "Limit": ("5",),
}


@table("path", [*LISTS, "/signing-keys"])
def test_a_parameter_that_a_list_does_not_know_is_refused(caller: Caller, path: str) -> None:
    for name, values in WRONG.items():
        for value in values:
            assert_refused(caller.get(path, **{name: value}), name)


@table(
    ("path", "name", "value"),
    [
        ("/services", "q", "a"),  # a filter of another list
        ("/roles", "enabled", "true"),
        ("/audit", "role", "editor"),
        ("/accounts", "unused_since", "2030-01-01T00:00:00Z"),
        ("/accounts", "enabled", "1"),
        ("/accounts", "enabled", "True"),
        ("/accounts", "created_after", "yesterday"),
        ("/accounts", "created_after", "2030-01-01"),
        ("/accounts", "last_login_before", "1900000000"),
        ("/accounts", "q", "\0"),
        ("/accounts", "q", "x" * 501),
        *(("/accounts", "contains", text) for text in ("", "a", "ab", "x" * 501)),
        ("/accounts/admin/api-keys", "expires_before", ""),
        ("/api-keys", "networks", "10.0.0.0/8"),
        ("/api-keys", "networks", ""),
        ("/api-keys", "digest", "0" * 63),
        ("/api-keys", "digest", "\u0660" * 64),
        ("/api-keys", "prefix", "kysk\0"),
        ("/audit", "since", "2030-02-30T00:00:00Z"),
    ],
)
def test_an_unreadable_filter_is_refused(caller: Caller, path: str, name: str, value: str) -> None:
    assert_refused(caller.get(path, **{name: value}), name)


def test_a_refusal_names_what_the_list_takes(caller: Caller) -> None:
    assert caller.get("/services", username="todo").get_json()["detail"] == (
        "username: is not a parameter of this list, which takes "
        "cursor, enabled, exchanges_for, limit, sort, total"
    )
    assert caller.get("/accounts", sort="name").get_json()["detail"] == (
        "sort: must be one of created_at, updated_at, username; "
        "descending with a minus sign, as -created_at"
    )


def test_a_parameter_given_twice_is_refused(caller: Caller) -> None:
    for path in LISTS:
        assert_refused(caller.get(f"{path}?limit=1&limit=2"), "limit")


def assert_refused(response: TestResponse, field: str) -> None:
    assert response.status_code == 422, response.get_data()
    assert response.content_type == "application/problem+json"
    assert [fault["field"] for fault in response.get_json()["errors"]] == [field]


# --- Cursors --------------------------------------------------------------------------------------


def cursor(*place: Any) -> str:
    text = json.dumps(place).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


@pytest.mark.attack
@pytest.mark.parametrize(("path", "sort"), ORDERS)
def test_a_cursor_that_this_list_did_not_give_is_refused(
    installation: Installation, caller: Caller, path: str, sort: str
) -> None:
    fill(installation, 3)
    good = caller.get(path, sort=sort, limit=1).get_json()["next"]
    assert caller.get(path, sort=sort, cursor=good).status_code == 200
    _, value, key, *rest = json.loads(base64.urlsafe_b64decode(good + "=" * (-len(good) % 4)))
    end, end_key, newest, left = rest
    assert newest is None or isinstance(newest, str)
    wrong = 1 if isinstance(value, str) else "1"
    wrong_key = 1 if isinstance(key, str) else "1"
    places: list[tuple[Any, Any]] = [
        *((wrong, key), (value, wrong_key), (None, key), (value, None), (True, key)),
        *(([value], key), ({"a": 1}, key), (-1, -1), (2**63, 2**63), (1.5, 1.5)),
        *(("a\0b", "a\0b"), ("\ud800", "\ud800")),
    ]
    ends: list[tuple[Any, Any, Any]] = [
        *((wrong, end_key, newest), (end, wrong_key, newest), (None, end_key, newest)),
        *((end, None, newest), (end, end_key, 1), (end, end_key, [])),
        *((end, end_key, "a\0b"), (end, end_key, "\ud800"), (True, True, newest)),
    ]
    # Whether it goes on by id, which needs an end.
    lefts: tuple[Any, ...] = (
        -1,
        1.5,
        True,
        "1",
        [],
        0 if isinstance(value, str) or newest is None else -1,
        2**63,
    )
    bad = [
        "",
        "x",
        "!!!!",
        "äää",
        good[:-2],
        good + "AAAA",
        good[::-1],
        "A" * 8001,
        cursor(),
        cursor(sort),
        cursor(sort, value),
        cursor(sort, value, key),
        cursor(sort, value, key, *rest, key),
        cursor(f"-{sort}", value, key, *rest),
        cursor("id", value, key, *rest),
        *(cursor(sort, *place, *rest) for place in places),
        *(cursor(sort, value, key, *each, left) for each in ends),
        *(cursor(sort, value, key, end, end_key, newest, each) for each in lefts),
        base64.urlsafe_b64encode(b"[" * 1500).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b'["x", NaN, 1e999]').decode(),
    ]
    for each in bad:
        assert_refused(caller.get(path, sort=sort, cursor=each), "cursor")
    assert_refused(caller.get(path, sort=f"-{sort}", cursor=good), "cursor")
    for other in LISTS[path]:
        if other != sort:
            assert_refused(caller.get(path, sort=other, cursor=good), "cursor")


def test_any_name_can_end_a_page(installation: Installation, caller: Caller) -> None:
    names = ["a\nb", "tab\there", "👩‍👩‍👧‍👦", "\U0001f600" * 200, "%_*[\\]'\"", " ", "ﬁ", "é", "é"]
    names = [name if name.strip() else f"x{name}x" for name in names]
    for name in names:
        installation.api_keys.create(OPERATOR, "admin", name=name)
    for sort in ("name", "-name"):
        items = caller.all("/accounts/admin/api-keys", sort=sort, limit=1)
        assert sorted(item["name"] for item in items) == sorted(names)
    usernames = ["中" * 255, "\U00020000" * 255, "ñandú", "a'b", "a&b=c+d"]
    for username in usernames:
        installation.grants.create_account(OPERATOR, [], username=username)
    for sort in ("username", "-username"):
        items = caller.all("/accounts", sort=sort, limit=1)
        assert {item["username"] for item in items} == {*usernames, "admin"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("path", "sort"), ORDERS)
def test_what_stays_is_seen_once_while_others_come_and_go(
    installation: Installation, caller: Caller, path: str, sort: str, seed: int
) -> None:
    chance = random.Random(f"{path} {sort} {seed}")
    change = _CHANGES[path](installation, chance)
    for _ in range(15):
        change(None)
    direction = chance.choice(["", "-"])
    stays = set(ids(caller.all(path, limit=200)))
    seen: list[Any] = []
    pages = caller.pages(path, sort=f"{direction}{sort}", limit=chance.randint(1, 4))
    for page in pages:
        seen.extend(ids(page))
        for _ in range(chance.randint(0, 3)):
            stays.discard(change(seen))
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)


Change = Callable[[list[Any] | None], Any]


def _changing(
    chance: random.Random,
    create: Callable[[str], str],
    remove: Callable[[str], object],
) -> Change:
    """What makes an object or deletes one, seen or not yet; returns the id of the deleted one.

    Told nothing, it makes one.
    """
    there: list[str] = []

    def change(seen: list[Any] | None) -> Any:
        if seen is not None and there and chance.random() < 0.5:
            gone = there.pop(chance.randrange(len(there)))
            remove(gone)
            return gone
        # At most as many as go, or a walk forwards would never end.
        if seen is None or chance.random() < 0.5:
            there.append(create(f"{chance.randrange(16**6):06x}"))
        return None

    return change


def _accounts(installation: Installation, chance: random.Random) -> Change:
    accounts = installation.accounts
    return _changing(
        chance,
        lambda name: installation.grants.create_account(OPERATOR, [], username=name).id,
        lambda gone: accounts.remove(OPERATOR, gone),
    )


def _api_keys(installation: Installation, chance: random.Random) -> Change:
    keys = installation.api_keys
    return _changing(
        chance,
        lambda name: keys.create(OPERATOR, "admin", name=name[:1]).key.id,
        lambda gone: keys.remove(OPERATOR, "admin", gone),
    )


def _services(installation: Installation, chance: random.Random) -> Change:
    services = installation.services
    return _changing(
        chance,
        lambda name: services.create(OPERATOR, name=name).id,
        lambda gone: services.remove(OPERATOR, gone),
    )


def _roles(installation: Installation, chance: random.Random) -> Change:
    roles = installation.roles
    names: dict[str, str] = {}

    def create(name: str) -> str:
        role = roles.create(OPERATOR, name=name)
        names[role.id] = name
        return role.id

    return _changing(chance, create, lambda gone: roles.remove(OPERATOR, names[gone]))


def _audit(installation: Installation, chance: random.Random) -> Change:
    """Rows only come."""

    def change(seen: list[Any] | None) -> None:
        if seen is None or chance.random() < 0.3:
            with installation.database.transaction():
                installation.audit.record(OPERATOR, "role.change", None)

    return change


_CHANGES: Final = {
    "/accounts": _accounts,
    "/accounts/admin/api-keys": _api_keys,
    "/api-keys": _api_keys,
    "/services": _services,
    "/roles": _roles,
    "/audit": _audit,
}


# --- Filters --------------------------------------------------------------------------------------

PAST: Final = "2020-01-01T00:00:00Z"
FUTURE: Final = "2040-01-01T00:00:00Z"


def names_of(caller: Caller, path: str, **query: Any) -> set[str]:
    """The names of what a filter lets pass, the same by pages and by count."""
    items = caller.all(path, limit=2, **query)
    assert caller.get(path, total="true", **query).headers["X-Total-Count"] == str(len(items))
    return {str(item.get("username", item.get("name", item.get("action")))) for item in items}


def test_filters_of_accounts(installation: Installation, caller: Caller) -> None:
    installation.services.create(
        OPERATOR, name="todo", scopes=[Scope("todo:read"), Scope("todo:write")]
    )
    installation.roles.create(OPERATOR, name="reader", scopes=["todo:read"])
    create = installation.grants.create_account
    create(OPERATOR, [Grant("todo:read")], username="direct")
    create(OPERATOR, [Grant(role="reader")], username="by-role", kind=Kind.MACHINE)
    create(OPERATOR, [Grant("todo:write"), Grant(role="reader")], username="both")
    create(OPERATOR, [], username="off", enabled=False)
    with installation.database.transaction():
        installation.database.raw.execute_sql(
            "UPDATE account SET last_login_at = 2000000000 WHERE username = 'both'"
        )
        installation.database.raw.execute_sql(
            "UPDATE account SET created_at = 1500000000 WHERE username = 'off'"
        )
    everybody = {"admin", "direct", "by-role", "both", "off"}
    path = "/accounts"
    assert names_of(caller, path) == everybody
    assert names_of(caller, path, enabled="false") == {"off"}
    assert names_of(caller, path, enabled="true") == everybody - {"off"}
    assert names_of(caller, path, kind="machine") == {"by-role"}
    assert names_of(caller, path, role="reader") == {"by-role", "both"}
    assert names_of(caller, path, role="ghost") == set()
    assert names_of(caller, path, scope="todo:read") == {"direct", "by-role", "both"}
    assert names_of(caller, path, scope="todo:write") == {"both"}
    assert names_of(caller, path, scope="todo:%") == set()
    assert names_of(caller, path, created_after=PAST) == everybody - {"off"}
    assert names_of(caller, path, created_after=FUTURE) == set()
    # Who never logged in counts from when the account was made.
    assert "both" not in names_of(caller, path, last_login_before="2030-01-01T00:00:00Z")
    assert "off" in names_of(caller, path, last_login_before=PAST)
    assert names_of(caller, path, last_login_before=FUTURE) == everybody
    assert names_of(caller, path, scope="todo:read", kind="person", q="b") == {"both"}


def test_filters_of_api_keys(installation: Installation, caller: Caller) -> None:
    keys = installation.api_keys
    keys.create(OPERATOR, "admin", name="plain")
    keys.create(OPERATOR, "admin", name="off", enabled=False)
    keys.create(OPERATOR, "admin", name="ends", expires_at=2_000_000_000)
    used = keys.create(OPERATOR, "admin", name="used").key
    with installation.database.transaction():
        installation.database.raw.execute_sql(
            f"UPDATE api_key SET last_used_at = 2100000000 WHERE id = '{used.id}'"
        )
    path = "/accounts/admin/api-keys"
    assert names_of(caller, path, enabled="false") == {"off"}
    assert names_of(caller, path, enabled="true") == {"plain", "ends", "used"}
    assert names_of(caller, path, expires_before=FUTURE) == {"ends"}
    assert names_of(caller, path, expires_before=PAST) == set()
    assert names_of(caller, path, expires_after=PAST) == {"ends"}
    assert names_of(caller, path, expires_after=FUTURE) == set()
    # A key that was never used counts from when it was made.
    assert names_of(caller, path, unused_since=FUTURE) == {"plain", "off", "ends", "used"}
    assert names_of(caller, path, unused_since="2035-01-01T00:00:00Z") == {"plain", "off", "ends"}
    assert names_of(caller, path, unused_since=PAST) == set()


def keys_of(caller: Caller, **query: Any) -> set[str]:
    """The names of keys, of all accounts, that a filter lets pass."""
    names_of(caller, "/api-keys", **query)  # the same by pages and by count
    return {item["name"] for item in caller.items("/api-keys", **query)}


def test_filters_of_all_api_keys(installation: Installation, caller: Caller) -> None:
    keys = installation.api_keys
    bob = installation.grants.create_account(OPERATOR, [], username="bob")
    mine = keys.create(OPERATOR, "admin", name="mine", networks=["10.0.0.0/8"])
    off = keys.create(OPERATOR, "bob", name="off", enabled=False)
    keys.create(OPERATOR, "bob", name="ends", expires_at=2_000_000_000)
    path = "/api-keys"
    by_name = {item["name"]: item for item in caller.items(path)}
    assert by_name.keys() == {"mine", "off", "ends"}
    assert (by_name["off"]["username"], by_name["off"]["account_id"]) == ("bob", bob.id)
    assert by_name["mine"]["username"] == "admin"
    alone = caller.items("/accounts/bob/api-keys", sort="name")
    for item in alone:  # the same, with whose it is
        assert {"account_id": bob.id, "username": "bob", **item} == by_name[item["name"]]
    assert keys_of(caller, owner="BOB") == keys_of(caller, owner=bob.id)
    assert keys_of(caller, owner="bob") == {"off", "ends"}
    assert keys_of(caller, owner="nobody") == set()
    assert caller.get(path, owner="nobody", total="true").headers["X-Total-Count"] == "0"
    assert keys_of(caller, owner="bob", enabled="true") == {"ends"}
    assert keys_of(caller, enabled="false") == {"off"}
    assert keys_of(caller, networks="any") == {"off", "ends"}
    assert keys_of(caller, networks="limited") == {"mine"}
    assert keys_of(caller, networks="limited", owner="bob") == set()
    assert keys_of(caller, expires_before=FUTURE) == {"ends"}
    assert keys_of(caller, expires_after=PAST, expires_before=FUTURE) == {"ends"}
    assert keys_of(caller, expires_after=PAST, expires_before="2030-01-01T00:00:00Z") == set()
    assert keys_of(caller, unused_since=FUTURE) == {"mine", "off", "ends"}
    assert keys_of(caller, unused_since=PAST) == set()
    assert keys_of(caller, prefix=off.key.prefix) == {"off"}
    assert keys_of(caller, prefix=off.key.prefix[:9]) == {"off"}
    assert keys_of(caller, prefix="kysk_") == keys_of(caller, prefix="") == {*by_name}
    digest = hashlib.sha256(mine.secret.encode()).hexdigest()
    assert keys_of(caller, digest=digest) == {"mine"}
    assert keys_of(caller, digest=digest.upper()) == {"mine"}
    assert keys_of(caller, digest="0" * 64) == set()
    assert caller.get(path, prefix="kysk_", total="true").headers["X-Total-Count"] == "3"


@pytest.fixture
def mine(installation: Installation) -> None:
    installation.api_keys.create(OPERATOR, "admin", name="mine")


@pytest.mark.attack
@table(
    "pattern",
    ["%", "_", "kysk%", "kysk_%", "kysk______", "kysk_*", "KYSK_", "kysk_[a-z]", "' OR 1=1", "\\"],
)
@pytest.mark.usefixtures("mine")
def test_no_character_of_a_prefix_means_another(caller: Caller, pattern: str) -> None:
    assert caller.items("/api-keys", prefix=pattern) == []


@pytest.mark.attack
def test_a_secret_in_the_place_of_a_prefix_is_refused_and_not_repeated(
    installation: Installation, caller: Caller
) -> None:
    api_key = installation.api_keys.create(OPERATOR, "admin", name="mine")
    for text in (api_key.secret, api_key.secret[:13]):
        response = caller.get("/api-keys", prefix=text)
        assert_refused(response, "prefix")
        assert "delete that key now" in response.text
        assert text not in response.text


def test_filters_of_services_and_roles(installation: Installation, caller: Caller) -> None:
    installation.services.create(OPERATOR, name="todo", scopes=[Scope("todo:read")])
    installation.services.create(OPERATOR, name="off", enabled=False)
    installation.roles.create(OPERATOR, name="reader", scopes=["todo:read"])
    installation.roles.create(OPERATOR, name="empty")
    assert names_of(caller, "/services", enabled="true") == {"keyosk", "todo"}
    assert names_of(caller, "/services", enabled="false") == {"off"}
    assert names_of(caller, "/roles", scope="todo:read") == {"reader"}
    assert names_of(caller, "/roles", scope="todo") == set()


def test_filters_of_the_audit_log(installation: Installation, caller: Caller) -> None:
    account = installation.grants.create_account(OPERATOR, [], username="alice")
    refused = caller.client.patch(
        "/accounts/admin", json={"enabled": False}, headers=caller.headers
    )
    assert refused.status_code == 403
    path = "/audit"
    admin = installation.accounts.get("admin").id
    assert names_of(caller, path, actor="admin") == {"rule.refused"}
    assert names_of(caller, path, actor=admin) == {"rule.refused"}
    assert "account.create" in names_of(caller, path, actor="operator")
    assert names_of(caller, path, action="account.create") == {"account.create"}
    assert names_of(caller, path, action="token.issue") == set()
    assert names_of(caller, path, target=f"account/{account.id}") == {"account.create"}
    assert names_of(caller, path, outcome="refused") == {"rule.refused"}
    assert names_of(caller, path, credential="password") == {"rule.refused"}
    assert names_of(caller, path, credential=new_id()) == set()
    assert names_of(caller, path, since=FUTURE) == set()
    assert names_of(caller, path, until=PAST) == set()
    assert names_of(caller, path, since=PAST, until=FUTURE) == names_of(caller, path)


@table(
    ("path", "field", "wrong", "told"),
    [
        ("/audit", "action", "login.fail", "Must be an action of the audit log; did you mean"),
        ("/audit", "action", "x" * 400, "Must be an action of the audit log"),
        ("/audit", "outcome", "failed", "Must be one of refused, done"),
        ("/audit/export", "action", "account.", "Must be an action of the audit log"),
        ("/accounts", "kind", "user", "Must be one of machine, person"),
        ("/accounts/export", "kind", "Person", "Must be one of machine, person"),
    ],
)
def test_a_filter_that_nothing_can_pass_is_refused(
    caller: Caller, path: str, field: str, wrong: str, told: str
) -> None:
    response = caller.get(path, **{field: wrong})
    assert_refused(response, field)
    assert told in response.text


def test_two_filters_of_the_audit_log_both_hold(installation: Installation, caller: Caller) -> None:
    installation.grants.create_account(OPERATOR, [], username="alice")
    by_alice = replace(OPERATOR, username="alice", account_id=installation.accounts.get("alice").id)
    for by in (OPERATOR, by_alice):
        for name in ("one", "two"):
            installation.roles.create(by, name=f"{by.username}-{name}")
        installation.roles.remove(by, f"{by.username}-one")
    for actor in ("alice", by_alice.account_id or ""):
        rows = caller.all("/audit", actor=actor, action="role.create")
        assert [row["after"]["name"] for row in rows] == ["alice-one", "alice-two"]
        assert len(caller.all("/audit", actor=actor, action="role.delete")) == 1
        total = caller.get("/audit", actor=actor, action="role.create", total="true")
        assert total.headers["X-Total-Count"] == "2"
        assert caller.all("/audit", actor=actor, action="account.create") == []
        assert caller.all("/audit", actor=actor, action="role.create", outcome="refused") == []
    assert caller.all("/audit", actor="delete alice", action="role.create") == []


@pytest.mark.parametrize("sort", ["sequence", "-sequence", "time", "-time"])
def test_filters_of_the_audit_log_without_an_index_look_at_so_many_rows_a_page(
    installation: Installation, caller: Caller, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    for number in range(12):
        installation.roles.create(OPERATOR, name=f"role-{number}")
        if number % 5 == 0:
            installation.roles.remove(OPERATOR, f"role-{number}")
    asked = {"action": "role.delete", "outcome": "done", "since": PAST, "sort": sort}
    whole = caller.all("/audit", **asked)
    assert len(whole) == 3
    # As if they were too many to be sorted.
    monkeypatch.setattr(listing, "FEW", 0)
    monkeypatch.setattr("keyosk.audit.LOOKED_AT", 4)
    pages = [*caller.pages("/audit", **asked)]
    assert [row for page in pages for row in page] == whole
    if "time" in sort:
        assert [] in pages
        assert len(pages) == len(caller.all("/audit", since=PAST)) // 4 + 1
    few = [*caller.pages("/audit", **asked, limit=1)]
    assert [row for page in few for row in page] == whole


@pytest.mark.parametrize(
    ("path", "asked", "store", "deleted"),
    [
        (
            "/audit",
            {"action": "account.create", "since": PAST},
            AuditStore,
            tables.AuditRow.delete(),
        ),
        (
            "/accounts",
            {"contains": "user-"},
            AccountLists,
            tables.Account.delete().where(tables.Account.username.startswith("user-")),
        ),
    ],
)
def test_the_object_that_a_page_looks_up_to_may_be_deleted_at_that_moment(
    installation: Installation,
    caller: Caller,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    asked: dict[str, str],
    store: Any,
    deleted: peewee.Query,
) -> None:
    fill(installation, 12)
    caller.items("/audit")  # all rows have their places
    monkeypatch.setattr(listing, "FEW", 0)
    monkeypatch.setattr("keyosk.audit.LOOKED_AT", 4)
    monkeypatch.setattr(accounts, "LOOKED_AT", 4)
    horizon, rows = store.horizon, Database.rows
    items: list[Any] = []

    def rows_then_gone(self: Database, query: peewee.Query) -> list[dict[str, Any]]:
        items.append(rows(self, query))
        self.write(deleted.clone())
        return list(items[-1])

    def beside(*arguments: Any, **named: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(Database, "rows", rows_then_gone)
            return horizon(*arguments, **named)

    monkeypatch.setattr(store, "horizon", beside)
    assert caller.get(path, **asked).status_code == 200
    assert items[0]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *(("/accounts", "created_after"), ("/accounts", "last_login_before")),
        *(("/audit", "since"), ("/audit", "until")),
        *(("/api-keys", name) for name in ("expires_before", "expires_after", "unused_since")),
    ],
)
def test_the_plus_of_an_offset_need_not_be_encoded(caller: Caller, path: str, name: str) -> None:
    """In a query it means a space, and everybody forgets that once."""
    plain = caller.get(path, **{name: "2030-01-31T12:00:00+02:00"})
    assert plain.status_code == 200
    for time in ("2030-01-31T12:00:00+02:00", "2030-01-31T12:00:00.5+02:00"):
        response = caller.get(f"{path}?{name}={time}")
        assert (response.status_code, response.get_json()) == (200, plain.get_json()), time
    for time in ("2030-01-31T12:00:00++02:00", "2030-01-31T12:00:00+2:00", "2030-01-31+12:00"):
        assert caller.get(f"{path}?{name}={time}").status_code == 422, time


PEOPLE: Final = {
    "alice": "Alice Liddell",
    "alicia": "",
    "bob": "ALICE'S BROTHER",
    "50%": "half",  # no username has one, a display name may
    "under_score": "100% sure",
    "underxscore": "100 percent",
    "star*": "*starred",
    "brackets": "[a-z] matches",
    "back": "\\slash",
    "ñandú": "Größe",
    "straße": "ΟΔΥΣΣΕΥΣ",
}


@pytest.fixture
def people(installation: Installation) -> None:
    for username, display_name in PEOPLE.items():
        if "%" not in username:
            installation.grants.create_account(
                OPERATOR, [], username=username, display_name=display_name
            )


@table(
    ("q", "expected"),
    [
        ("alic", {"alice", "alicia", "bob"}),
        ("ALIC", {"alice", "alicia", "bob"}),
        ("alice", {"alice", "bob"}),
        ("Alice ", {"alice"}),
        ("alice's", {"bob"}),
        ("lice", set()),
        ("under_", {"under_score"}),
        ("underx", {"underxscore"}),
        ("100%", {"under_score"}),
        ("100 ", {"underxscore"}),
        ("%", set()),
        ("_", set()),
        ("*", {"star*"}),
        ("star*", {"star*"}),
        ("s*", set()),
        ("[", {"brackets"}),
        ("[a-z]", {"brackets"}),
        ("\\", {"back"}),
        ("\\s", {"back"}),
        ("ÑAN", {"ñandú"}),
        ("ñan", {"ñandú"}),
        ("GRÖS", {"ñandú"}),
        ("größ", {"ñandú"}),
        ("GRÖSSE", {"ñandú"}),
        ("stra", {"straße"}),
        ("STRASS", set()),
        ("οδυσσευς", {"straße"}),
        ("ΟΔΥΣ", {"straße"}),
        ("a' OR '1'='1", set()),
        ("\U0010ffff", set()),
    ],
)
@pytest.mark.usefixtures("people")
def test_q_is_the_beginning_of_a_name_in_any_case(
    caller: Caller, q: str, expected: set[str]
) -> None:
    assert names_of(caller, "/accounts", q=q) == expected


#: What text inside a name finds of PEOPLE.
INSIDE: Final[dict[str, set[str]]] = {
    "LIC": {"alice", "alicia", "bob"},
    "lice's": {"bob"},
    "der_s": {"under_score"},
    "00%": {"under_score"},
    "%%%": set(),
    "___": set(),
    "ar*": {"star*"},
    "s**": set(),
    "a-z": {"brackets"},
    "ANDÚ": {"ñandú"},
    "RÖSSE": {"ñandú"},
    "traß": {"straße"},
    "ΔΥΣ": {"straße"},
    "' OR '1'='1": set(),
}


@table(("text", "expected"), INSIDE.items())
@pytest.mark.usefixtures("people")
def test_text_inside_a_name_is_found_anyhow(caller: Caller, text: str, expected: set[str]) -> None:
    for sort in ("created_at", "-username"):
        assert names_of(caller, "/accounts", contains=text, sort=sort) == expected


def test_a_search_inside_names_reads_each_account_once_whatever_its_pages(
    installation: Installation, caller: Caller
) -> None:
    add_many(installation)
    for sort in ("created_at", "-created_at", "username", "updated_at"):
        items = caller.all("/accounts", contains="-19", sort=sort, limit=200)
        assert len(items) == len({item["id"] for item in items}) == 1_111, sort
        key = sort.removeprefix("-")
        assert items == sorted(
            items, key=lambda item: (item[key], item["id"]), reverse=sort.startswith("-")
        )
    if not installation.database.is_sqlite:
        return
    read = installation.accounts.page
    rare, often = ({"contains": text} for text in ("-19999", "-1"))
    whole = steps_of(installation, lambda: read(ListQuery(filters=rare)))
    assert whole < 20 * MANY
    # What many have is soon found; in another order, all are read once and few are kept.
    assert steps_of(installation, lambda: read(ListQuery(filters=often))) < whole / 5
    by_name = ListQuery(filters=often, sort="username")
    assert steps_of(installation, lambda: read(by_name)) < 3 * whole


@pytest.mark.parametrize(
    "sort", ["created_at", "-created_at", "username", "-username", "updated_at"]
)
def test_a_page_of_a_search_inside_names_looks_at_so_many_accounts(
    installation: Installation, caller: Caller, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    fill(installation, 23)  # besides the admin
    for each in ("user-3", "user-17", "user-21"):
        installation.accounts.change(OPERATOR, each, {"display_name": f"Called {each}"})
    whole = caller.all("/accounts", contains="called", sort=sort)
    looked_at = [each["id"] for each in caller.all("/accounts", sort=sort)]
    monkeypatch.setattr(accounts, "LOOKED_AT", 5)
    pages = [*caller.pages("/accounts", contains="called", sort=sort)]
    assert [item for page in pages for item in page] == whole
    places = [looked_at.index(item["id"]) // 5 for item in whole]
    assert [len(page) for page in pages] == [places.count(place) for place in range(5)]
    # A page that is full goes on after its last account.
    one = [*caller.pages("/accounts", contains="user", sort=sort, limit=2)]
    assert [item["username"] for page in one for item in page] == [
        item["username"] for item in caller.all("/accounts", q="user-", sort=sort)
    ]
    assert caller.get("/accounts", contains="called", total="true").headers["X-Total-Count"] == "3"
    assert [*caller.pages("/accounts", contains="called", sort=sort, kind="machine")] == [[]]


def test_what_a_search_inside_names_finds_may_be_renamed_to_a_place_ahead(
    installation: Installation, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "LOOKED_AT", 5)
    fill(installation, 23)
    items: list[str] = []
    for number, page in enumerate(
        caller.pages("/accounts", contains="user-", sort="username", limit=4)
    ):
        assert number < 40, "the list does not end"
        items += [item["id"] for item in page]
        for item in page:
            name = f"vser-user-{number:04}-{item['id']}"
            installation.accounts.change(OPERATOR, item["id"], {"username": name})
    assert len(set(items)) == 23


def steps_of(installation: Installation, read: Callable[[], Any]) -> int:
    return sqlite_steps(installation.database.raw.connection(), read)


def test_an_empty_q_finds_everybody(installation: Installation, caller: Caller) -> None:
    installation.grants.create_account(OPERATOR, [], username="alice")
    assert names_of(caller, "/accounts", q="") == {"admin", "alice"}


def test_a_changed_display_name_is_found_anew(installation: Installation, caller: Caller) -> None:
    installation.grants.create_account(OPERATOR, [], username="alice", display_name="Old")
    installation.accounts.change(OPERATOR, "alice", {"display_name": "New"})
    assert names_of(caller, "/accounts", q="old") == set()
    assert names_of(caller, "/accounts", q="new") == {"alice"}


# --- What a page costs ----------------------------------------------------------------------------

MANY: Final = 20_000


def add_many(installation: Installation) -> None:
    """20,000 accounts, of which many are equal in their times, as after an import."""
    chance = random.Random(1)
    accounts = []
    for number in range(MANY):
        name = f"{chance.randrange(16**8):08x}-{number}"
        times = {"created_at": 1_600_000_000, "updated_at": 1_600_000_000 + chance.randrange(3)}
        names = {"username": name, "display_name": name, "display_key": name}
        kind = {"kind": "person", "enabled": True, "claims": "{}", "metadata": "{}", "version": 1}
        accounts.append({"id": new_id(), **names, **kind, **times})
    database = installation.database
    with database.transaction():
        database.insert_all(tables.Account, accounts)
    if not database.is_sqlite:
        database.raw.execute_sql("ANALYZE")  # as autovacuum does by itself


@pytest.mark.slow
def test_whether_an_admin_stays_is_asked_without_all_grants(installation: Installation) -> None:
    """Each change of an account, grant, role or service asks, whoever it is about."""
    add_many(installation)
    installation.services.create(OPERATOR, name="todo", scopes=[Scope("todo:read")])
    installation.roles.create(OPERATOR, name="admins", scopes=["keyosk:admin"])
    database = installation.database
    accounts = database.rows(tables.Account.select(tables.Account.id))
    with database.transaction():
        for start in range(0, MANY, 500):
            grants = [
                {"account": each["id"], "scope": "todo:read", "role": None}
                for each in accounts[start : start + 500]
            ]
            database.insert(tables.Grant, grants)
    # The admin's own grants are now the last.
    installation.grants.replace(OPERATOR, "admin", [Grant("keyosk:admin"), Grant("todo:read")])
    store = GrantStore(database)
    if database.is_sqlite:
        held: list[bool] = []
        steps = steps_of(installation, lambda: held.append(store.has_lasting_admin()))
        assert (held, steps < 1_000) == ([True], True)
        return
    database.raw.execute_sql("ANALYZE")
    # Counts that wait to be reported, of the inserts above, would be taken for the query's.
    database.raw.execute_sql("SELECT pg_stat_force_next_flush()")
    with database.transaction():
        assert store.has_lasting_admin()
        read = "SELECT relname, seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
        rows = dict(rows_of(installation, read))
        assert {name for name in rows if (rows[name] or 0) > 100} <= {"scope", "service"}
