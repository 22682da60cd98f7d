"""Services for verifiers that need another typ or algorithm, and who gets their tokens."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from keyosk.permissions.verifier_presets import PRESETS
from live import Client, LiveServer, unique
from people import Person, claims_of, make_person, ok, token_of
from tables import table

PAGE = Path(__file__).parent.parent / "docs/reference/verifiers.md"


def make(admin: Client, **fields: Any) -> dict[str, Any]:
    name = unique("format")
    body = {"name": name, "scopes": [f"{name}:read"], **fields}
    return dict(ok(admin.post("/services", json=body), 201))


def claims(person: Person, **asked: str) -> dict[str, Any]:
    text = token_of(person, **asked)
    return dict(claims_of(text))


UNUSUAL = [
    {"typ": "JWT"},
    {"signing_algorithm": "RS256"},
    {"typ": "JWT", "signing_algorithm": "EdDSA"},
]


@pytest.mark.parametrize("fields", UNUSUAL, ids=str)
def test_one_service_of_another_format_does_not_make_plain_token_requests_fail(
    admin: Client, fields: dict[str, str]
) -> None:
    usual, made = make(admin, signing_algorithm="ES256"), make(admin, **fields)
    forced = make(admin, **fields, on_request_only=False)
    assert (made["on_request_only"], forced["on_request_only"]) == (True, False)
    held = [f"{each['name']}:read" for each in (usual, made, forced)]
    alice = make_person(admin, *held)

    assert claims(alice)["aud"] == usual["name"]
    for each in (made, forced):
        assert claims(alice, audience=each["name"])["scope"] == f"{each['name']}:read"
    explained = ok(admin.post("/auth/explain", json={"account": alice.username}))
    reasons = {each["name"]: each["reason"] for each in explained["missing"]}
    assert explained["granted"] is True
    assert reasons == {held[1]: "on_request_only", held[2]: "other_format"}


def test_services_of_the_usual_format_said_aloud_stay_in_plain_tokens(admin: Client) -> None:
    said = make(admin, typ="at+jwt", signing_algorithm="ES256")
    assert said["on_request_only"] is False
    other = make(admin, typ="JWT", on_request_only=False)
    alice = make_person(admin, f"{said['name']}:read", f"{other['name']}:read")
    assert claims(alice)["aud"] == said["name"]


def test_where_all_services_differ_the_request_is_refused_and_says_why(admin: Client) -> None:
    one = make(admin, signing_algorithm="RS256", on_request_only=False)
    other = make(admin, signing_algorithm="EdDSA", on_request_only=False)
    alice = make_person(admin, f"{one['name']}:read", f"{other['name']}:read")
    response = alice.login().post("/auth/token")
    assert (response.status_code, response.json()["error"]) == (400, "invalid_target")
    assert claims(alice, audience=one["name"])["aud"] == one["name"]


def test_a_change_of_format_makes_a_service_on_request_unless_told(admin: Client) -> None:
    for patch, expected in (
        ({"typ": "JWT"}, True),
        ({"signing_algorithm": "RS256"}, True),
        ({"typ": "JWT", "on_request_only": False}, False),
        ({"typ": "JWT", "on_request_only": None}, False),
        ({"typ": "at+jwt"}, False),
        ({"title": "x"}, False),
    ):
        path = f"/services/{make(admin)['name']}"
        assert ok(admin.patch(path, json=patch))["on_request_only"] is expected, patch
    path = f"/services/{make(admin, typ='JWT', on_request_only=False)['name']}"
    assert ok(admin.patch(path, json={"signing_algorithm": "RS256"}))["on_request_only"] is False


def test_a_manifest_makes_another_format_on_request(server: LiveServer, admin: Client) -> None:
    for named, expected in (({}, True), ({"on_request_only": False}, False)):
        name = unique("manifest")
        services = [{"name": name, "typ": "JWT", **named}]
        for _ in range(2):
            applied = server.run("apply", "-", text=json.dumps({"services": services}))
            assert applied.returncode == 0, applied.stderr
            assert ok(admin.get(f"/services/{name}"))["on_request_only"] is expected


@table("name", PRESETS)
def test_the_docs_say_of_each_verifier_what_the_command_does(name: str) -> None:
    preset = PRESETS[name]
    rows = [row.split(" | ") for row in PAGE.read_text().splitlines() if f"| `{name}` |" in row]
    ((title, _, typ, algorithm, lines),) = rows
    assert title == f"| {preset.title}"
    assert (typ.strip("` ") or None, algorithm.strip("` ") or None) == (
        preset.typ,
        preset.signing_algorithm,
    )
    assert tuple(re.findall(r"`([^`]+)`", lines)) == preset.lines


def test_the_docs_have_no_other_verifier() -> None:
    named = re.findall(r"^\| [^|]+ \| `([a-z0-9-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert named == ["--for", *PRESETS]


def test_a_service_is_made_and_changed_for_a_verifier(server: LiveServer, admin: Client) -> None:
    name = unique("shop")
    created = server.run("service", "create", name, "--for", "spring")
    assert created.returncode == 0, created.stderr
    assert f"issuer-uri={server.url}\n" in created.stderr
    assert f"audiences={name}\n" in created.stderr
    service = ok(admin.get(f"/services/{name}"))
    assert (service["typ"], service["signing_algorithm"]) == ("JWT", None)
    assert service["on_request_only"] is True
    changed = server.run(
        "service", "set", name, "--for", "apisix", "--by-default", "--reset", "typ"
    )
    assert changed.returncode == 0, changed.stderr
    assert "bearer_only: true" in changed.stderr
    service = ok(admin.get(f"/services/{name}"))
    assert (service["typ"], service["signing_algorithm"]) == (None, "RS256")
    assert service["on_request_only"] is False
