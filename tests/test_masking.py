"""Secrets in the wrong place: what is left of them in logs, errors and the audit log."""

import json
import time
from urllib.parse import quote

from keyosk import masking
from keyosk.credentials import api_key_format
from live import Client, LiveServer
from people import make_key, make_person, ok
from tables import table

JWT = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
REFRESH = "kysr_" + "Ab9-_" * 17 + "x"


def encoded(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def spellings(secret: str) -> list[str]:
    """Ways to write a secret into a path."""
    return [
        secret,
        encoded(secret),
        quote(encoded(secret)),
        quote(quote(encoded(secret[:5]))) + secret[5:],
        encoded(secret[:5]) + secret[5:].replace("2", "%2532"),
        f"alice:{secret}@host",
        f"x={secret}",
        secret[:-3],
    ]


@table("kind", ["key", "refresh token", "JWT"])
def test_a_secret_in_a_path_was_logged_as_is(server: LiveServer, admin: Client, kind: str) -> None:
    secret = {"key": api_key_format.generate(), "refresh token": REFRESH, "JWT": JWT}[kind]
    part = secret[12:24]
    nobody = server.client()
    for text in spellings(secret):
        for path in (f"/accounts/{text}", f"/{text}", f"/services/{text}/jwks", f"/auth/{text}/x"):
            for client in (admin, nobody):
                headers = {"Referer": f"http://x/{text}", "User-Agent": text}
                response = client.get(path, headers=headers)
                assert part not in response.text + str(response.headers)
        nobody.get(f"/audit?q={text}")
        nobody.get(f"/auth/token?token={text}")
    written = server.log.read_text()
    assert part not in written
    assert encoded(part) not in written
    assert quote(encoded(part)) not in written


def test_the_log_has_the_route_of_a_request(server: LiveServer, admin: Client) -> None:
    name = f"somebody-{time.monotonic_ns()}"
    admin.get(f"/accounts/{name}/grants")
    admin.get(f"/no/{name}")
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if name in line]
    assert [(line["path"], line["route"]) for line in lines] == [
        (f"/accounts/{name}/grants", "/accounts/<account>/grants"),
        (f"/no/{name}", None),
    ]


def test_a_refusal_that_names_what_was_sent_names_no_secret(admin: Client) -> None:
    person = make_person(admin)
    key = make_key(admin, person)[1]
    alone = person.login(key)
    responses = [
        alone.post("/auth/token", data={"scope": key}),
        alone.post("/auth/token", data={key: "x"}, params={key: "x"}),
        alone.post("/auth/token", data={"audience": key}),
        admin.post("/accounts", json={"username": key}),
        admin.post("/accounts", json={"username": "x", key: 1}),
        admin.patch(person.path, json={key: {key: 1}}),
        admin.get(f"/accounts?{key}=1&sort={key}"),
        admin.put(f"{person.path}/grants", json={"scopes": [key], "roles": [key]}),
        admin.post("/services", json={"name": key, "scopes": [key]}),
    ]
    for response in responses:
        assert response.status_code >= 400 or key in str(response.request.url)
        assert key[12:] not in response.text


def test_the_audit_target_of_a_refused_request_has_no_secret(admin: Client) -> None:
    person = make_person(admin, "keyosk:accounts:write")
    key = make_key(admin, person)[1]
    person.login(key).put(f"/accounts/{key}/password", json={"password": "long enough for this"})
    assert key[12:] not in json.dumps(ok(admin.get(f"/audit?actor={person.id}"))["items"])


@table(
    "text",
    ["kysk_1234567", "as Bearer kysk_... there", "/accounts/eyjolfur", "/docs/a_b", "/a%2Fb", "%"],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert masking.mask_path(text) == text
