"""Real ejabberd takes tokens with the lines of docs/how-to/static-verifiers.md, and no others."""

import base64
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from live import LiveServer, free_port, unique, wait_for
from people import PASSWORD, claims_of, ok
from test_proxies import missing, program
from waiting import until_it_listens

PAGE = Path(__file__).parent.parent / "docs/how-to/static-verifiers.md"
HOST = "chat.example.org"
STREAM = (
    f"<?xml version='1.0'?><stream:stream to='{HOST}' version='1.0' "
    "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
)
_START = 60  # seconds

pytestmark = pytest.mark.slow


class Ejabberd:
    """ejabberd with the lines of the docs and a folder of its own."""

    def __init__(
        self, keyosk: LiveServer, folder: Path, *, field: str = "preferred_username"
    ) -> None:
        """``field``: the claim to go by."""
        self.port = free_port()
        exported = keyosk.run("signing-key", "export", "--jwk")
        assert exported.returncode == 0, exported.stderr
        key = folder / "keyosk.jwk"
        key.write_text(exported.stdout)
        (lines,) = re.findall(
            r"^```yaml\n(auth_method:.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
        )
        (folder / "ejabberd.yml").write_text(
            lines.replace("/etc/ejabberd/keyosk.jwk", str(key)).replace(
                "jwt_jid_field: preferred_username", f"jwt_jid_field: {field}"
            )
            + f"""hosts:
  - {HOST}
listen:
  - port: {self.port}
    ip: "127.0.0.1"
    module: ejabberd_c2s
modules: {{}}
"""
        )
        folders = sorted(Path("/usr/lib").glob("*/ejabberd-*/ebin"))
        code = folders[0] if folders else missing("ejabberd's code")
        # The command itself, without ejabberdctl, which would leave a daemon of Erlang's behind.
        self.process = subprocess.Popen(
            [
                *(program("erl"), "-noinput", "-noshell", "-pa", str(code)),
                *("-mnesia", "dir", f'"{folder}/spool"'),
                *("-ejabberd", "config", f'"{folder}/ejabberd.yml"'),
                *("log_path", f'"{folder}/ejabberd.log"', "-s", "ejabberd"),
            ],
            env={**os.environ, "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until_it_listens(self.process, self.port, folder / "ejabberd.log")

    def lets_in(self, user: str, token: str) -> bool:
        """Whether a client logs in by SASL PLAIN (RFC 6120 section 6, RFC 4616)."""
        said = base64.b64encode(f"\0{user}\0{token}".encode()).decode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(STREAM.encode())
            assert b"</stream:features>" in _read(connection, b"</stream:features>")
            connection.sendall(
                f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{said}</auth>"
                "".encode()
            )
            response = _read(connection, b"<success", b"<failure")
        assert b"<success" in response or b"<failure" in response, response
        return b"<success" in response


def _read(connection: socket.socket, *ends: bytes) -> bytes:
    data = b""
    while not any(end in data for end in ends):
        more = connection.recv(4096)
        if not more:
            break
        data += more
    return data


@pytest.fixture(scope="module")
def ejabberd(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ejabberd]:
    program("erl")
    running = Ejabberd(server, tmp_path_factory.mktemp("ejabberd"))
    yield running
    running.process.terminate()
    running.process.wait(timeout=60)


@pytest.mark.attack
def test_ejabberd_takes_a_good_token_and_no_other(ejabberd: Ejabberd, server: LiveServer) -> None:
    admin = server.admin()
    service = unique("chat")
    ok(admin.post("/services", json={"name": service, "scopes": [f"{service}:use"]}), 201)
    user = unique("alice")
    for name in (user, f"{user}-too"):
        grants = {"scopes": [f"{service}:use"]}
        body = {"username": f"{name}@{HOST}", "password": PASSWORD, "grants": grants}
        ok(admin.post("/accounts", json=body), 201)

    def token(name: str) -> str:
        login = server.client(f"{name}@{HOST}", PASSWORD)
        text: str = ok(login.post("/auth/token", data={"audience": service}))["access_token"]
        return text

    good = token(user)
    assert ejabberd.lets_in(user, good)

    login = server.client(f"{user}@{HOST}", PASSWORD)
    data = {"audience": service, "lifetime": 3}
    short = ok(login.post("/auth/token", data=data))["access_token"]
    wait_for(claims_of(short)["exp"] + 1)
    assert not ejabberd.lets_in(user, short)

    header = jwt.get_unverified_header(good)
    claims = claims_of(good)
    key = ec.generate_private_key(ec.SECP256R1())
    head, _, signature = good.split(".")
    other_body = base64.urlsafe_b64encode(b'{"sub":"x"}').decode().rstrip("=")
    refused = {
        "somebody else's": token(f"{user}-too"),
        "another key": jwt.encode(claims, key, "ES256", headers=header),
        "tampered": f"{head}.{other_body}.{signature}",
        "unsigned": jwt.encode(claims, "", "none"),
    }
    assert [name for name, text in refused.items() if ejabberd.lets_in(user, text)] == []


@pytest.mark.attack
def test_a_claim_of_the_account_names_the_address_where_usernames_are_shorter(
    server: LiveServer, tmp_path: Path
) -> None:
    program("erl")
    admin = server.admin()
    service, other = unique("chat"), unique("other")
    for name, asked in ((service, ["jid"]), (other, [])):
        fields = {"name": name, "scopes": [f"{name}:use"], "claims": asked}
        ok(admin.post("/services", json=fields), 201)
    user = unique("alice")
    account = {
        "username": user,
        "password": PASSWORD,
        "grants": {"scopes": [f"{service}:use", f"{other}:use"]},
        "claims": {"jid": f"{user}@{HOST}"},
    }
    ok(admin.post("/accounts", json=account), 201)

    def token(audience: str) -> str:
        login = server.client(user, PASSWORD)
        text: str = ok(login.post("/auth/token", data={"audience": audience}))["access_token"]
        return text

    running = Ejabberd(server, tmp_path, field="jid")
    try:
        assert running.lets_in(user, token(service))
        assert not running.lets_in(f"{user}-too", token(service))
        assert not running.lets_in(user, token(other))  # it has no such claim
    finally:
        running.process.terminate()
        running.process.wait(timeout=60)
