"""The examples of /openapi.json are sent as they are, and compared with what is answered."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from live import Client, LiveServer
from pages import enrol, logged_in
from people import ok
from tables import table

#: Numbers that no example can foresee.
CHANGING: Final = {"sequence", "exp", "iat", "issued_before", "expires"}
#: What differs in each installation, and the kind of it.
KINDS: Final = (
    (r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "JWT"),
    (r"kysk_\w{38}\b", "API key"),
    (r"kysk_\w{7}\b", "prefix of an API key"),
    (r"\b[0-9a-f]{64}\b", "SHA-256"),
    (r"(?<![\w-])[\w-]{43}(?![\w-])", "256 bits in base64url"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b", "UUIDv7"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "time"),
    (r"\b\d+\.\d+\.\d+\.\d+\b", "IPv4 address"),
)
ISSUER: Final = "https://keyosk.example.com"


def without_chance(text: str) -> str:
    for pattern, kind in KINDS:
        text = re.sub(pattern, f"<{kind}>", text)
    return text


def differences(example: Any, real: Any, *, exactly: bool, at: str = "$") -> Iterator[str]:
    """How what is answered differs from its example, other than by chance.

    ``exactly``: values too; else only members and the JSON types of values.
    """
    if isinstance(example, dict) and isinstance(real, dict):
        if exactly and example.keys() != real.keys():
            yield f"{at}: {sorted(example)} are {sorted(real)}"
        elif not example.keys() <= real.keys():
            yield f"{at}: {sorted(example)} are not in {sorted(real)}"
        for name in example.keys() & real.keys():
            if name not in CHANGING or type(example[name]) is not type(real[name]):
                yield from differences(
                    example[name], real[name], exactly=exactly, at=f"{at}.{name}"
                )
    elif isinstance(example, list) and isinstance(real, list):
        for number, item in enumerate(example):
            of_items = [
                list(differences(item, each, exactly=exactly, at=f"{at}[{number}]"))
                for each in real
            ]
            if [] not in of_items and (exactly or real):
                yield from min(of_items, key=len, default=[f"{at}: nothing is like {item}"])
    elif exactly and isinstance(example, str) and isinstance(real, str):
        if without_chance(example) != without_chance(real):
            yield f"{at}: {example!r} is {real!r}"
    elif exactly:
        if (type(example), example) != (type(real), real):
            yield f"{at}: {example!r} is {real!r}"
    elif None not in (example, real) and type(example) is not type(real):
        yield f"{at}: {example!r} is {real!r}"


class Story:
    """Requests made of the document's examples; ids and secrets are replaced by real ones."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.real: dict[str, str] = {}
        self.told: set[tuple[str, str]] = set()

    def example(self, schema: Mapping[str, Any]) -> Any:
        name = schema["$ref"].rpartition("/")[2]
        return self.document["components"]["schemas"][name]["examples"][0]

    def replaced(self, value: Any) -> Any:
        text = json.dumps(value)
        for made_up, real in self.real.items():
            text = text.replace(json.dumps(made_up)[1:-1], json.dumps(real)[1:-1])
        return json.loads(text)

    def send(
        self, client: Client, method: str, path: str, *, exactly: bool = True, **options: Any
    ) -> requests.Response:
        """Send the example of an operation, or the parameters and body that are given."""
        described = self.document["paths"][path][method.lower()]
        (status,) = (code for code in described["responses"] if code.startswith("2"))
        parameters = {each["name"]: each for each in described["parameters"] if "name" in each}
        url = path
        for name, each in parameters.items():
            if each["in"] == "path":
                url = url.replace(f"{{{name}}}", self.replaced(each["example"]))
        if "params" not in options:
            options["params"] = self.query(parameters)
        if "requestBody" in described and not {"data", "json"} & options.keys():
            content = described["requestBody"]["content"]
            options["json"] = self.replaced(self.example(content["application/json"]["schema"]))
        response = client.request(method, url, **options)
        assert response.status_code == int(status), f"{method} {url}: {response.text}"
        self.told.add((method, path))
        content = described["responses"][status].get("content", {})
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        assert bool(content) == bool(response.content)
        if media_type == "application/json":
            self.compare(response, content[media_type]["schema"], exactly=exactly)
        elif content:
            assert type(content[media_type]["example"]) is str
        return response

    def query(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: as_text(self.replaced(each["schema"]["examples"][0]))
            for name, each in parameters.items()
            if each["in"] == "query" and "examples" in each["schema"]
        }

    def compare(self, response: requests.Response, schema: Any, *, exactly: bool) -> None:
        faults = list(differences(self.example(schema), response.json(), exactly=exactly))
        assert faults == [], f"{response.request.method} {response.url}: {response.text}"

    def filters(self, client: Client, path: str) -> None:
        """Each filter's example finds something, and so do all of them together."""
        described = self.document["paths"][path]["get"]["parameters"]
        known = self.query({each["name"]: each for each in described if "name" in each})
        for name, value in known.items():
            items = self.send(client, "GET", path, params={name: value}, exactly=False).json()
            assert items["items"], f"{path}?{name}={value}"
        self.send(client, "GET", path)


def as_text(value: Any) -> Any:
    if isinstance(value, list):
        return value
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.slow
def test_every_example_is_what_happens(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'keyosk.db'}"
    # In one process, which knows at once which service fetched the keys.
    with LiveServer(database, tmp_path, issuer=ISSUER, workers="1") as server:
        tell(server)


def tell(server: LiveServer) -> None:
    admin, anybody = server.admin(), server.client()
    story = Story(anybody.get("/openapi.json").json())
    schemas = story.document["components"]["schemas"]
    ok(admin.post("/services", json={"name": "billing", "scopes": ["billing:read"]}), 201)
    ok(admin.post("/accounts", json={"username": "todo-backend", "kind": "machine"}), 201)
    tell_services_and_roles(story, admin)
    tell_workloads(story, admin)
    tell_accounts(story, admin)
    account = schemas["AccountNew"]["examples"][0]
    alice = server.client("alice", account["password"])
    tell_tokens(story, admin, alice)
    tell_refusals(story, admin, alice)
    tell_api_keys(story, admin, Client(server.url, token=token(alice, audience="keyosk")))
    enrol(logged_in(server, "alice", account["password"]), account["password"])
    tell_second_factors(story, admin)
    tell_sessions(story, admin, alice, lambda: logged_in(server, "alice", account["password"]))
    tell_signing_keys(story, admin, anybody)
    story.send(anybody, "GET", "/auth/revocations")
    story.send(alice, "PUT", "/accounts/{account}/password")
    before = {"password": account["password"]}
    ok(admin.put("/accounts/alice/password", json=before), 204)
    story.send(alice, "DELETE", "/accounts/{account}/password")
    tell_changes(story, admin)
    tell_public(story, anybody)
    tell_ends(story, admin)
    described = {
        (method.upper(), path)
        for path, methods in story.document["paths"].items()
        for method in methods
    }
    assert story.told == described - {(method, "/auth/authorize") for method in ("GET", "POST")}


def token(client: Client, **parameters: Any) -> str:
    return str(ok(client.post("/auth/token", data=parameters))["access_token"])


def tell_services_and_roles(story: Story, admin: Client) -> None:
    story.send(admin, "POST", "/services")
    story.filters(admin, "/services")
    story.send(admin, "GET", "/services/{service}")
    story.send(admin, "PUT", "/services/{service}/scopes")
    story.send(admin, "GET", "/services/{service}/scopes")
    for method in ("PUT", "GET"):
        story.send(admin, method, "/services/{service}/verification", exactly=False)
    story.send(admin, "POST", "/roles")
    story.filters(admin, "/roles")
    story.send(admin, "GET", "/roles/{role}")


def tell_workloads(story: Story, admin: Client) -> None:
    rule = "/issuers/{issuer}/rules/{rule}"
    machine = story.document["components"]["schemas"]["RuleNew"]["examples"][0]["account"]
    ok(admin.post("/accounts", json={"username": machine, "kind": "machine"}), 201)
    story.send(admin, "POST", "/issuers")
    story.filters(admin, "/issuers")
    story.send(admin, "GET", "/issuers/{issuer}")
    story.send(admin, "POST", "/issuers/{issuer}/rules")
    story.filters(admin, "/issuers/{issuer}/rules")
    story.send(admin, "GET", rule)
    story.send(admin, "POST", "/issuers/{issuer}/test")
    story.send(admin, "PATCH", "/issuers/{issuer}", exactly=False)
    story.send(admin, "PATCH", rule, exactly=False)
    story.send(admin, "DELETE", rule)
    story.send(admin, "DELETE", "/issuers/{issuer}")


def tell_accounts(story: Story, admin: Client) -> None:
    line = story.document["components"]["schemas"]["AccountLine"]["examples"][0]
    described = story.document["paths"]["/accounts/import"]["post"]
    query = story.query({each["name"]: each for each in described["parameters"]})
    jsonl = {"Content-Type": "application/jsonl"}
    lines = f"{json.dumps(line)}\n{json.dumps({'username': 'me'})}\n"
    results = story.send(
        admin, "POST", "/accounts/import", data=lines, headers=jsonl, params=query
    ).text
    example = described["responses"]["200"]["content"]["application/jsonl"]["example"]
    assert without_chance(results) == without_chance(example)
    # The hash is one of a password.
    assert token(Client(admin.url, auth=("bob", "correct horse battery staple")))

    alice = story.send(admin, "POST", "/accounts").json()
    story.real[alice_id(story)] = alice["id"]
    story.filters(admin, "/accounts")
    story.send(admin, "GET", "/accounts/{account}")
    story.send(admin, "GET", "/accounts/{account}/grants")
    story.send(admin, "PUT", "/accounts/{account}/grants")
    for path in ("/accounts/{account}/scopes", "/unused-scopes"):
        story.send(admin, "GET", path, params={}, exactly=False)
    described = story.document["paths"]["/accounts/export"]["get"]
    exported = story.send(admin, "GET", "/accounts/export").text.splitlines()
    example = described["responses"]["200"]["content"]["application/jsonl"]["example"]
    assert [json.loads(each)["username"] for each in exported] == ["alice"]
    assert list(differences(json.loads(example), json.loads(exported[0]), exactly=True)) == []


def alice_id(story: Story) -> str:
    return str(story.document["components"]["schemas"]["Account"]["examples"][0]["id"])


def tell_tokens(story: Story, admin: Client, alice: Client) -> None:
    story.send(alice, "POST", "/auth/token")
    example = story.document["components"]["schemas"]["TokenRequest"]["examples"][0]
    story.send(alice, "POST", "/auth/token", data=example)
    access_token = story.send(alice, "GET", "/auth/token").json()["access_token"]
    schemas = story.document["components"]["schemas"]
    story.real[schemas["TokenQuestion"]["examples"][0]["token"]] = access_token
    for media_type, asked in (("application/jwt", "token"), ("text/plain", "header")):
        response = story.send(alice, "POST", "/auth/token", data={"format": asked})
        content = story.document["paths"]["/auth/token"]["post"]["responses"]["200"]["content"]
        assert without_chance(response.text) == without_chance(content[media_type]["example"])
    story.send(alice, "POST", "/auth/introspect")
    story.send(alice, "POST", "/auth/revoke")
    story.send(admin, "POST", "/auth/explain")
    story.send(alice, "GET", "/auth/forward", params={"service": "todo"})
    story.send(alice, "GET", "/auth/forward/{service}")


def tell_refusals(story: Story, admin: Client, alice: Client) -> None:
    schemas = story.document["components"]["schemas"]
    taken = admin.post("/accounts", json=schemas["AccountNew"]["examples"][0])
    assert taken.status_code == 409
    story.compare(taken, {"$ref": "/Problem"}, exactly=True)
    refused = alice.post("/auth/token", data={"scope": "billing:read"})
    assert refused.status_code == 400
    story.compare(refused, {"$ref": "/OAuthError"}, exactly=True)


def tell_api_keys(story: Story, admin: Client, alice: Client) -> None:
    one = "/accounts/{account}/api-keys/{key}"
    example = story.document["components"]["schemas"]["ApiKeyMade"]["examples"][0]
    created = story.send(alice, "POST", "/accounts/{account}/api-keys").json()
    story.real[example["id"]] = created["id"]
    story.real[example["prefix"]] = created["prefix"]
    digests = [hashlib.sha256(each["secret"].encode()).hexdigest() for each in (example, created)]
    story.real[digests[0]] = digests[1]
    account = ok(alice.get("/accounts/me"))["id"]
    ok(admin.post(f"/accounts/{account}/api-keys", json={"name": "without limits"}), 201)
    story.filters(alice, "/accounts/{account}/api-keys")
    story.filters(admin, "/api-keys")
    story.send(admin, "POST", "/api-keys/find")
    story.send(alice, "GET", one)
    story.send(alice, "POST", f"{one}/rotate")
    story.send(alice, "PATCH", one, exactly=False)
    story.send(alice, "DELETE", one)


def tell_sessions(story: Story, admin: Client, alice: Client, log_in: Callable[[], object]) -> None:
    token(alice, scope="todo:read offline_access")
    made_up = story.document["components"]["schemas"]["Session"]["examples"][0]["id"]
    listed = story.send(alice, "GET", "/accounts/{account}/tokens").json()
    story.real[made_up] = listed["items"][0]["id"]
    story.send(alice, "DELETE", "/accounts/{account}/tokens/{session}")
    log_in()
    listed = story.send(alice, "GET", "/accounts/{account}/console-sessions").json()
    story.real[made_up] = listed["items"][0]["id"]
    story.send(alice, "DELETE", "/accounts/{account}/console-sessions/{session}")
    story.send(admin, "DELETE", "/accounts/{account}/tokens")


def tell_second_factors(story: Story, admin: Client) -> None:
    made_up = story.document["components"]["schemas"]["SecondFactor"]["examples"][0]["id"]
    listed = story.send(admin, "GET", "/accounts/{account}/second-factors").json()
    story.real[made_up] = listed["items"][0]["id"]
    story.send(admin, "DELETE", "/accounts/{account}/second-factors/{factor}")


def tell_signing_keys(story: Story, admin: Client, anybody: Client) -> None:
    story.send(anybody, "GET", "/auth/jwks")
    story.send(anybody, "GET", "/services/{service}/jwks")
    story.send(anybody, "GET", "/.well-known/jwks.json")
    examples = story.document["components"]["schemas"]
    made_up = examples["SigningKey"]["examples"][0]["kid"]
    story.real[made_up] = story.send(admin, "POST", "/signing-keys/rotate").json()["kid"]
    story.send(admin, "GET", "/signing-keys")
    story.send(admin, "GET", "/signing-keys/{kid}")
    story.send(anybody, "GET", "/auth/keys/{kid}.pem")
    story.send(admin, "DELETE", "/signing-keys/{kid}", exactly=False)
    # It is the one example that must not work as it is: everybody would know the key.
    private = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    example = examples["KeyImport"]["examples"][0]
    assert admin.post("/signing-keys/import", json=example).status_code == 422
    story.real[example["private_key"]] = private.decode()
    body = {**story.replaced(example), "algorithm": "EdDSA"}
    imported = story.send(admin, "POST", "/signing-keys/import", json=body, exactly=False).json()
    story.real[made_up] = imported["kid"]
    story.send(admin, "POST", "/signing-keys/{kid}/compromise", exactly=False)


def tell_changes(story: Story, admin: Client) -> None:
    story.send(admin, "PATCH", "/accounts/{account}", exactly=False)
    described = story.document["paths"]["/audit"]["get"]
    (actor,) = (each for each in described["parameters"] if each.get("name") == "actor")
    (made_up,) = actor["schema"]["examples"]
    target, me = story.real[made_up], ok(admin.get("/accounts/me"))["id"]
    for name, value in (("actor", me), ("target", f"account/{target}")):
        page = story.send(admin, "GET", "/audit", params={name: value}, exactly=False).json()
        assert page["items"], name
    for name, value in story.query(
        {each["name"]: each for each in described["parameters"] if "name" in each}
    ).items():
        if name not in ("actor", "target"):
            page = story.send(admin, "GET", "/audit", params={name: value}, exactly=False).json()
            assert page["items"], name
    story.send(admin, "GET", "/audit", params={"sort": "-sequence"})
    for path in ("/audit/chain", "/diagnosis", "/settings", "/login-failures"):
        story.send(admin, "GET", path, params={}, exactly=False)
    for path in ("/audit/export", "/refresh-sessions", "/console-sessions"):
        story.send(admin, "GET", path, params={}, exactly=False)
    for path in ("/activity", "/nodes"):
        story.send(admin, "GET", path, params={}, exactly=False)
    story.send(admin, "POST", "/apply")
    story.send(admin, "PATCH", "/accounts/{account}/grants", exactly=False)
    story.send(admin, "PATCH", "/roles/{role}", exactly=False)
    story.send(admin, "PATCH", "/services/{service}", exactly=False)


def tell_public(story: Story, anybody: Client) -> None:
    story.send(anybody, "GET", "/", exactly=False)
    for path in ("oauth-authorization-server", "openid-configuration"):
        story.send(anybody, "GET", f"/.well-known/{path}")
    story.send(anybody, "GET", "/openapi.json", exactly=False)
    for path in ("/docs", "/docs/{file}", "/health/live", "/health/ready"):
        story.send(anybody, "GET", path)


def tell_ends(story: Story, admin: Client) -> None:
    story.send(admin, "DELETE", "/accounts/{account}")
    story.send(admin, "DELETE", "/roles/{role}")
    story.send(admin, "DELETE", "/services/{service}", params={"force": "true"})


@table(
    ("example", "real"),
    [
        ({"id": "019a9f1b-2d3c-7aa4-8a53-0d6b7f2c9e41"}, {"id": "1"}),
        ({"name": "todo"}, {"name": "todo", "colour": "red"}),
        ({"name": "todo"}, {}),
        ({"enabled": True}, {"enabled": 1}),
        ({"until": None}, {"until": "2026-01-31T12:00:00Z"}),
        ({"scopes": ["todo:read"]}, {"scopes": []}),
        ({"scopes": [{"name": "todo:read"}]}, {"scopes": [{"name": "todo:write"}]}),
        ({"action": "account.created"}, {"action": "account.create"}),
        ({"expires": 1}, {"expires": "1"}),
    ],
)
def test_a_difference_is_seen(example: Any, real: Any) -> None:
    assert list(differences(example, real, exactly=True))
