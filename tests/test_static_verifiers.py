"""Real HAProxy, which reads a public key from a file, checks tokens as its page says."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec

from live import LiveServer, free_port, unique
from people import Person, claims_of, make_person, ok, token_of
from test_proxies import program
from waiting import until_it_listens

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent / "docs/how-to/static-verifiers.md"


class HaProxy:
    """HAProxy with the lines of the docs, which returns 'let in' to whom it lets in."""

    def __init__(self, keyosk: LiveServer, audience: str, folder: Path) -> None:
        self.port = free_port()
        pem = folder / "keyosk.pem"
        exported = keyosk.run("signing-key", "export", "--pem")
        assert exported.returncode == 0, exported.stderr
        pem.write_text(exported.stdout)
        block = re.compile(r"^```text\n( +http-request .*?)^```$", re.DOTALL | re.MULTILINE)
        (lines,) = block.findall(PAGE.read_text())
        lines = (
            lines.replace("/etc/haproxy/keyosk.pem", str(pem))
            .replace("https://login.example.org", keyosk.url)
            .replace("-m str todo", f"-m str {audience}")
        )
        (folder / "haproxy.cfg").write_text(
            f"""defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend todo
    bind 127.0.0.1:{self.port}
{lines}
    http-request return status 200 content-type text/plain string "let in"
"""
        )
        self.process = subprocess.Popen([program("haproxy"), "-db", "-f", folder / "haproxy.cfg"])
        until_it_listens(self.process, self.port)

    def status(self, token: str | None) -> int:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        response = requests.get(f"http://127.0.0.1:{self.port}/", headers=headers, timeout=60)
        return response.status_code


@pytest.fixture(scope="module")
def alice(server: LiveServer) -> Person:
    """Somebody with a scope of each of two services; the second is named after the first."""
    admin = server.admin()
    for name in (service := unique("static"), f"{service}-2"):
        ok(admin.post("/services", json={"name": name, "scopes": [f"{name}:read"]}), 201)
    return make_person(admin, f"{service}:read", f"{service}-2:read")


@pytest.fixture(scope="module")
def todo(alice: Person) -> str:
    token = ok(alice.login().post("/auth/token"))
    audiences = claims_of(token["access_token"])["aud"]
    return str(min(audiences))


@pytest.fixture(scope="module")
def haproxy(
    server: LiveServer, todo: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HaProxy]:
    running = HaProxy(server, todo, tmp_path_factory.mktemp("haproxy"))
    yield running
    running.process.terminate()
    running.process.wait(timeout=60)


def test_haproxy_lets_a_good_token_in(haproxy: HaProxy, alice: Person, todo: str) -> None:
    assert haproxy.status(token_of(alice, audience=todo)) == 200


@pytest.mark.attack
def test_haproxy_lets_no_other_in(haproxy: HaProxy, alice: Person, todo: str) -> None:
    good = token_of(alice, audience=todo)
    head, body, signature = good.split(".")
    claims = claims_of(good)
    forged = jwt.encode(
        claims, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"typ": "at+jwt"}
    )
    by_secret = jwt.encode(claims, "x" * 64, "HS256")
    refused = {
        "none": None,
        "tampered": f"{head}.{body}.{signature[:-6]}AAAAAA",
        "unsigned": jwt.encode(claims, "", "none"),
        "another key": forged,
        "a secret": by_secret,
        "another audience": token_of(alice, audience=f"{todo}-2"),
        "several audiences": token_of(alice),
        "expired": short_lived(alice, todo),
    }
    assert {name: haproxy.status(text) for name, text in refused.items()} == dict.fromkeys(
        refused, 401
    )


def short_lived(alice: Person, todo: str) -> str:
    """A token that has just expired."""
    text = token_of(alice, audience=todo, lifetime="1")
    expires = claims_of(text)["exp"]
    while time.time() < expires + 1:  # HAProxy looks at whole seconds
        time.sleep(0.05)
    return text
