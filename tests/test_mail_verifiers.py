"""Real Dovecot takes tokens with the lines of docs/how-to/static-verifiers.md, and no others."""

import base64
import imaplib
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from live import LiveServer, free_port, unique
from people import Person, done, make_person, token_of
from test_proxies import program
from waiting import until_it_listens

PAGE = Path(__file__).parent.parent / "docs/how-to/static-verifiers.md"
_START = 20  # seconds

pytestmark = pytest.mark.slow


class Dovecot:
    """Dovecot, as root, with the lines of the docs and folders of its own."""

    def __init__(self, keyosk: LiveServer, audience: str, folder: Path) -> None:
        self.port = free_port()
        folder.chmod(0o755)  # its processes run as other users
        exported = keyosk.run("signing-key", "export", "--pem")
        assert exported.returncode == 0, exported.stderr
        kid = keyosk.client().get("/auth/jwks").json()["keys"][0]["kid"]
        keys = folder / "keys"
        (keys / "default/ES256").mkdir(parents=True)
        (keys / f"default/ES256/{kid}").write_text(exported.stdout)
        block = re.compile(r"^```text\n(introspection_mode.*?)^```$", re.DOTALL | re.MULTILINE)
        (lines,) = block.findall(PAGE.read_text())
        (folder / "oauth2.conf").write_text(
            lines.replace("/etc/dovecot/keyosk/", f"{keys}/")
            .replace("https://login.example.org", keyosk.url)
            .replace("client_id = mail", f"client_id = {audience}")
        )
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
    done(admin.post("/services", json=body), 201)
    return make_person(admin, f"{mail}:read", f"{other}:read")


@pytest.fixture(scope="module")
def dovecot(server: LiveServer, mail: str) -> Iterator[Dovecot]:
    program("dovecot")
    if os.geteuid() != 0:
        pytest.skip("Dovecot starts as root")
    with tempfile.TemporaryDirectory(prefix="dovecot") as folder:
        running = Dovecot(server, mail, Path(folder))
        yield running
        running.process.terminate()
        running.process.wait(timeout=20)


@pytest.mark.attack
def test_dovecot_takes_a_good_token_and_no_other(
    dovecot: Dovecot, server: LiveServer, alice: Person, mail: str
) -> None:
    good = token_of(alice, audience=mail)
    assert dovecot.lets_in(alice.username, good)

    header = jwt.get_unverified_header(good)
    claims = jwt.decode(good, options={"verify_signature": False})
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


def alice_scopes(alice: Person) -> list[str]:
    found = done(alice.login().get("/accounts/me/grants"))["scopes"]
    return [each if isinstance(each, str) else each["name"] for each in found]
