"""keyosk token bad and verify-service: services that check well pass, careless ones are caught."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
import requests
from jwt.utils import base64url_decode

from installed import installed, rows_of
from keyosk import app, bad_tokens
from keyosk.bad_tokens import GOOD, REVOKED, Kit
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Scope
from live import SECRET_KEY, free_port
from test_commands import Done, keyosk
from test_readme import todo_service

BAD: Final = frozenset(
    {
        *("expired", "future", "missing_exp", "wrong_audience", "wrong_issuer", "wrong_typ"),
        *("unknown_crit", "alg_none", "hs256_public_key", "unknown_kid", "foreign_key"),
        *("embedded_jwk", "jku", "tampered_payload", "tampered_signature", REVOKED),
    }
)
Run = Callable[..., Done]


@pytest.fixture
def run(prepared_url: str, tmp_path: Path) -> Run:
    """Runs a command on an installation that has the service todo, and that nobody serves."""
    with installed(prepared_url) as installation:
        scopes = [Scope("todo:read"), Scope("todo:write")]
        installation.services.create(OPERATOR, name="todo", scopes=scopes)
    environment = {"KEYOSK_DATABASE_URL": prepared_url, "KEYOSK_SECRET_KEY": SECRET_KEY}
    return lambda *arguments: keyosk(environment, tmp_path, *arguments)


def verdicts(done: Done, code: int) -> dict[str, str]:
    assert done.code == code, done.out + done.err
    return {each["token"]: each["verdict"] for each in json.loads(done.out)["items"]}


# --- The tokens -----------------------------------------------------------------------------------


def kit_of(installation: Installation, **terms: Any) -> Kit:
    service = installation.services.create(
        OPERATOR, name="todo", scopes=[Scope("todo:read")], **terms
    )
    now = int(installation.clock())
    jku = "http://127.0.0.1:1/keys.json"
    return bad_tokens.make(service, issuer=installation.issuer, algorithm="ES256", jku=jku, now=now)


@pytest.mark.parametrize(
    "terms", [{}, {"signing_algorithm": "EdDSA"}, {"signing_algorithm": "RS256", "typ": "JWT"}]
)
def test_the_good_one_is_as_keyosk_would_issue_it_and_the_bad_ones_differ(
    installation: Installation, terms: dict[str, Any]
) -> None:
    kit = kit_of(installation, **terms)
    assert {probe.name for probe in kit.probes} == {GOOD, *BAD}
    assert len({probe.text for probe in kit.probes}) == len(kit.probes)
    (good,) = (probe for probe in kit.probes if probe.good)
    header = jwt.get_unverified_header(good.text)
    assert header["alg"] == terms.get("signing_algorithm", "ES256")
    assert header["typ"] == terms.get("typ", "at+jwt")
    key = jwt.PyJWKSet.from_dict(dict(kit.key_set))[header["kid"]]
    options: Any = {"audience": "todo", "issuer": installation.issuer}
    claims = jwt.decode(good.text, key, algorithms=[header["alg"]], **options)
    assert claims["scope"] == "todo:read"
    for probe in kit.probes:
        assert probe.text not in repr(kit)


def test_its_keys_are_in_no_database_and_open_nothing_of_keyosk(installation: Installation) -> None:
    own = installation.services.get("keyosk")
    now = int(installation.clock())
    jku = "http://127.0.0.1:1/keys.json"
    before = rows_of(installation, "SELECT kid FROM signing_key")
    kit = bad_tokens.make(own, issuer=installation.issuer, algorithm="ES256", jku=jku, now=now)
    assert rows_of(installation, "SELECT kid FROM signing_key") == before
    published = {key.kid for key in installation.signing_keys.current.keys}
    assert not published & {key["kid"] for key in kit.key_set["keys"]}
    server = app.create_app(installation).test_client()
    for probe in kit.probes:
        headers = {"Authorization": f"Bearer {probe.text}"}
        assert server.get("/accounts", headers=headers).status_code == 401, probe.name


def test_the_kit_is_printed_or_written_to_files_that_only_one_user_reads(
    run: Run, tmp_path: Path
) -> None:
    printed = run("token", "bad", "--service", "todo").out.splitlines()
    assert {line.split(" ")[0] for line in printed} == {GOOD, *BAD}
    whole = run("token", "bad", "--service", "todo", "--issuer", "https://x.example", "--json").json
    assert whole["issuer"] == "https://x.example"
    assert {each["name"] for each in whole["tokens"]} == {GOOD, *BAD}
    assert [key.keys() & {"d", "p", "q"} for key in whole["key_set"]["keys"]] == [set()]

    assert run("token", "bad", "--service", "todo", "--out", "kit").out == ""
    files = list((tmp_path / "kit").iterdir())
    expected = {f"{name}.jwt" for name in (GOOD, *BAD)} | {"jwks.json", "revocations.json"}
    assert {file.name for file in files} == expected
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert "there is no" in run("token", "bad", "--service", "nothing").refused().lower()


# --- Services -------------------------------------------------------------------------------------


def test_the_example_service_passes(run: Run, tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with todo_service(f"http://{bind}", tmp_path) as todo:
        asked = ("verify-service", f"{todo}/todos", "--service", "todo", "--jwks-bind", bind)
        found = verdicts(run(*asked, "--json"), 0)
        table = run(*asked)
    # It asks for no revocations, which is told and is no fault.
    assert found.pop(REVOKED) == "accepted, as it asks for no revocations"
    assert found.pop(GOOD) == "accepted"
    assert found == dict.fromkeys(BAD - {REVOKED}, "refused")
    assert re.search(r"^expired +401 +refused +it expired an hour ago$", table.out, re.MULTILINE)


class Service:
    """A service that checks all that it must, but for one thing."""

    def __init__(self, keyosk_url: str, flaw: str) -> None:
        self.keyosk = keyosk_url
        self.flaw = flaw

    def fetch(self, url: str) -> Any:
        return requests.get(url, timeout=5, proxies={"http": ""}).json()

    def accepts(self, text: str) -> bool:
        if self.flaw == "everything":
            return True
        try:
            header = jwt.get_unverified_header(text)
            claims = self.claims(text, header)
        except (jwt.PyJWTError, LookupError):
            return False
        if self.flaw != "typ" and header.get("typ") != "at+jwt":
            return False
        revoked = {"jti": ""}
        if self.flaw != "polling":
            (revoked,) = self.fetch(f"{self.keyosk}/auth/revocations")["entries"]
        return self.flaw == "revoked" or claims["jti"] != revoked["jti"]

    def claims(self, text: str, header: dict[str, Any]) -> Any:
        payload = json.loads(base64url_decode(text.split(".")[1]))
        if (self.flaw, header["alg"]) in (("none", "none"), ("hmac", "HS256")):
            return payload
        keys = self.fetch(f"{self.keyosk}/.well-known/jwks.json")["keys"]
        if self.flaw == "jku" and "jku" in header:
            keys = self.fetch(header["jku"])["keys"]
        if self.flaw == "jwk" and "jwk" in header:
            keys = [header["jwk"]]
        key = next(each for each in keys if each["kid"] == header["kid"]) if keys else None
        options: Any = {
            "require": [] if self.flaw == "require" else ["exp", "sub", "scope"],
            "verify_exp": self.flaw != "exp",
            "verify_aud": self.flaw != "aud",
            "verify_iat": self.flaw != "future",
            "verify_nbf": self.flaw != "future",
        }
        issuer = None if self.flaw == "iss" else self.keyosk
        return jwt.decode(
            text, jwt.PyJWK(key or {}), ["ES256"], options, audience="todo", issuer=issuer
        )


@contextmanager
def served(service: Service) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers["Authorization"].removeprefix("Bearer ")
            try:
                status = 204 if service.accepts(token) else 401
            except StopIteration:
                status = 401
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FLAWS: Final = {
    "everything": BAD,
    "typ": {"wrong_typ"},
    "none": {"alg_none"},
    "hmac": {"hs256_public_key"},
    "jku": {"jku"},
    "jwk": {"embedded_jwk"},
    "require": {"missing_exp"},
    "exp": {"expired"},
    "aud": {"wrong_audience"},
    "iss": {"wrong_issuer"},
    "future": {"future"},
    "revoked": {REVOKED},
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_careless_service_is_caught(run: Run, flaw: str) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with served(Service(f"http://{bind}", flaw)) as url:
        asked = ("verify-service", url, "--service", "todo", "--jwks-bind", bind, "--json")
        found = verdicts(
            run(*asked, *(("--polls-within", "0.1") if flaw == "everything" else ())), 1
        )
    assert {name for name, verdict in found.items() if verdict == "ACCEPTED"} == FLAWS[flaw]
    assert found[GOOD] == "accepted"


def test_a_service_that_checks_everything_passes(run: Run) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with served(Service(f"http://{bind}", "")) as url:
        asked = ("verify-service", url, "--service", "todo", "--jwks-bind", bind, "--json")
        found = verdicts(run(*asked, "--polls-within", "5"), 0)
    assert found == {GOOD: "accepted", **dict.fromkeys(BAD, "refused")}


def test_a_service_that_refuses_the_good_one_fails(run: Run) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with served(Service(f"http://{bind}", "")) as url:
        asked = ("verify-service", url, "--service", "todo", "--jwks-bind", bind, "--json")
        found = verdicts(run(*asked, "--issuer", "https://elsewhere.example"), 1)
    assert found.pop(GOOD) == "REFUSED"
    assert set(found.values()) == {"refused"}


def test_a_service_that_was_said_to_poll_and_does_not_fails(run: Run) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with served(Service(f"http://{bind}", "polling")) as url:
        asked = ("verify-service", url, "--service", "todo", "--jwks-bind", bind, "--json")
        assert verdicts(run(*asked), 0)[REVOKED].startswith("accepted,")
        found = verdicts(run(*asked, "--polls-within", "0.1"), 1)
    assert found[REVOKED] == "ACCEPTED"


def test_a_service_that_is_not_there_is_said_so(run: Run) -> None:
    asked = ("--service", "todo", "--jwks-bind", f"127.0.0.1:{free_port()}")
    done = run("verify-service", f"http://127.0.0.1:{free_port()}/", *asked)
    assert done.refused() == "keyosk: The service does not answer: ConnectionRefusedError.\n"


@pytest.mark.parametrize(
    ("url", "bind"),
    [
        ("ftp://127.0.0.1/", "127.0.0.1:9000"),
        ("http://127.0.0.1/", "0.0.0.0:9000"),
        ("http://127.0.0.1/", "example.com:9000"),
        ("http://127.0.0.1/", "127.0.0.1:http"),
    ],
)
def test_the_test_keys_are_served_on_this_machine_only(run: Run, url: str, bind: str) -> None:
    assert run("verify-service", url, "--service", "todo", "--jwks-bind", bind).code == 2
