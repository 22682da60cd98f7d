"""The test kit for services: what passes it and what it catches."""

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse
from xml.etree import ElementTree as ET

import jwt
import pytest
import requests

from live import Client, LiveServer, free_port
from people import make_service, ok
from tables import table
from waiting import running, until

ROOT = Path(__file__).parent.parent
Check = Callable[[str, str], bool]


@pytest.fixture
def todo(admin: Client) -> str:
    return make_service(admin, "read")


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def careless() -> Iterator[Callable[..., str]]:
    """A service with a check of its own; gives its address."""
    servers = []

    def start(check: Check, port: int = 0) -> str:
        def service(environ: dict[str, Any], response: StartResponse) -> list[bytes]:
            text = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
            try:
                good = check(text, environ["HTTP_HOST"])
            except (jwt.PyJWTError, ValueError, KeyError):
                good = False
            response("200 OK" if good else "401 Unauthorized", [])
            return [b""]

        server = make_server("127.0.0.1", port, service, handler_class=_Quiet)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def verify(
    server: LiveServer, url: str, todo: str, bind: str, *more: str
) -> tuple[int, dict[str, str]]:
    result = server.run(
        "verify-service", url, "--service", todo, "--jwks-bind", bind, "--json", *more
    )
    assert result.returncode in (0, 1), result.stderr
    items = json.loads(result.stdout)["items"]
    return result.returncode, {each["token"]: each["verdict"] for each in items}


@pytest.mark.slow
def test_the_example_of_a_service_passes(server: LiveServer, admin: Client, tmp_path: Path) -> None:
    if admin.get("/services/todo").status_code == 404:
        body = {"name": "todo", "scopes": ["todo:read", "todo:write"]}
        ok(admin.post("/services", json=body), 201)
    bind, port = f"127.0.0.1:{free_port()}", free_port()
    program = [sys.executable, str(ROOT / "examples/todo_service.py")]
    environment = {"KEYOSK_URL": f"http://{bind}", "TODO_BIND": f"127.0.0.1:{port}"}
    with running(program, tmp_path / "log", port=port, env={**os.environ, **environment}):
        url = f"http://127.0.0.1:{port}/todos"
        code, verdicts = verify(server, url, "todo", bind, "--revocations", "--scope", "todo:read")
    assert (code, set(verdicts.values())) == (0, {"right"})
    assert len(verdicts) >= 30
    assert "scope-longer" in verdicts


def keys(bind: str) -> jwt.PyJWKClient:
    return jwt.PyJWKClient(f"http://{bind}/auth/jwks")


def test_a_service_that_polls_knows_what_is_revoked(
    server: LiveServer, admin: Client, todo: str, careless: Callable[[Check], str]
) -> None:
    bind = f"127.0.0.1:{free_port()}"

    def check(text: str, _: str) -> bool:
        entries = requests.get(f"http://{bind}/auth/revocations", timeout=60).json()["entries"]
        return strict(bind, todo, text)["jti"] not in [entry["jti"] for entry in entries]

    code, verdicts = verify(server, careless(check), todo, bind, "--revocations")
    assert (code, set(verdicts.values())) == (0, {"right", "not checked"})
    assert {name for name, each in verdicts.items() if each != "right"} == SCOPES

    def kept() -> Any:
        return ok(admin.get(f"/services/{todo}/verification"))

    assert (kept()["passed"], kept()["failed"], kept()["verified_by"]) == (True, [], "operator")
    lazy = careless(lambda text, _: bool(strict(bind, todo, text)))
    code, verdicts = verify(server, f"{lazy}?secret=1", todo, bind, "--revocations", "--wait", "1")
    assert (code, verdicts["revoked"]) == (1, "WRONG")
    assert (kept()["passed"], kept()["url"]) == (False, lazy)
    assert "revoked" in kept()["failed"]


def test_a_service_has_time_to_poll_what_is_revoked(
    server: LiveServer, todo: str, careless: Callable[[Check], str]
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    accepted: list[str] = []

    def check(text: str, _: str) -> bool:
        """Refuse a revoked token the third time, as if the list were fetched by then."""
        entries = requests.get(f"http://{bind}/auth/revocations", timeout=60).json()["entries"]
        if strict(bind, todo, text)["jti"] not in [entry["jti"] for entry in entries]:
            return True
        accepted.append(text)
        return len(accepted) < 3

    code, verdicts = verify(server, careless(check), todo, bind, "--revocations")
    assert (code, verdicts["revoked"], len(accepted)) == (0, "right", 3)


#: The tokens that differ in their scopes only, for a service with one scope.
SCOPES = {
    "scope-empty",
    "scope-longer",
    "scope-shorter",
    "scope-with-prefix",
    "scope-case",
    "scope-elsewhere",
}


#: How a careless service looks for a scope, and which tokens it lets in then.
COMPARED: dict[str, tuple[Callable[[str, str], bool], set[str]]] = {
    "whole words": (lambda wanted, scope: wanted in scope.split(" "), set()),
    "part of the text": (
        lambda wanted, scope: wanted in scope,
        {"scope-longer", "scope-with-prefix"},
    ),
    "beginning": (lambda wanted, scope: scope.startswith(wanted), {"scope-longer"}),
    "the other way": (lambda wanted, scope: wanted.startswith(scope or "-"), {"scope-shorter"}),
    "any case": (lambda wanted, scope: wanted.lower() in scope.lower().split(), {"scope-case"}),
    "its last word": (
        lambda wanted, scope: scope.rpartition(":")[2] == wanted.rpartition(":")[2],
        {"scope-elsewhere", "scope-with-prefix"},
    ),
}


@pytest.mark.parametrize("how", COMPARED)
def test_a_careless_look_for_a_scope_is_caught(
    server: LiveServer, todo: str, careless: Callable[[Check], str], how: str
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    compare, caught = COMPARED[how]

    def check(text: str, _: str) -> bool:
        return compare(f"{todo}:read", strict(bind, todo, text)["scope"])

    code, verdicts = verify(server, careless(check), todo, bind)
    assert verdicts.keys() >= SCOPES
    assert {name for name, each in verdicts.items() if each == "WRONG"} == caught
    assert code == bool(caught)


def test_a_scope_that_is_named_has_to_be_checked(
    server: LiveServer, admin: Client, todo: str, careless: Callable[[Check], str], tmp_path: Path
) -> None:
    ok(admin.patch(f"/services/{todo}", json={"scopes": [f"{todo}:read", f"{todo}:write"]}))
    bind = f"127.0.0.1:{free_port()}"
    url = careless(lambda text, _: bool(strict(bind, todo, text)))
    code, verdicts = verify(server, url, todo, bind, "--scope", f"{todo}:read")
    wrong = {name for name, each in verdicts.items() if each == "WRONG"}
    assert (code, wrong) == (1, {*SCOPES, "scope-others"})
    unknown = server.run(
        "verify-service", url, "--service", todo, "--jwks-bind", bind, "--scope", "todo:reed"
    )
    assert (unknown.returncode, "no scope 'todo:reed'" in unknown.stderr) == (1, True)


#: What a service does, then the end of the command and the counts of its report.
SAID: dict[str, tuple[str, tuple[int, int, int]]] = {
    "accepts the good one": (
        "Passed: the good token is accepted, 32 bad tokens were refused.",
        (34, 0, 1),
    ),
    "checks no audience": (
        "Failed: 1 bad token was accepted or answered with an error: wrong-aud.",
        (34, 1, 1),
    ),
    "refuses all": ("If it has cached other keys, restart it, or wait 30 seconds.", (34, 1, 33)),
    "answers 500": ("It answered 500: its log may say why.", (34, 34, 0)),
    "is not there": ("cannot be reached by HTTP.", (1, 1, 0)),
}


@pytest.mark.parametrize("what", SAID)
def test_the_last_line_and_the_report_say_what_was_found(
    server: LiveServer, todo: str, careless: Callable[[Check], str], tmp_path: Path, what: str
) -> None:
    bind, report = f"127.0.0.1:{free_port()}", tmp_path / "report.xml"

    def check(text: str, _: str) -> bool:
        if what == "answers 500":
            raise RuntimeError
        more = {"audience": None, "options": {"verify_aud": False}}
        claims = strict(bind, todo, text, **(more if what == "checks no audience" else {}))
        return what != "refuses all" and f"{todo}:read" in claims["scope"].split(" ")

    url = f"http://127.0.0.1:{free_port()}/" if what == "is not there" else careless(check)
    line = ["verify-service", url, "--service", todo, "--jwks-bind", bind]
    result = server.run(*line, "--junit", str(report), "--wait", "0")
    last, (said, counts) = result.stdout.splitlines()[-1], SAID[what]
    assert said in last
    assert result.returncode == (0 if last.startswith("Passed") else 1)
    suite = ET.parse(report).getroot()  # noqa: S314 - it was written here
    assert tuple(int(suite.attrib[each]) for each in ("tests", "failures", "skipped")) == counts
    found = [suite.findall(each) for each in ("testcase", "testcase/failure", "testcase/skipped")]
    assert tuple(map(len, found)) == counts
    assert suite.findtext("system-out") == last


def strict(bind: str, service: str, text: str, **options: Any) -> dict[str, Any]:
    header = jwt.get_unverified_header(text)
    if header.get("typ") != "at+jwt":
        raise ValueError
    checks: dict[str, Any] = {
        "algorithms": ["ES256"],
        "audience": service,
        "issuer": f"http://{bind}",
        "options": {"require": ["exp", "aud", "iss"], **options.pop("options", {})},
        **options,
    }
    claims: dict[str, Any] = jwt.decode(
        text, keys(bind).get_signing_key_from_jwt(text).key, **checks
    )
    return claims


#: What a careless service leaves out, and which tokens tell.
CARELESS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "audience": ({"audience": None, "options": {"verify_aud": False}}, {"wrong-aud"}),
    "issuer": ({"issuer": None}, {"wrong-iss"}),
    "expiry": ({"options": {"verify_exp": False}}, {"expired"}),
    "start": ({"options": {"verify_nbf": False, "verify_iat": False}}, {"not-yet"}),
    "presence": ({"options": {"require": []}}, {"no-exp"}),
    "signature": (
        {"options": {"verify_signature": False, "verify_exp": True, "verify_aud": True}},
        {"tampered-claims", "foreign-key", "embedded-jwk", "no-signature"},
    ),
}


@pytest.mark.parametrize("what", CARELESS)
def test_a_careless_service_is_caught(
    server: LiveServer, todo: str, careless: Callable[[Check], str], what: str
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    options, caught = CARELESS[what]

    def check(text: str, _: str) -> bool:
        copy = {name: value for name, value in options.items()}  # noqa: C416  # strict pops
        return bool(strict(bind, todo, text, **copy))

    code, verdicts = verify(server, careless(check), todo, bind)
    assert code == 1
    assert {name for name, verdict in verdicts.items() if verdict == "WRONG"} >= caught


@pytest.mark.parametrize("what", ["embedded-jwk-kid", "jku"])
def test_a_service_that_takes_keys_from_the_token_is_caught(
    server: LiveServer, todo: str, careless: Callable[[Check], str], what: str
) -> None:
    bind = f"127.0.0.1:{free_port()}"

    def check(text: str, _: str) -> bool:
        header = jwt.get_unverified_header(text)
        jwk = header.get("jwk")
        if "jku" in header:
            (jwk,) = requests.get(header["jku"], timeout=60).json()["keys"]
        if jwk is None or header["kid"] in [key.key_id for key in keys(bind).get_signing_keys()]:
            return bool(strict(bind, todo, text))
        checks: Any = {"algorithms": ["ES256"], "audience": todo, "issuer": f"http://{bind}"}
        return bool(jwt.decode(text, jwt.PyJWK(jwk), **checks))

    code, verdicts = verify(server, careless(check), todo, bind)
    assert (code, verdicts["good"], verdicts[what]) == (1, "right", "WRONG")


def test_the_good_token_is_signed_as_the_installation_signs(own_server: LiveServer) -> None:
    own_server.environment["KEYOSK_SIGNING_ALGORITHM"] = "EdDSA"
    with own_server:
        result = own_server.run("token", "bad", "--service", "keyosk")
    assert result.returncode == 0, result.stderr
    kit = json.loads(result.stdout)
    assert [key["alg"] for key in kit["jwks"]["keys"]] == ["EdDSA"]


@table("bind", ["0.0.0.0:9080", ":9080", "example.com:9080", "127.0.0.1:http"])
def test_the_test_keys_are_served_to_this_machine_only(server: LiveServer, bind: str) -> None:
    url = "http://127.0.0.1:1/"
    result = server.run("verify-service", url, "--service", "keyosk", "--jwks-bind", bind)
    assert (result.returncode, "loopback" in result.stderr) == (2, True), result.stderr


def test_a_service_that_answers_no_http_fails(server: LiveServer, todo: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def babble() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"nonsense\r\n\r\n")

        threading.Thread(target=babble, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        code, verdicts = verify(server, url, todo, f"127.0.0.1:{free_port()}")
        listening.shutdown(socket.SHUT_RDWR)
    assert (code, verdicts) == (1, {"good": "cannot be reached"})


def test_a_service_that_refuses_everything_or_fails_is_caught(
    server: LiveServer, todo: str, careless: Callable[[Check], str]
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    code, verdicts = verify(server, careless(lambda *_: False), todo, bind)
    assert (code, verdicts.pop("good")) == (1, "WRONG")
    assert set(verdicts.values()) == {"proves nothing"}
    code, verdicts = verify(server, f"http://127.0.0.1:{free_port()}/", todo, bind, "--wait", "0")
    assert (code, verdicts) == (1, {"good": "cannot be reached"})


def test_the_kit_takes_the_place_of_a_keyosk_that_is_stopped(
    own_server: LiveServer, careless: Callable[..., str]
) -> None:
    own_server.start()
    todo = make_service(own_server.admin(), "read")
    bind = f"127.0.0.1:{own_server.port}"
    url = careless(lambda text, _: bool(strict(bind, todo, text)))
    line = ("verify-service", url, "--service", todo, "--json")
    running = own_server.run(*line)
    assert (running.returncode, "stop it for this test" in running.stderr) == (1, True)
    own_server.stop()
    result = own_server.run(*line)
    assert json.loads(result.stdout)["items"][0]["verdict"] == "right", result.stderr
    own_server.environment["KEYOSK_ISSUER"] = "https://login.example.org"
    elsewhere = own_server.run(*line)
    assert (elsewhere.returncode, "--jwks-bind is required" in elsewhere.stderr) == (2, True)


def test_the_kit_is_found_where_libraries_look_for_keyosk(
    server: LiveServer, todo: str, careless: Callable[[Check], str]
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    seen: dict[str, Any] = {}

    def check(_: str, __: str) -> bool:
        for path in ("/auth/jwks", f"/services/{todo}/jwks", "/.well-known/openid-configuration"):
            seen[path] = ok(Client(f"http://{bind}").get(path))
        return True

    verify(server, careless(check), todo, bind)
    keys, own_keys, metadata = seen.values()
    assert own_keys == keys
    published = ok(server.client().get("/.well-known/openid-configuration"))
    known = {name: published[name] for name in metadata}
    assert metadata == json.loads(json.dumps(known).replace(server.url, f"http://{bind}"))
    # OpenID Connect Discovery 1.0, section 3.
    required = {"authorization_endpoint", "subject_types_supported", "response_types_supported"}
    assert metadata.keys() > required


def test_a_service_that_fetches_keys_at_its_start_may_start_later(
    server: LiveServer, todo: str, careless: Callable[..., str]
) -> None:
    kit_port, port = free_port(), free_port()
    bind = f"127.0.0.1:{kit_port}"

    def start() -> None:
        url = f"http://{bind}/auth/jwks"
        known = until(lambda: requests.get(url, timeout=60).json()["keys"])
        careless(lambda text, _: bool(known and strict(bind, todo, text)), port)

    starting = threading.Thread(target=start)
    starting.start()
    _, verdicts = verify(server, f"http://127.0.0.1:{port}/", todo, bind)
    starting.join()
    assert verdicts["good"] == "right"


def test_no_token_of_the_kit_opens_anything_here(
    server: LiveServer, admin: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "kit"
    result = server.run("token", "bad", "--service", "keyosk", "--out", str(folder))
    assert result.returncode == 0, result.stderr
    tokens = json.loads((folder / "tokens.json").read_text())
    published = {key["kid"] for key in admin.get("/auth/jwks").json()["keys"]}
    kit = {key["kid"] for key in json.loads((folder / "jwks.json").read_text())["keys"]}
    assert not published & kit
    for token in tokens:
        client = Client(server.url, token=token["token"])
        assert client.get("/accounts/me").status_code == 401, token["name"]
        form = {"token": token["token"]}
        login = server.client("admin", server.environment["KEYOSK_ADMIN_PASSWORD"])
        assert ok(login.post("/auth/introspect", data=form)) == {"active": False}
    # A folder that is there is not written into.
    assert server.run("token", "bad", "--service", "keyosk", "--out", str(folder)).returncode != 0
