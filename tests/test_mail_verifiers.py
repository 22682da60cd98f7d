"""Real Dovecot takes tokens with the lines of its pages, and no others."""

import base64
import imaplib
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from live import LiveServer, free_port, unique
from people import Person, claims_of, make_key, make_person, ok, token_of
from test_proxies import program
from waiting import until_it_listens

HOW_TO = Path(__file__).parent.parent / "docs/how-to"
_START = 60  # seconds

pytestmark = pytest.mark.slow


class Dovecot:
    """Dovecot, as root, with these lines of the docs and folders of its own."""

    def __init__(self, lines: str, folder: Path) -> None:
        self.port = free_port()
        folder.chmod(0o755)  # its processes run as other users
        (folder / "oauth2.conf").write_text(lines)
        mail = folder / "mail"
        mail.mkdir()
        mail.chmod(0o777)
        nobody = pwd.getpwnam("nobody")
        (folder / "dovecot.conf").write_text(
            f"""protocols = imap
listen = 127.0.0.1
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
ssl = no
disable_plaintext_auth = no
first_valid_uid = 1
mail_location = maildir:{mail}/%u
auth_mechanisms = oauthbearer xoauth2
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = {folder}/oauth2.conf
}}
userdb {{
  driver = static
  args = uid={nobody.pw_uid} gid={nobody.pw_gid} home={mail}/%u
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {self.port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""
        )
        command = [program("dovecot"), "-F", "-c", str(folder / "dovecot.conf")]
        self.process = subprocess.Popen(command)
        until_it_listens(self.process, self.port, folder / "dovecot.log")

    def lets_in(self, username: str, token: str) -> bool:
        connection = imaplib.IMAP4("127.0.0.1", self.port, timeout=30)
        said = f"n,a={username},\x01auth=Bearer {token}\x01\x01".encode()
        try:
            responses = iter([said, b"\x01"])
            return connection.authenticate("OAUTHBEARER", lambda _: next(responses))[0] == "OK"
        except imaplib.IMAP4.error:
            return False
        finally:
            connection.shutdown()


def lines_of(page: str, first: str, audience: str, keyosk: LiveServer) -> str:
    """The lines of a page that begin so, for a service and a Keyosk."""
    block = re.compile(rf"^```text\n({first}\n.*?)^```$", re.DOTALL | re.MULTILINE)
    (lines,) = block.findall((HOW_TO / page).read_text())
    return (
        str(lines)
        .replace("https://login.example.org", keyosk.url)
        .replace("client_id = mail", f"client_id = {audience}")
        .replace("mail:read", f"{audience}:read")
    )


def publish_key(keyosk: LiveServer, folder: Path) -> None:
    """Put the public key where Dovecot looks for it."""
    exported = keyosk.run("signing-key", "export", "--pem")
    assert exported.returncode == 0, exported.stderr
    kid = keyosk.client().get("/auth/jwks").json()["keys"][0]["kid"]
    (folder / "default/ES256").mkdir(parents=True)
    (folder / f"default/ES256/{kid}").write_text(exported.stdout)


@contextmanager
def started(lines: str, folder: Path) -> Iterator[Dovecot]:
    running = Dovecot(lines, folder)
    yield running
    running.process.terminate()
    running.process.wait(timeout=60)


@pytest.fixture
def folder() -> Iterator[Path]:
    program("dovecot")
    if os.geteuid() != 0:
        pytest.skip("Dovecot starts as root")
    with tempfile.TemporaryDirectory(prefix="dovecot") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def mail(server: LiveServer) -> str:
    """A service for Dovecot."""
    name = unique("mail")
    created = server.run("service", "create", name, "--scope", f"{name}:read", "--for", "dovecot")
    assert created.returncode == 0, created.stderr
    return name


@pytest.fixture(scope="module")
def alice(server: LiveServer, mail: str) -> Person:
    admin = server.admin()
    other = unique("other")
    body = {"name": other, "scopes": [f"{other}:read"], "typ": "JWT"}
    ok(admin.post("/services", json=body), 201)
    return make_person(admin, f"{mail}:read", f"{other}:read")


@pytest.fixture
def dovecot(server: LiveServer, mail: str, folder: Path) -> Iterator[Dovecot]:
    keys = folder / "keys"
    publish_key(server, keys)
    lines = lines_of("static-verifiers.md", "introspection_mode = local", mail, server)
    with started(lines.replace("/etc/dovecot/keyosk/", f"{keys}/"), folder) as running:
        yield running


@pytest.fixture
def asking_dovecot(server: LiveServer, mail: str, folder: Path) -> Iterator[Dovecot]:
    """One that asks Keyosk, as the account that acts for its service."""
    admin = server.admin()
    own = make_person(admin)
    _, secret = make_key(admin, own)
    ok(admin.patch(f"/services/{mail}", json={"account": own.username}))
    lines = lines_of("services/proxies.md", "introspection_mode = post", mail, server)
    address = server.url.replace("://", f"://{own.username}:{secret}@")
    lines = lines.replace("https://dovecot:API_KEY@login.example.org", address)
    with started(lines, folder) as running:
        yield running


@pytest.mark.attack
def test_dovecot_takes_a_good_token_and_no_other(
    dovecot: Dovecot, server: LiveServer, alice: Person, mail: str
) -> None:
    good = token_of(alice, audience=mail)
    assert dovecot.lets_in(alice.username, good)

    header = jwt.get_unverified_header(good)
    claims = claims_of(good)
    forged = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", headers=header)
    head, _, signature = good.split(".")
    other_body = base64.urlsafe_b64encode(b'{"sub":"x"}').decode().rstrip("=")
    (other,) = [each for each in alice_scopes(alice) if not each.startswith(mail)]
    refused = {
        "another audience": token_of(alice, audience=other.partition(":")[0]),
        "another key": forged,
        "tampered": f"{head}.{other_body}.{signature}",
        "unsigned": jwt.encode(claims, "", "none"),
    }
    assert [name for name, text in refused.items() if dovecot.lets_in(alice.username, text)] == []
    assert not dovecot.lets_in("admin", good)


@pytest.mark.attack
def test_dovecot_that_asks_takes_a_good_token_until_it_is_revoked(
    asking_dovecot: Dovecot, server: LiveServer, alice: Person, mail: str
) -> None:
    good = token_of(alice, audience=mail)
    assert asking_dovecot.lets_in(alice.username, good)

    head, body, _ = good.split(".")
    (other,) = [each for each in alice_scopes(alice) if not each.startswith(mail)]
    refused = {
        "another audience": token_of(alice, audience=other.partition(":")[0]),
        "unsigned": f"{head}.{body}.",
    }
    taken = [text for text in refused.values() if asking_dovecot.lets_in(alice.username, text)]
    assert taken == []
    assert not asking_dovecot.lets_in("admin", good)
    nobody = make_person(server.admin())  # holds nothing, and gets a token without scopes
    assert not asking_dovecot.lets_in(nobody.username, token_of(nobody, audience=mail))

    ok(alice.login().post("/auth/revoke", data={"token": good}))
    assert not asking_dovecot.lets_in(alice.username, good)


def alice_scopes(alice: Person) -> list[str]:
    scopes = ok(alice.login().get("/accounts/me/grants"))["scopes"]
    return [each if isinstance(each, str) else each["name"] for each in scopes]
