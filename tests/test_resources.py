"""What every resource of the admin API promises, held against each of them.

A new resource gets a row here. What only one of them promises stands in the file of its name.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from live import Client, LiveServer, unique
from people import Person, assert_refused, done, make_person

pytestmark = pytest.mark.every_database

FAR = "2099-01-31T12:00:00Z"
NO_ID = "01900000-0000-7000-8000-000000000000"
PATCH_TYPES = ("application/merge-patch+json", "application/json")


@dataclass(frozen=True)
class Resource:
    """One kind of object.

    ``new``: the body of one more; ``at``: where one is found. ``fields``: those that ``null``
    resets, each with a value that is not the one it has without being given; ``required``: those
    that cannot be reset. ``faults``: two fields with values that are wrong.
    """

    collection: str
    new: Callable[[], dict[str, Any]]
    at: str
    fields: dict[str, Any]
    required: tuple[str, ...]
    faults: dict[str, Any]
    missing: tuple[str, ...] = (NO_ID, "no-such-thing", "%00", "x" * 999)
    hidden: frozenset[str] = field(default=frozenset())  # in the response to a POST only

    def make(self, admin: Client, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = done(admin.post(self.collection, json={**self.new(), **fields}), 201)
        return made

    def path(self, made: dict[str, Any]) -> str:
        return f"{self.collection}/{made[self.at]}"

    def shown(self, made: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in made.items() if name not in self.hidden}


@pytest.fixture(scope="module")
def owner(server: LiveServer, admin: Client) -> Person:
    """Whose API keys are handled."""
    return make_person(server, admin)


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
            )
        case "services":
            return Resource(
                "/services",
                lambda: {"name": unique("service")},
                "id",
                {"title": "A title", "description": "Text", "contact": "ops", "enabled": False}
                | {"on_request_only": True, "cors_preflight": True, "token_lifetime": 60}
                | {"typ": "JWT", "refresh_allowed": True, "refresh_lifetime": 3_600},
                ("name", "audience", "scopes"),
                {"title": "x" * 201, "token_lifetime": 1},
            )
        case "roles":
            scope = unique("todo")
            done(admin.post("/services", json={"name": scope, "scopes": [f"{scope}:read"]}), 201)
            return Resource(
                "/roles",
                lambda: {"name": unique("role")},
                "name",
                {"description": "Reads.", "scopes": [f"{scope}:read"]},
                ("name",),
                {"description": "x" * 2_001, "scopes": ["no-such:scope"]},
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
            )
        case "rules":
            issuer, account = unique("ci"), unique("deployer")
            ci = {"name": issuer, "issuer": f"https://{issuer}.example.com"}
            done(admin.post("/issuers", json=ci), 201)
            done(admin.post("/accounts", json={"username": account, "kind": "machine"}), 201)
            return Resource(
                f"/issuers/{issuer}/rules",
                lambda: {"name": unique("rule"), "claims": {"sub": "x"}, "account": account},
                "name",
                {"description": "Deploys.", "scopes": [], "once": True, "enabled": False}
                | {"expires_at": FAR},
                ("name", "claims", "account"),
                {"description": "x" * 2_001, "scopes": ["no-such:scope"]},
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


def fields_of(answer: requests.Response) -> list[str]:
    """The fields that a refusal is about."""
    assert_refused(answer, "invalid", 422)
    return sorted(fault["field"].split(".")[0] for fault in answer.json()["errors"])


def test_what_is_created_is_at_its_location_and_in_the_list(
    admin: Client, resource: Resource
) -> None:
    answer = admin.post(resource.collection, json={**resource.new(), **resource.fields})
    made = done(answer, 201)
    assert answer.headers["Location"].endswith(resource.path(made))
    assert {name: made[name] for name in resource.fields} == resource.fields
    shown = admin.get(answer.headers["Location"])
    assert done(shown) == resource.shown(made)
    assert shown.headers["ETag"] == answer.headers["ETag"]
    last = done(admin.get(resource.collection, params={"sort": "-created_at", "limit": 1}))
    listed = {name: value for name, value in done(shown).items() if name in last["items"][0]}
    assert last["items"] == [listed]


def test_null_resets_each_field_and_no_other(admin: Client, resource: Resource) -> None:
    made, plain = resource.make(admin, **resource.fields), resource.make(admin)
    path = resource.path(made)
    left = dict(resource.fields)
    for number, name in enumerate(resource.fields):
        media_type = PATCH_TYPES[number % 2]
        headers = {"Content-Type": media_type}
        changed = done(admin.patch(path, data=json.dumps({name: None}), headers=headers))
        del left[name]
        assert changed[name] == plain[name] != resource.fields[name], name
        assert {each: changed[each] for each in left} == left, name
    for name in resource.required:
        assert fields_of(admin.patch(path, json={name: None})) == [name]


def test_all_faults_are_told_by_field_and_nothing_is_done(
    admin: Client, resource: Resource
) -> None:
    made = resource.make(admin)
    path = resource.path(made)
    before = done(admin.get(resource.collection, params={"limit": 1, "sort": "-created_at"}))
    wrong = sorted(resource.faults)
    for by_post in ({**resource.new(), **resource.faults}, {**resource.new(), "colour": 1}):
        expected = wrong if "colour" not in by_post else ["colour"]
        assert fields_of(admin.post(resource.collection, json=by_post)) == expected
    assert fields_of(admin.patch(path, json=resource.faults)) == wrong
    for name in ("colour", "id", "created_at", "updated_at"):
        assert fields_of(admin.patch(path, json={name: "x"})) == [name]
    for body in (b"[]", b"1", b'"text"', b"null"):
        headers = {"Content-Type": "application/json"}
        assert admin.patch(path, data=body, headers=headers).status_code == 422, body
    assert done(admin.get(path)) == resource.shown(made)
    after = done(admin.get(resource.collection, params={"limit": 1, "sort": "-created_at"}))
    assert after == before


def test_a_stale_change_is_refused_and_a_current_one_made(
    admin: Client, resource: Resource
) -> None:
    path = resource.path(resource.make(admin))
    name, value = next(iter(resource.fields.items()))
    first = admin.get(path).headers["ETag"]
    assert first.startswith('"')  # strong (RFC 9110 section 8.8.1)
    changed = admin.patch(path, json={name: value}, headers={"If-Match": first})
    assert done(changed)[name] == value
    second = changed.headers["ETag"]
    assert second != first
    stale = admin.patch(path, json={name: None}, headers={"If-Match": first})
    assert_refused(stale, "stale", 412)
    assert_refused(admin.delete(path, headers={"If-Match": first}), "stale", 412)
    shown = admin.get(path)
    assert (done(shown)[name], shown.headers["ETag"]) == (value, second)
    assert admin.patch(path, json={name: None}, headers={"If-Match": "*"}).status_code == 200
    last = admin.get(path).headers["ETag"]
    assert admin.delete(path, headers={"If-Match": last}).status_code == 204
    assert_refused(admin.get(path), "not_found", 404)


def test_who_has_it_already_is_answered_304_until_it_changes(
    admin: Client, resource: Resource
) -> None:
    path = resource.path(resource.make(admin))
    name, value = next(iter(resource.fields.items()))
    tag = admin.get(path).headers["ETag"]
    for method in ("GET", "HEAD"):
        known = admin.request(method, path, headers={"If-None-Match": tag})
        assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", tag)
    assert admin.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
    done(admin.patch(path, json={name: value}))
    assert admin.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_a_body_in_another_format_is_refused(admin: Client, resource: Resource) -> None:
    path = resource.path(resource.make(admin))
    for media_type in ("text/plain", "application/json-patch+json", ""):
        headers = {"Content-Type": media_type}
        assert_refused(admin.patch(path, data="{}", headers=headers), "unsupported_media_type", 415)
    headers = {"Content-Type": "application/merge-patch+json"}
    body = json.dumps(resource.new())
    refused = admin.post(resource.collection, data=body, headers=headers)
    assert_refused(refused, "unsupported_media_type", 415)


def test_what_does_not_exist_is_not_found(admin: Client, resource: Resource) -> None:
    for reference in resource.missing:
        path = f"{resource.collection}/{reference}"
        for method in ("GET", "PATCH", "DELETE"):
            assert_refused(admin.request(method, path, json={}), "not_found", 404)


def test_a_list_is_walked_page_by_page_in_the_order_of_creation(
    admin: Client, resource: Resource
) -> None:
    made = [resource.make(admin)["id"] for _ in range(5)]
    total = int(
        admin.get(resource.collection, params={"limit": 1, "total": "true"}).headers[
            "X-Total-Count"
        ]
    )
    seen: list[str] = []
    path: str | None = f"{resource.collection}?limit={min(200, max(2, total // 3))}"
    while path is not None:
        answer = admin.get(path)
        page = done(answer)
        assert page.keys() == {"items", "next"}
        seen += [item["id"] for item in page["items"]]
        path = answer.links.get("next", {}).get("url")
        assert (path is None) == (page["next"] is None)
    assert len(seen) == len(set(seen)) == total
    assert seen[-5:] == made
    for query in ("limit=0", "limit=201", "limit=%D9%A3", "cursor=x", "cursor=%FF", "colour=red"):
        name = query.partition("=")[0]
        assert fields_of(admin.get(f"{resource.collection}?{query}")) == [name]
