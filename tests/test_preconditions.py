"""Preconditions (RFC 9110 section 13) mean the same at every address."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from keyosk import model
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from live import Client, LiveServer, unique
from people import Person, make_key, make_person, ok
from tables import table

pytestmark = pytest.mark.in_process

PUBLIC = (
    "/auth/jwks",
    "/auth/jwks?format=pem",
    "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
    "/auth/revocations",
    "/services/keyosk/jwks",
    "/openapi.json",
    "/docs",
    "/docs/start.js",
    "/docs/swagger-ui.css",
    "/health/live",
    "/health/ready",
)
#: Values of If-Match in which the entity tag 5 stands, and in which it does not.
NAMING = ('"5"', '"4", "5"', '"4","5"', ', "4" ,, "5" ,', 'W/"5", "5"', '"a,b", "5"', "*")
OTHERS = (
    *('"4"', 'W/"5"', '"4", "6"', '"05"', '"5', '5"', "5", '""', '"4,5"', "nonsense", '"5" "4"'),
    *('*, "5"', '"4", *', "", 'w/"5"', '"5";q=1', "'5'", '"\xb2"', '"-5"', '"5 "'),
    *('"' + "9" * 18 + '"', '"9223372036854775808"', '"' + "9" * 40 + '"'),
)


@pytest.fixture(scope="module")
def alice(admin: Client) -> Person:
    return make_person(admin)


@pytest.fixture(scope="module")
def paths(admin: Client, alice: Person) -> tuple[str, ...]:
    """What has a representation: public addresses, objects, lists."""
    service, role, issuer = unique("todo"), unique("editor"), unique("ci")
    ok(admin.post("/services", json={"name": service}), 201)
    ok(admin.post("/roles", json={"name": role, "scopes": []}), 201)
    ci = {"name": issuer, "issuer": f"https://{issuer}.example.com"}
    ok(admin.post("/issuers", json=ci), 201)
    machine = {"username": unique("deployer"), "kind": "machine"}
    ok(admin.post("/accounts", json=machine), 201)
    rule = {"name": "main", "claims": {"sub": "x"}, "account": machine["username"]}
    ok(admin.post(f"/issuers/{issuer}/rules", json=rule), 201)
    key = ok(admin.post(f"{alice.path}/api-keys", json={"name": "a key"}), 201)
    kid = ok(admin.get("/auth/jwks"))["keys"][0]["kid"]
    objects = (
        *(alice.path, f"{alice.path}/grants", f"{alice.path}/api-keys/{key['id']}"),
        *(f"/services/{service}", f"/services/{service}/scopes", f"/roles/{role}"),
        *(f"/issuers/{issuer}", f"/issuers/{issuer}/rules/main", f"/issuers/{issuer}/rules"),
        *(f"/signing-keys/{kid}", f"/auth/keys/{kid}.pem", "/accounts", "/services", "/roles"),
        *("/signing-keys", "/audit", "/api-keys", f"{alice.path}/api-keys"),
    )
    known = [path for path in objects if admin.get(path).status_code == 200]
    assert len(known) >= 17
    return (*PUBLIC, *known)


def refused(response: requests.Response, method: str) -> None:
    assert response.status_code == 412
    assert response.headers["Cache-Control"] == "no-store"
    assert "ETag" not in response.headers
    if method == "HEAD":
        assert response.content == b""
    else:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["code"] == "stale"


@table("method", ["GET", "HEAD"])
def test_if_match_with_a_star_is_true_where_there_is_a_representation(
    admin: Client, paths: tuple[str, ...], method: str
) -> None:
    for path in paths:
        assert admin.request(method, path, headers={"If-Match": "*"}).status_code == 200, path
    for path in ("/accounts/nobody", "/services/nothing", "/auth/keys/nothing.pem", "/nowhere"):
        assert admin.request(method, path, headers={"If-Match": "*"}).status_code == 404, path


@table("method", ["GET", "HEAD"])
def test_a_failed_precondition_never_carries_the_representation_nor_may_be_kept(
    admin: Client, paths: tuple[str, ...], method: str
) -> None:
    for path in paths:
        for value in ('"another"', 'W/"another"', "nonsense", '"one", "two"'):
            refused(admin.request(method, path, headers={"If-Match": value}), method)


@table("method", ["GET", "HEAD"])
def test_an_entity_tag_means_the_same_at_every_address(
    admin: Client, paths: tuple[str, ...], method: str
) -> None:
    for path in paths:
        first = admin.request(method, path)
        tag = first.headers.get("ETag")
        if tag is None:
            continue
        for value in (tag, f'"x", {tag}', f'W/{tag}, "x"', "*"):
            known = admin.request(method, path, headers={"If-None-Match": value})
            assert (known.status_code, known.content) == (304, b""), (path, value)
            assert known.headers["ETag"] == tag
            assert known.headers.get("Cache-Control") == first.headers.get("Cache-Control")
            assert known.headers.get("Vary") == first.headers.get("Vary")
            assert "Content-Type" not in known.headers
        for value in (tag, f'"x", {tag}'):
            assert admin.request(method, path, headers={"If-Match": value}).status_code == 200
            both = {"If-Match": value, "If-None-Match": tag}
            assert admin.request(method, path, headers=both).status_code == 304
        refused(admin.request(method, path, headers={"If-Match": f"W/{tag}"}), method)
        both = {"If-Match": '"x"', "If-None-Match": tag}  # If-Match comes first (13.2.2)
        refused(admin.request(method, path, headers=both), method)
        assert admin.request(method, path, headers={"If-None-Match": '"x"'}).status_code == 200


def test_a_date_without_a_comparison_is_ignored(admin: Client, paths: tuple[str, ...]) -> None:
    for path in paths:
        assert "Last-Modified" not in admin.get(path).headers
        for name in ("If-Modified-Since", "If-Unmodified-Since", "If-Range"):
            for date in ("Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 2099 00:00:00 GMT", "x"):
                assert admin.get(path, headers={name: date}).status_code == 200, (path, name)


def test_the_signed_revocations_have_a_weak_tag_that_if_match_refuses(server: LiveServer) -> None:
    client, signed = server.client(), {"Accept": "application/jwt"}
    tag = client.get("/auth/revocations", headers=signed).headers["ETag"]
    assert tag.startswith("W/")
    known = client.get("/auth/revocations", headers={**signed, "If-None-Match": tag})
    assert known.status_code == 304
    refused(client.get("/auth/revocations", headers={**signed, "If-Match": tag}), "GET")


def test_a_failure_is_told_before_a_precondition(server: LiveServer, alice: Person) -> None:
    for headers in ({"If-Match": '"x"'}, {"If-None-Match": "*"}):
        assert server.client().get("/accounts/me", headers=headers).status_code == 401
        assert alice.login().get("/audit", headers=headers).status_code == 403
        assert server.client().get("/nowhere", headers=headers).status_code == 404
        assert server.client().post("/auth/jwks", headers=headers).status_code == 405


def test_a_proxy_may_send_the_preconditions_of_its_client(admin: Client) -> None:
    service = unique("todo")
    ok(admin.post("/services", json={"name": service, "scopes": [f"{service}:read"]}), 201)
    person = make_person(admin, f"{service}:read")
    for headers in ({"If-Match": '"x"'}, {"If-None-Match": "*"}, {"If-None-Match": '"x"'}):
        for path in (f"/auth/forward?service={service}", f"/auth/token?audience={service}"):
            assert person.login().get(path, headers=headers).status_code == 200, headers


# --- Writes ---------------------------------------------------------------------------------------


class Kind:
    """A kind of object: how one is made, and a change of it."""

    def __init__(self, admin: Client, alice: Person, name: str) -> None:
        self.admin, self.name = admin, name
        self.method, self.body = "PATCH", {"description": unique("text")}
        self.deletable = name not in ("grants", "scopes")
        if name == "account":
            account = ok(admin.post("/accounts", json={"username": unique("p")}), 201)
            self.path, self.body = f"/accounts/{account['id']}", {"display_name": "x"}
        elif name == "grants":
            account = ok(admin.post("/accounts", json={"username": unique("p")}), 201)
            self.path, self.method = f"/accounts/{account['id']}/grants", "PUT"
            self.body = {"scopes": [], "roles": []}  # type: ignore[dict-item]
        elif name == "key":
            key, _ = make_key(admin, alice)
            self.path = f"{alice.path}/api-keys/{key}"
        elif name == "role":
            self.path = f"/roles/{unique('r')}"
            ok(admin.post("/roles", json={"name": self.path[7:], "scopes": []}), 201)
        else:
            service = unique("s")
            ok(admin.post("/services", json={"name": service}), 201)
            self.path = f"/services/{service}"
            if name == "scopes":
                self.path, self.method = f"{self.path}/scopes", "PUT"
                self.body = {"scopes": []}  # type: ignore[dict-item]

    def read(self) -> None:
        """Learn the entity tag that it has now."""
        self.tag = self.admin.get(self.path).headers["ETag"]

    def change(self, **headers: str) -> requests.Response:
        encoded = {
            name.replace("_", "-"): value.encode("latin-1") for name, value in headers.items()
        }
        return self.admin.request(self.method, self.path, json=self.body, headers=encoded)

    def with_its_tag(self, value: str) -> str:
        """The value of a table with the version that the object has in place of 5."""
        return value.replace("5", self.tag.strip('"')) if "9" not in value else value


@pytest.fixture(params=["account", "grants", "key", "role", "service", "scopes"])
def kind(request: pytest.FixtureRequest, admin: Client, alice: Person) -> Kind:
    found = Kind(admin, alice, request.param)
    found.read()
    return found


def test_a_list_of_entity_tags_lets_a_change_pass_if_one_is_that_of_the_object(kind: Kind) -> None:
    for value in NAMING:
        response = kind.change(If_Match=kind.with_its_tag(value))
        assert response.status_code == 200, (value, response.text)
        kind.read()


def test_what_names_no_version_that_the_object_has_changes_nothing(kind: Kind) -> None:
    for value in OTHERS:
        response = kind.change(If_Match=kind.with_its_tag(value))
        refused(response, "PUT")
        assert "send its ETag, with the quotation marks" in response.text
    assert kind.admin.get(kind.path).headers["ETag"] == kind.tag


def test_if_none_match_guards_a_change_as_well(kind: Kind) -> None:
    for value in ("*", kind.tag, f"W/{kind.tag}", f'"x", {kind.tag}', "nonsense"):
        refused(kind.change(If_None_Match=value), "PUT")
    assert kind.admin.get(kind.path).headers["ETag"] == kind.tag
    assert kind.change(If_None_Match='"x", "1234567890123"').status_code == 200
    kind.read()
    refused(kind.change(If_Match=kind.tag, If_None_Match=kind.tag), "PUT")
    assert kind.change(If_Match=kind.tag, If_None_Match='"x"').status_code == 200


def test_a_delete_is_guarded_like_a_change(kind: Kind) -> None:
    if not kind.deletable:
        pytest.skip("it cannot be deleted alone")
    for headers in ({"If-Match": '"x", "7"'}, {"If-None-Match": "*"}, {"If-None-Match": kind.tag}):
        refused(kind.admin.delete(kind.path, headers=headers), "DELETE")
    assert kind.admin.delete(kind.path, headers={"If-Match": f'"7", {kind.tag}'}).status_code == 204
    assert kind.admin.delete(kind.path, headers={"If-None-Match": "*"}).status_code == 404


# --- What has no entity tag -----------------------------------------------------------------------


@table(
    "headers",
    [
        *({"If-Match": tags} for tags in ('"5"', 'W/"5"', '"4", "6"', '"4", *', "nonsense", "")),
        *({"If-None-Match": tags} for tags in ("*", "nonsense")),
    ],
)
def test_a_precondition_on_a_write_without_an_entity_tag_was_ignored(
    admin: Client, headers: dict[str, str]
) -> None:
    person = make_person(admin)
    name = unique("made")
    writes: tuple[tuple[str, str, Any], ...] = (
        ("PUT", f"{person.path}/password", {"password": "another long password"}),
        ("DELETE", f"{person.path}/tokens", None),
        ("POST", f"{person.path}/api-keys", {"name": name}),
        ("POST", "/accounts", {"username": name}),
        ("POST", "/services", {"name": name}),
        ("POST", "/signing-keys/rotate", {}),
        ("DELETE", f"{person.path}/password", None),
    )
    before = ok(admin.get("/signing-keys"))
    for method, path, body in writes:
        refused(admin.request(method, path, json=body, headers=headers), method)
    assert person.login().post("/auth/token").status_code == 200
    assert ok(admin.get(f"{person.path}/api-keys"))["items"] == []
    assert admin.get(f"/accounts/{name}").status_code == 404
    assert ok(admin.get("/signing-keys")) == before


@table("headers", [{"If-Match": "*"}, {"If-None-Match": '"x"'}, {"If-None-Match": 'W/"x", "y"'}])
def test_a_true_precondition_lets_such_a_write_pass(admin: Client, headers: dict[str, str]) -> None:
    person = make_person(admin)
    path = f"{person.path}/password"
    changed = admin.put(path, json={"password": "another long password"}, headers=headers)
    assert changed.status_code == 204
    ok(admin.post("/services", json={"name": unique("made")}, headers=headers), 201)


def test_nothing_answers_conditionally_but_the_one_place() -> None:
    """Werkzeug and Flask have ways of their own, which know nothing of ours."""
    ways = re.compile(
        r"\b(make_conditional|is_resource_modified|send_file|send_from_directory)\b"
        r"|\.(if_match|if_none_match|if_modified_since|if_unmodified_since|if_range)\b"
    )
    source = Path(__file__).parent.parent / "keyosk"
    texts = {path: path.read_text() for path in source.rglob("*.py")}
    assert [path for path, text in texts.items() if ways.search(text)] == []
    # What makes a tag of a public document, for the one place to compare.
    assert [path.name for path, text in texts.items() if ".add_etag" in text] == ["responses.py"]


# --- A database that was set back -----------------------------------------------------------------


def writes(keyosk: Installation) -> dict[str, Callable[[str], int]]:
    """By table: what writes a text into an object of it, and returns the version it is at then."""
    account = keyosk.grants.create_account(OPERATOR, [], username="alice", kind=model.Kind.MACHINE)
    keyosk.services.create(OPERATOR, name="todo")
    keyosk.roles.create(OPERATOR, name="editor", scopes=[])
    api_key = keyosk.api_keys.create(OPERATOR, account.id, name="a key")
    keyosk.issuers.create(
        OPERATOR, name="ci", issuer="https://ci.example.org", audience="ci", required_claims=("a",)
    )
    keyosk.workload_rules.create(OPERATOR, "ci", name="main", claims={"a": ("b",)}, account="alice")

    return {
        "account": lambda text: (
            keyosk.accounts.change(OPERATOR, "alice", {"display_name": text}).version
        ),
        "service": lambda text: (
            keyosk.services.change(OPERATOR, "todo", {"description": text}).version
        ),
        "role": lambda text: keyosk.roles.change(OPERATOR, "editor", {"description": text}).version,
        "api_key": lambda text: (
            keyosk.api_keys.change(
                OPERATOR, account.id, api_key.key.id, {"description": text}
            ).version
        ),
        "trusted_issuer": lambda text: (
            keyosk.issuers.change(OPERATOR, "ci", {"description": text}).version
        ),
        "workload_rule": lambda text: (
            keyosk.workload_rules.change(OPERATOR, "ci", "main", {"description": text}).version
        ),
    }


@pytest.mark.every_database
def test_no_entity_tag_is_given_twice_by_a_database_that_was_set_back(
    installation: Installation, subtests: pytest.Subtests
) -> None:
    """By a restore, or by a standby that was behind: one of before fits nothing afterwards."""
    for table_name, write in writes(installation).items():
        with subtests.test(table=table_name):
            kept = write("in the backup")
            lost = {write(f"after the backup {number}") for number in range(3)}
            assert min(lost) > kept
            installation.database.raw.execute_sql(
                f"UPDATE {table_name} SET version = {kept} WHERE version IN "
                f"({', '.join(map(str, lost))})"
            )
            given = [write(f"after the restore {number}") for number in range(4)]
            assert given == sorted({*given} - lost)
            assert given[0] > kept
