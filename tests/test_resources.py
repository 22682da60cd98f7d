"""What every resource of the admin API promises, held against each of them.

A new resource gets a row here. What only one of them promises stands in the file of its name.
"""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
import requests

from live import Client, unique
from people import Person, assert_refused, make_person, ok, problem

pytestmark = [pytest.mark.every_database, pytest.mark.in_process]

FAR = "2099-01-31T12:00:00Z"
NO_ID = "01900000-0000-7000-8000-000000000000"
PATCH_TYPES = ("application/merge-patch+json", "application/json")
OTHER_TYPES = (
    *("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
    *("application/jsonp", "application/json; charset=utf-16", "application/json-patch+json"),
    "\u00e9",
)
#: Claims that a service cannot ask an account for.
RESERVED_CLAIMS = (
    *("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "roles", "auth_time"),
    *("amr", "acr", "azp", "key_id", "act", "cnf", "may_act", "preferred_username"),
)
#: In PLAIN: no default, but something that is made or was given.
GIVEN = object()
#: By resource: its fields in the order in which they are shown, each with its default.
PLAIN: dict[str, dict[str, Any]] = {
    "accounts": {
        "id": GIVEN,
        "username": GIVEN,
        "kind": "person",
        "display_name": "",
        "enabled": True,
        "claims": {},
        "metadata": {},
        "expires_at": None,
        "has_password": False,
        "last_login_at": None,
        "created_at": GIVEN,
        "updated_at": GIVEN,
    },
    "services": {
        "id": GIVEN,
        "name": GIVEN,
        "audience": GIVEN,
        "audiences": [],
        "title": "",
        "description": "",
        "contact": "",
        "enabled": True,
        "on_request_only": False,
        "cors_preflight": False,
        "accepts": "both",
        "token_lifetime": None,
        "signing_algorithm": None,
        "typ": None,
        "registry_version": None,
        "refresh_allowed": False,
        "refresh_lifetime": None,
        "claims": [],
        "account": None,
        "exchanges": [],
        "scopes": [],
        "created_at": GIVEN,
        "updated_at": GIVEN,
    },
    "roles": {
        "id": GIVEN,
        "name": GIVEN,
        "description": "",
        "scopes": [],
        "created_at": GIVEN,
        "updated_at": GIVEN,
    },
    "issuers": {
        "id": GIVEN,
        "name": GIVEN,
        "description": "",
        "preset": None,
        "issuer": GIVEN,
        "audience": GIVEN,
        "jwks_uri": None,
        "keys": None,
        "algorithms": ["RS256", "ES256"],
        "max_lifetime": 3_600,
        "required_claims": [],
        "prefix_claims": [],
        "allow_private": False,
        "enabled": True,
        "created_at": GIVEN,
        "updated_at": GIVEN,
    },
    "rules": {
        "id": GIVEN,
        "name": GIVEN,
        "description": "",
        "claims": GIVEN,
        "account": GIVEN,
        "scopes": None,
        "once": False,
        "enabled": True,
        "expires_at": None,
        "last_used_at": None,
        "created_at": GIVEN,
        "updated_at": GIVEN,
    },
    "api-keys": {
        "id": GIVEN,
        "name": GIVEN,
        "description": "",
        "prefix": GIVEN,
        "scopes": None,
        "networks": None,
        "expires_at": None,
        "enabled": True,
        "last_used_at": None,
        "successor": None,
        "created_at": GIVEN,
        "updated_at": GIVEN,
        "secret": GIVEN,
    },
}
#: By resource and field: what it can never be, neither at the start nor by a change.
WRONG: dict[str, dict[str, tuple[Any, ...]]] = {
    "accounts": {
        "username": (
            *(None, "", 7, ["x"], "two words", "a:b", "a/b", "a\0b", "a\ud800", "a" * 256),
            *("Me", NO_ID.upper(), "kysk_abc"),
        ),
        "kind": ("robot", {}),
        "display_name": ("x" * 201, "\x1b[2J", "\0"),
        "enabled": ("yes", 1),
        "claims": ([], 1, {"x": "y" * 16_400}, {"x": "\0"}, {"\udfff": 1}),
        "metadata": ("{}", {"a": "\0"}, {"\0": 1}, {"a": "\ud800"}),
        "expires_at": ("tomorrow", 4_000_000_000),
        "has_password": (True,),
        "last_login_at": (FAR,),
        "user_name": ("x",),
        "__class__": ("x",),
        "\0": (1,),
    },
    "services": {
        "name": ("", "Todo", "todo-", "to do", "todo\n", "\u00e9", "x" * 64, NO_ID),
        "audience": ("", "two words", "t\u00f6do", "https://a.example/#x", "https://"),
        "title": ("x" * 201,),
        "description": ("x" * 2_001,),
        "contact": ("x" * 201, "a\0b"),
        "enabled": (0,),
        "accepts": ("nothing", []),
        "token_lifetime": (29, 86_401, 60.0, 60.5, "60", True, 2**70),
        "refresh_allowed": ("yes",),
        "refresh_lifetime": (0,),
        "registry_version": (1, "2"),
        "signing_algorithm": ("none", "HS256"),
        "typ": ("at+JWT ",),
        "claims": ("team", [""], ["two words"], *([name] for name in RESERVED_CLAIMS)),
        "scopes": (
            *("a:b", [1], [None], [""], ["a b"], ['a"b'], ["x:twice", "x:twice"]),
            *(["offline_access"], ["OpenID"], ["keyosk:mine"], ["Keyosk:Admin"]),
            [{"name": "a:b", "x": 1}],
            [{"name": "x:long", "description": "x" * 2_001}],
        ),
        "url": ("x",),
    },
    "roles": {
        "name": (None, "", "Editor", "two words", "-editor", "e" * 64, NO_ID),
        "description": ("x" * 2_001,),
        "scopes": ("todo:read", [1], ["no-such:scope"]),
        "title": ("x",),
    },
    "issuers": {"description": ("x" * 2_001,), "algorithms": (["none"],)},
    "rules": {"description": ("x" * 2_001,), "scopes": (["no-such:scope"],)},
    "api-keys": {
        "name": (None, "", " \n", "x" * 201, "\x1b[2J"),
        "description": ("x" * 2_001,),
        "scopes": ("todo:read", [None], ["no-such:scope"]),
        "networks": (["here"],),
        "expires_at": ("never",),
        "enabled": ("true",),
        "secret": ("kysk_" + "a" * 38,),
        "prefix": ("kysk_mine",),
        "last_used_at": (FAR,),
    },
}


@dataclass(frozen=True)
class Resource:
    """One kind of object.

    ``new``: the body of one more; ``at``: where one is found. ``fields``: those that ``null``
    resets, each with a value that is not the one it has without being given; ``required``: those
    that cannot be reset. ``faults``: two fields with values that are wrong. ``unique``: those that
    no two objects have the same value of.
    """

    collection: str
    new: Callable[[], dict[str, Any]]
    at: str
    fields: dict[str, Any]
    required: tuple[str, ...]
    faults: dict[str, Any]
    unique: tuple[str, ...] = ()
    hidden: frozenset[str] = field(default=frozenset())  # in the response to a POST only

    @property
    def kind(self) -> str:
        return self.collection.rpartition("/")[2]

    def make(self, admin: Client, **fields: Any) -> dict[str, Any]:
        created: dict[str, Any] = ok(
            admin.post(self.collection, json={**self.new(), **fields}), 201
        )
        return created

    def path(self, made: dict[str, Any]) -> str:
        return f"{self.collection}/{made[self.at]}"

    def shown(self, made: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in made.items() if name not in self.hidden}


@pytest.fixture(scope="module")
def owner(admin: Client) -> Person:
    """Whose API keys are handled."""
    return make_person(admin)


@pytest.fixture(params=["accounts", "services", "roles", "issuers", "rules", "api-keys"])
def resource(request: pytest.FixtureRequest, admin: Client, owner: Person) -> Resource:
    match request.param:
        case "accounts":
            return Resource(
                "/accounts",
                lambda: {"username": unique("account")},
                "id",
                {"kind": "machine", "display_name": "A name", "enabled": False, "expires_at": FAR}
                | {"claims": {"a": 1}, "metadata": {"b": 2}},
                ("username",),
                {"kind": "robot", "expires_at": "soon"},
                ("username",),
            )
        case "services":
            return Resource(
                "/services",
                lambda: {"name": unique("service")},
                "id",
                {"title": "A title", "description": "Text", "contact": "ops", "enabled": False}
                | {"on_request_only": True, "cors_preflight": True, "token_lifetime": 60}
                | {"typ": "JWT", "refresh_allowed": True, "refresh_lifetime": 3_600}
                | {"accepts": "api_key", "signing_algorithm": "EdDSA", "registry_version": 2}
                | {"claims": ["team", "https://example.org/level"]},
                ("name", "audience", "scopes"),
                {"title": "x" * 201, "token_lifetime": 1},
                ("name", "audience"),
            )
        case "roles":
            scope = unique("todo")
            ok(admin.post("/services", json={"name": scope, "scopes": [f"{scope}:read"]}), 201)
            return Resource(
                "/roles",
                lambda: {"name": unique("role")},
                "name",
                {"description": "Reads.", "scopes": [f"{scope}:read"]},
                ("name",),
                {"description": "x" * 2_001, "scopes": ["no-such:scope"]},
                ("name",),
            )
        case "issuers":
            return Resource(
                "/issuers",
                lambda: {"name": unique("ci"), "issuer": f"https://{unique('ci')}.example.com"},
                "name",
                {"description": "Jobs.", "jwks_uri": "https://ci.example.com/keys"}
                | {"algorithms": ["ES256"], "max_lifetime": 60, "required_claims": ["sub"]}
                | {"prefix_claims": ["ref"], "allow_private": True, "enabled": False},
                ("name", "issuer", "audience"),
                {"description": "x" * 2_001, "algorithms": ["none"]},
                ("name", "issuer"),
            )
        case "rules":
            issuer, account = unique("ci"), unique("deployer")
            ci = {"name": issuer, "issuer": f"https://{issuer}.example.com"}
            ok(admin.post("/issuers", json=ci), 201)
            ok(admin.post("/accounts", json={"username": account, "kind": "machine"}), 201)
            return Resource(
                f"/issuers/{issuer}/rules",
                lambda: {"name": unique("rule"), "claims": {"sub": "x"}, "account": account},
                "name",
                {"description": "Deploys.", "scopes": [], "once": True, "enabled": False}
                | {"expires_at": FAR},
                ("name", "claims", "account"),
                {"description": "x" * 2_001, "scopes": ["no-such:scope"]},
                ("name",),
            )
        case _:
            return Resource(
                f"{owner.path}/api-keys",
                lambda: {"name": "a key"},
                "id",
                {"description": "nightly", "scopes": [], "networks": ["10.0.0.0/8"]}
                | {"expires_at": FAR, "enabled": False},
                ("name",),
                {"description": "x" * 2_001, "networks": ["here"]},
                hidden=frozenset({"secret"}),
            )


def fields_of(response: requests.Response) -> list[str]:
    """The fields that a refusal is about."""
    assert_refused(response, "invalid", 422)
    return sorted(fault["field"].split(".")[0] for fault in response.json()["errors"])


def test_what_is_created_is_at_its_location_and_listed(admin: Client, resource: Resource) -> None:
    response = admin.post(resource.collection, json={**resource.new(), **resource.fields})
    created = ok(response, 201)
    assert response.headers["Location"].endswith(resource.path(created))
    assert {name: created[name] for name in resource.fields} == resource.fields
    shown = admin.get(response.headers["Location"])
    assert ok(shown) == resource.shown(created)
    assert shown.headers["ETag"] == response.headers["ETag"]
    last = ok(admin.get(resource.collection, params={"sort": "-created_at", "limit": 1}))
    listed = {name: value for name, value in ok(shown).items() if name in last["items"][0]}
    assert last["items"] == [listed]


def test_what_is_not_given_is_as_documented(admin: Client, resource: Resource) -> None:
    made, plain = resource.make(admin), PLAIN[resource.kind]
    assert list(made) == list(plain)
    assert {name: made[name] for name in plain if plain[name] is not GIVEN} == {
        name: value for name, value in plain.items() if value is not GIVEN
    }
    assert uuid.UUID(made["id"]).version == 7
    assert made["created_at"] == made["updated_at"]
    assert abs(datetime.fromisoformat(made["created_at"]).timestamp() - time.time()) < 60


def test_null_resets_each_field_and_no_other(admin: Client, resource: Resource) -> None:
    made, plain = resource.make(admin, **resource.fields), resource.make(admin)
    path = resource.path(made)
    left = dict(resource.fields)
    for number, name in enumerate(resource.fields):
        headers = {"Content-Type": PATCH_TYPES[number % 2]}
        changed = ok(admin.patch(path, data=json.dumps({name: None}), headers=headers))
        del left[name]
        assert changed[name] == plain[name] != resource.fields[name], name
        assert {each: changed[each] for each in left} == left, name
    for name in resource.required:
        assert fields_of(admin.patch(path, json={name: None})) == [name]


def test_all_faults_are_told_by_field_and_nothing_done(admin: Client, resource: Resource) -> None:
    created = resource.make(admin)
    path = resource.path(created)
    before = ok(admin.get(resource.collection, params={"limit": 1, "sort": "-created_at"}))
    wrong = sorted(resource.faults)
    by_post = {**resource.new(), **resource.faults}
    assert fields_of(admin.post(resource.collection, json=by_post)) == wrong
    at_once = fields_of(admin.post(resource.collection, json={"colour": 1}))
    assert {"colour", resource.required[0]} <= {*at_once}
    assert fields_of(admin.patch(path, json=resource.faults)) == wrong
    for name in ("colour", "id", "created_at", "updated_at"):
        assert fields_of(admin.post(resource.collection, json={**resource.new(), name: "x"})) == [
            name
        ]
        assert fields_of(admin.patch(path, json={name: "x"})) == [name]
    headers = {"Content-Type": "application/json"}
    for body in (b"[]", b"1", b"true", b'"text"', b"null", b'[{"name": "x"}]'):
        for method, where in (("POST", resource.collection), ("PATCH", path)):
            refused = admin.request(method, where, data=body, headers=headers)
            assert fields_of(refused) == ["body"], (method, body)
    assert ok(admin.get(path)) == resource.shown(created)
    after = ok(admin.get(resource.collection, params={"limit": 1, "sort": "-created_at"}))
    assert after == before


def test_a_value_that_breaks_a_rule_is_refused_at_the_start_and_in_a_change(
    admin: Client, resource: Resource, subtests: pytest.Subtests
) -> None:
    current = resource.make(admin)
    path = resource.path(current)
    last = {"limit": 1, "sort": "-created_at"}
    for name, values in WRONG[resource.kind].items():
        for value in values:
            with subtests.test(f"{name}: {value!r:.60}"):
                created = admin.post(resource.collection, json={**resource.new(), name: value})
                assert name in fields_of(created)
                assert name in fields_of(admin.patch(path, json={name: value}))
    assert ok(admin.get(path)) == resource.shown(current)
    assert ok(admin.get(resource.collection, params=last))["items"][0]["id"] == current["id"]


@pytest.mark.every_database(always=True)
def test_a_value_that_another_has_is_a_conflict(admin: Client, resource: Resource) -> None:
    taken, other = resource.make(admin), resource.make(admin)
    for name in resource.unique:
        body = {**resource.new(), name: taken[name]}
        for response in (
            admin.post(resource.collection, json=body),
            admin.patch(resource.path(other), json={name: taken[name]}),
        ):
            assert problem(response, 409, name)["code"] == "conflict"
    assert ok(admin.get(resource.path(other))) == resource.shown(other)


@pytest.mark.every_database(always=True)
def test_a_stale_change_is_refused_and_a_new_one_made(admin: Client, resource: Resource) -> None:
    path = resource.path(resource.make(admin))
    name, value = next(iter(resource.fields.items()))
    first = admin.get(path).headers["ETag"]
    assert first.startswith('"')  # strong (RFC 9110 section 8.8.1)
    changed = admin.patch(path, json={name: value}, headers={"If-Match": first})
    assert ok(changed)[name] == value
    second = changed.headers["ETag"]
    assert second != first
    assert_refused(admin.patch(path, json={name: None}, headers={"If-Match": first}), "stale", 412)
    assert_refused(admin.delete(path, headers={"If-Match": first}), "stale", 412)
    shown = admin.get(path)
    assert (ok(shown)[name], shown.headers["ETag"]) == (value, second)
    ok(admin.patch(path, json={name: None}, headers={"If-Match": "*"}))
    last = admin.get(path).headers["ETag"]
    ok(admin.delete(path, headers={"If-Match": last}), 204)
    assert_refused(admin.get(path), "not_found", 404)


def test_a_body_in_another_format_is_refused(admin: Client, resource: Resource) -> None:
    path = resource.path(resource.make(admin))
    body = json.dumps(resource.new())
    for media_type in OTHER_TYPES:
        headers = {"Content-Type": media_type.encode("latin-1")}
        assert_refused(admin.patch(path, data="{}", headers=headers), "unsupported_media_type", 415)
        refused = admin.post(resource.collection, data=body, headers=headers)
        assert_refused(refused, "unsupported_media_type", 415)
    headers = {"Content-Type": b"application/merge-patch+json"}
    refused = admin.post(resource.collection, data=body, headers=headers)
    assert_refused(refused, "unsupported_media_type", 415)


def test_signing_keys_keep_the_contract_where_they_have_the_operation(admin: Client) -> None:
    before = ok(admin.get("/signing-keys"))["items"]
    for item in before:
        assert ok(admin.get(f"/signing-keys/{item['kid']}")) == item
    for name in ("rotate", "import"):
        path = f"/signing-keys/{name}"
        assert "colour" in fields_of(admin.post(path, json={"colour": 1}))
        assert fields_of(admin.post(path, json=[])) == ["body"]
        text = admin.post(path, data="{}", headers={"Content-Type": "text/plain"})
        assert_refused(text, "unsupported_media_type", 415)
    assert ok(admin.get("/signing-keys"))["items"] == before


#: References that no object has.
MISSING = (
    *(NO_ID, "no-such-thing", "%00", "%ff", "a%20b", "%C3%A9", "%F0%9F%92%A9", "%ED%A0%80"),
    *("..%2Faccounts", "x" * 999, "x" * 3_000),
)


def test_what_does_not_exist_is_not_found(admin: Client, resource: Resource) -> None:
    for reference in MISSING:
        path = f"{resource.collection}/{reference}"
        for method in ("GET", "PATCH", "DELETE"):
            assert_refused(admin.request(method, path, json={}), "not_found", 404)


def test_nothing_is_found_below_what_does_not_exist(admin: Client) -> None:
    below: dict[str, dict[str, dict[str, Any]]] = {
        "/accounts/nobody/grants": {"GET": {}, "PUT": {"scopes": []}, "PATCH": {}},
        "/accounts/nobody/api-keys": {"GET": {}, "POST": {"name": "a key"}},
        "/accounts/nobody/password": {"PUT": {"password": "a password of nobody"}, "DELETE": {}},
        "/services/nothing/scopes": {"GET": {}, "PUT": {"scopes": []}},
        "/services/nothing/jwks": {"GET": {}},
        "/issuers/nothing/rules": {"GET": {}},
        "/signing-keys/nothing": {"GET": {}, "DELETE": {}},
        "/signing-keys/nothing/compromise": {"POST": {}},
    }
    for path, methods in below.items():
        for method, body in methods.items():
            assert_refused(admin.request(method, path, json=body), "not_found", 404)


def test_a_list_is_walked_by_pages_in_order_of_creation(admin: Client, resource: Resource) -> None:
    ids = [resource.make(admin)["id"] for _ in range(5)]
    total = int(
        admin.get(resource.collection, params={"limit": 1, "total": "true"}).headers[
            "X-Total-Count"
        ]
    )
    seen: list[str] = []
    path: str | None = f"{resource.collection}?limit={min(200, max(2, total // 3))}"
    while path is not None:
        response = admin.get(path)
        page = ok(response)
        assert page.keys() == {"items", "next"}
        seen += [item["id"] for item in page["items"]]
        path = response.links.get("next", {}).get("url")
        assert (path is None) == (page["next"] is None)
    assert len(seen) == len(set(seen)) == total
    assert seen[-5:] == ids
    for query in ("limit=0", "limit=%D9%A3", "cursor=x", "cursor=%00", "cursor=%FF", "colour=red"):
        name = query.partition("=")[0]
        assert fields_of(admin.get(f"{resource.collection}?{query}")) == [name]
    assert fields_of(admin.get(f"{resource.collection}?%ED%A0%80=1")) == ["%ED%A0%80"]
