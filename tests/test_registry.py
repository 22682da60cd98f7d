"""A container registry takes Keyosk's tokens, and its clients get them in their own way."""

import base64
import gzip
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
import yaml

from live import Client, LiveServer, command, free_port, unique
from people import PASSWORD, Person, claims_of, make_key, make_person, ok
from processes import execute
from test_proxies import program
from waiting import until_it_listens

PAGE = Path(__file__).parent.parent / "docs/how-to/registries.md"
_START = 60  # seconds

pytestmark = pytest.mark.slow


def make_registry(admin: Client, team: str, version: int | None = 2, **fields: Any) -> str:
    """A service for a registry that has repositories of this team."""
    name = unique("registry")
    scopes = [
        *(f"repository:{team}/app:{action}" for action in ("pull", "push", "delete")),
        *(f"repository:{team}/lib/*:pull", f"repository:{team}/tools/*:*"),
        *(f"registry:{team}:*", f"repository:{team}.example:5000/app:pull"),
    ]
    body = {"name": name, "scopes": scopes, "registry_version": version, **fields}
    ok(admin.post("/services", json=body), 201)
    return name


def ask(client: Client, registry: str, *scopes: str, **others: str) -> requests.Response:
    """As docker, skopeo and containerd ask."""
    query = {"service": registry, "scope": scopes, "client_id": "docker", **others}
    return client.get("/auth/token", params=query)


def access(response: requests.Response) -> list[dict[str, Any]]:
    return list(claims_of(ok(response)["token"])["access"])


def test_a_client_gets_what_it_asked_for_and_holds(server: LiveServer, admin: Client) -> None:
    team = unique("team")
    registry = make_registry(admin, team)
    pull = f"repository:{team}/app:pull"
    alice = make_person(admin, pull)
    before = int(time.time())
    response = ask(
        *(alice.login(), registry, f"{pull},push", f"repository:{team}/other:pull"),
        account=alice.username,
        offline_token="true",
    )
    body = ok(response)
    assert sorted(body) == [
        *("access_token", "expires_in", "issued_at", "scope", "token", "token_type")
    ]
    assert body["access_token"] == body["token"]
    assert body["scope"] == pull
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["issued_at"])
    assert response.headers["Cache-Control"] == "no-store"
    claims = jwt.decode_complete(body["token"], options={"verify_signature": False})["payload"]
    assert claims["access"] == [{"type": "repository", "name": f"{team}/app", "actions": ["pull"]}]
    assert (claims["aud"], claims["iss"]) == (registry, server.url)
    assert claims["exp"] - claims["iat"] == body["expires_in"]
    assert before <= claims["iat"]


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (("repository:{}/app:push,pull",), [("{}/app", ["push", "pull"])]),
        (("repository:{}/app:pull,pull",), [("{}/app", ["pull"])]),
        (("repository:{}/app:*",), []),  # all actions were not granted
        (("repository:{}/lib/a/b:pull,push",), [("{}/lib/a/b", ["pull"])]),
        (("repository:{}/lib:pull",), []),
        (("repository:{}/tools/x:pull,push,*",), [("{}/tools/x", ["pull", "push", "*"])]),
        (("repository:{}.example:5000/app:pull",), [("{}.example:5000/app", ["pull"])]),
        (
            ("repository:{}/app:pull repository:{}/lib/a:pull", "repository:{}/tools/b:push"),
            [("{}/app", ["pull"]), ("{}/lib/a", ["pull"]), ("{}/tools/b", ["push"])],
        ),
        ((), []),
        (("",), []),
        (("repository:{}/app",), []),
        (("repository:{}/app:",), []),
        (("repository:{}/tools/x:",), []),
        (("repository::pull", ":{}/app:pull", "repository", "::", "*:*:*"), []),
        (("registry:{}/app:pull", "repository(plugin):{}/app:pull"), []),
        (("repository:{}/*:pull", "repository:*:pull"), []),
    ],
)
def test_access_is_never_more_than_is_held(
    admin: Client, asked: tuple[str, ...], granted: list[tuple[str, list[str]]]
) -> None:
    team = unique("team")
    registry = make_registry(admin, team)
    held = [scope["name"] for scope in ok(admin.get(f"/services/{registry}"))["scopes"]]
    alice = make_person(admin, *held)
    entries = access(ask(alice.login(), registry, *(text.replace("{}", team) for text in asked)))
    assert entries == [
        {"type": "repository", "name": name.format(team), "actions": actions}
        for name, actions in granted
    ]


def test_other_services_scopes_and_a_keys_limit_count(admin: Client) -> None:
    team, other = unique("team"), unique("team")
    registry, elsewhere = make_registry(admin, team), make_registry(admin, other)
    pull, push = f"repository:{team}/app:pull", f"repository:{team}/app:push"
    foreign = f"repository:{other}/app:pull"
    alice = make_person(admin, pull, push, foreign)
    assert access(ask(alice.login(), registry, foreign)) == []
    _, key = make_key(admin, alice, scopes=[pull])
    (found,) = access(ask(alice.login(key), registry, f"{pull},push"))
    assert found["actions"] == ["pull"]
    assert access(ask(alice.login(), elsewhere, foreign)) != []


def test_whoever_may_not_log_in_gets_nothing(server: LiveServer, admin: Client) -> None:
    team = unique("team")
    registry = make_registry(admin, team)
    alice = make_person(admin)
    nobody = ask(server.client(), registry)
    assert nobody.status_code == 401
    assert nobody.headers["WWW-Authenticate"].startswith("Basic ")
    assert ask(alice.login("wrong"), registry).status_code == 401
    assert access(ask(alice.login(), registry, f"repository:{team}/app:pull")) == []
    secret = ask(alice.login(), registry, password=PASSWORD)
    assert (secret.status_code, secret.json()["error"]) == (400, "invalid_request")
    many = ask(alice.login(), registry, *(f"repository:{n}:pull" for n in range(101)))
    assert (many.status_code, many.json()["error"]) == (400, "invalid_scope")
    ok(admin.patch(f"/services/{registry}", json={"accepts": "api_key"}))
    refused = ask(alice.login(), registry)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_target")
    ok(admin.patch(f"/services/{registry}", json={"accepts": "both", "enabled": False}))
    assert ask(alice.login(), registry).status_code == 400


def test_wrong_passwords_of_registry_clients_are_throttled(admin: Client) -> None:
    registry = make_registry(admin, unique("team"))
    wrong = make_person(admin).login("wrong")
    responses = [ask(wrong, registry).status_code for _ in range(15)]
    assert (responses[0], responses[-1]) == (401, 429)


@pytest.mark.parametrize("service", ["todo", "nothing-of-that-name", "keyosk", ""])
def test_other_services_know_no_such_request(admin: Client, service: str) -> None:
    if service == "todo":
        service = make_registry(admin, unique("team"), version=None)
    alice = make_person(admin)
    response = ask(alice.login(), service, "repository:a/b:pull")
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    assert "token" not in ok(alice.login().get("/auth/token", params={"service": service}))
    assert "token" not in ok(alice.login().post("/auth/token", data={"service": service}))


def test_ordinary_tokens_give_nothing_in_a_registry(admin: Client) -> None:
    team = unique("team")
    registry = make_registry(admin, team)
    assert ok(admin.get(f"/services/{registry}"))["on_request_only"] is True
    alice = make_person(admin, f"repository:{team}/app:pull")
    token = ok(alice.login().post("/auth/token", data={"audience": registry}))["access_token"]
    assert "access" not in claims_of(token)
    # Else whoever writes accounts would give rights there.
    refused = admin.patch(f"/services/{registry}", json={"claims": ["access"]})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "claims")


@pytest.mark.parametrize("version", [2, 3])
def test_keyosk_knows_its_tokens_by_either_kid(
    database_url: str, tmp_path: Path, version: int
) -> None:
    with LiveServer(database_url, tmp_path) as server:
        admin = server.admin()
        team = unique("team")
        registry = make_registry(admin, team, version)
        alice = make_person(admin, f"repository:{team}/app:pull").login()
        text = ok(ask(alice, registry, f"repository:{team}/app:pull"))["token"]
        (key,) = ok(alice.get("/auth/jwks"))["keys"]
        docker = server.run("signing-key", "export", "--docker").stdout.strip()
        assert jwt.get_unverified_header(text)["kid"] == (docker if version == 2 else key["kid"])
        claims = jwt.decode(text, jwt.PyJWK(key).key, algorithms=["ES256"], audience=registry)
        seen = ok(alice.post("/auth/introspect", data={"token": text}))
        assert (seen["active"], seen["jti"]) == (True, claims["jti"])
        other = ok(ask(alice, registry))["token"]
        ok(alice.post("/auth/revoke", data={"token": text}))
        assert not ok(alice.post("/auth/introspect", data={"token": text}))["active"]
        assert ok(alice.post("/auth/introspect", data={"token": other}))["active"]
        ok(admin.post(f"/signing-keys/{key['kid']}/compromise", json={}))
        assert not ok(alice.post("/auth/introspect", data={"token": other}))["active"]


# --- A real one -----------------------------------------------------------------------------------


class Registry:
    """Debian's docker-registry with the lines of the docs."""

    def __init__(self, keyosk: LiveServer, folder: Path, name: str) -> None:
        self.port = free_port()
        self.folder = folder
        text = PAGE.read_text()
        (lines,) = re.findall(
            r"^```yaml\n(auth:\n  token:.*?)^```$", text, re.DOTALL | re.MULTILINE
        )
        (shell,) = re.findall(r"^```sh\n(for kid .*?)^```$", text, re.DOTALL | re.MULTILINE)
        bundle = folder / "keyosk.pem"

        def local(text: str) -> str:
            return (
                text.replace("https://login.example.org", keyosk.url)
                .replace("registry.example.org", name)
                .replace("/etc/docker/registry/keyosk.pem", str(bundle))
            )

        tool = folder / "bin/keyosk"
        tool.parent.mkdir()
        tool.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
        tool.chmod(0o755)
        path = f"{tool.parent}:{os.environ['PATH']}"
        subprocess.run(
            ["bash", "-euc", local(shell)],
            env={**keyosk.environment, "PATH": path},
            cwd=keyosk.folder,
            check=True,
            timeout=60,
        )
        document = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": "of these tests"},
            **yaml.safe_load(local(lines)),
        }
        (folder / "config.yml").write_text(yaml.safe_dump(document))
        self._log = folder / "registry.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [program("docker-registry"), "serve", str(folder / "config.yml")],
                stdout=log,
                stderr=log,
            )
        until_it_listens(self.process, self.port, self._log)

    def copy(self, source: str, target: str, login: tuple[str, str]) -> str | None:
        """Copy an image by skopeo; what it says if it may not."""
        secret = base64.b64encode(":".join(login).encode()).decode()
        auth = self.folder / "auth.json"
        auth.write_text(json.dumps({"auths": {f"127.0.0.1:{self.port}": {"auth": secret}}}))
        options = ["--src-tls-verify=false", "--dest-tls-verify=false", f"--authfile={auth}"]
        result = execute([program("skopeo"), "--insecure-policy", "copy", *options, source, target])
        return None if result.returncode == 0 else result.stderr

    def address(self, repository: str) -> str:
        return f"docker://127.0.0.1:{self.port}/{repository}:latest"


@pytest.fixture(scope="module")
def team() -> str:
    return unique("team")


@pytest.fixture(scope="module")
def registry(
    server: LiveServer, tmp_path_factory: pytest.TempPathFactory, team: str
) -> Iterator[Registry]:
    name = unique("registry.example.org")
    scopes = [f"repository:{team}/app:pull", f"repository:{team}/app:push"]
    options = [word for scope in scopes for word in ("--scope", scope)]
    created = server.run("service", "create", name, "--for", "registry-2", *options)
    assert created.returncode == 0, created.stderr
    assert f"realm: {server.url}/auth/token\nservice: {name}\n" in created.stderr
    found = Registry(server, tmp_path_factory.mktemp("registry"), name)
    yield found
    found.process.terminate()
    found.process.wait(timeout=60)


def image(folder: Path) -> str:
    """An image with one small file, as an OCI layout."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as layer:
        layer.addfile(tarfile.TarInfo("hello"), io.BytesIO())
    rootfs = {
        "type": "layers",
        "diff_ids": [f"sha256:{hashlib.sha256(raw.getvalue()).hexdigest()}"],
    }
    config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs}
    manifest = {
        "schemaVersion": 2,
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blob(gzip.compress(raw.getvalue()), "layer.v1.tar+gzip")],
    }
    shown = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [shown]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"oci:{folder}"


def test_a_real_registry_lets_pull_and_push_who_may(
    admin: Client, registry: Registry, team: str, tmp_path: Path
) -> None:
    pull, push = f"repository:{team}/app:pull", f"repository:{team}/app:push"
    alice, bob = make_person(admin, pull, push), make_person(admin, pull)
    stranger: Person = make_person(admin)
    _, key = make_key(admin, alice)
    source, target = image(tmp_path / "image"), registry.address(f"{team}/app")

    def pulled(name: str) -> str:
        return f"oci:{tmp_path}/{name}"

    assert registry.copy(source, target, (alice.username, key)) is None
    assert registry.copy(target, pulled("alice"), (alice.username, PASSWORD)) is None
    assert registry.copy(target, pulled("bob"), (bob.username, PASSWORD)) is None
    assert list((tmp_path / "bob/blobs/sha256").iterdir())

    # Of another name, so that each blob has to be sent anew.
    for refused in (
        registry.copy(source, target, (bob.username, PASSWORD)),
        registry.copy(source, registry.address(f"{team}/other"), (alice.username, key)),
        registry.copy(target, pulled("stranger"), (stranger.username, PASSWORD)),
    ):
        assert refused is not None
        assert "denied" in refused
    wrong = registry.copy(target, pulled("wrong"), (alice.username, "wrong"))
    assert wrong is not None
    assert "unauthorized" in wrong or "invalid" in wrong, wrong


def test_a_registry_refuses_ordinary_and_foreign_tokens(
    server: LiveServer, admin: Client, registry: Registry, team: str
) -> None:
    pull = f"repository:{team}/app:pull"
    alice = make_person(admin, pull)
    url = f"http://127.0.0.1:{registry.port}/v2/"
    challenge = requests.get(url, timeout=60).headers["WWW-Authenticate"]
    assert f'realm="{server.url}/auth/token"' in challenge
    (name,) = re.findall('service="([^"]+)"', challenge)

    def status(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(url, headers=headers, timeout=60).status_code

    assert status(ok(ask(alice.login(), name, pull))["token"]) == 200
    ordinary = ok(alice.login().post("/auth/token", data={"audience": name}))["access_token"]
    assert status(ordinary) == 401
    other = make_registry(admin, unique("team"))
    assert status(ok(ask(alice.login(), other))["token"]) == 401
