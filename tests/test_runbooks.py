"""Each runbook is played through: the commands as they stand, after what happened has happened."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from keyosk import config
from keyosk.installation import Installation
from live import ADMIN_PASSWORD, LiveServer
from pasted import Terminal, blocks

pytestmark = pytest.mark.slow

RUNBOOKS = Path(__file__).parent.parent / "docs" / "runbooks"
PASSWORD = "violet lamps orbit slowly"
NEW_PASSWORD = "slowly orbit lamps violet"


class Machine:
    """A machine with Keyosk, whose folders are those of a temporary one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "keyosk.env"
        self.server = LiveServer("", folder)
        self.server.environment = {
            name: value
            for name, value in self.server.environment.items()
            if not name.startswith("KEYOSK_")
        }
        self.server.environment["KEYOSK_CONFIG"] = str(self.file)
        settings = {
            "BIND": f"127.0.0.1:{self.server.port}",
            "DATABASE_URL": f"sqlite:///{folder}/lib/keyosk.db",
            "ADMIN_PASSWORD": ADMIN_PASSWORD,
            "METRICS_BIND": "off",
        }
        self.file.write_text("".join(f"KEYOSK_{k}={v}\n" for k, v in settings.items()))
        (folder / "lib").mkdir(mode=0o700)
        (folder / "new-password.txt").write_text(f"{NEW_PASSWORD}\n")

    def play(self, page: str, **variables: str) -> list[str]:
        """Paste a runbook; returns what each block printed."""
        scripts = blocks(RUNBOOKS / f"{page}.md", "sh")
        for there, here in {
            "/etc/keyosk/keyosk.env": str(self.file),
            "/var/lib/keyosk": str(self.folder / "lib"),
            "/var/backups": str(self.folder / "backups"),
        }.items():
            scripts = [script.replace(there, here) for script in scripts]
        with Terminal(self.server, self.folder) as terminal:
            return terminal.paste(*scripts, **variables)

    def token(self, username: str, secret: str) -> str:
        response = self.server.client(username, secret).post(
            "/auth/token", data={"format": "token"}
        )
        assert response.status_code == 200, response.text
        return str(response.text.strip())

    def takes(self, token: str) -> bool:
        """Whether Keyosk says of a token that it is valid."""
        response = self.server.client("admin", ADMIN_PASSWORD).post(
            "/auth/introspect", data={"token": token}
        )
        return bool(response.json()["active"])

    def kids(self) -> list[str]:
        return [key["kid"] for key in self.server.client().get("/auth/jwks").json()["keys"]]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A Keyosk with the service todo, and alice, who may use it."""
    machine = Machine(tmp_path)
    with machine.server as server:
        admin = server.admin()
        scopes = ["todo:read", "todo:write"]
        assert admin.post("/services", json={"name": "todo", "scopes": scopes}).ok
        alice = {"username": "alice", "password": PASSWORD, "grants": {"scopes": scopes}}
        assert admin.post("/accounts", json=alice).ok
        yield machine


def new_key(machine: Machine) -> tuple[str, str]:
    created = (
        machine.server.admin().post("/accounts/alice/api-keys", json={"name": "laptop"}).json()
    )
    return created["id"], created["secret"]


def test_a_leaked_api_key_is_stopped_traced_and_replaced(machine: Machine) -> None:
    key, secret = new_key(machine)
    token = machine.token("alice", secret)
    listed, traces, replaced = machine.play("leaked-api-key", KEY_ID=key)
    assert secret[:12] in listed
    assert '"action":"api_key.first_use"' in traces
    assert not machine.takes(token)
    assert machine.server.client("alice", secret).post("/auth/token").status_code == 401
    successor = next(line for line in replaced.splitlines() if line.startswith("secret"))
    assert machine.token("alice", successor.split()[1])


def test_a_leaked_signing_key_is_taken_out(machine: Machine) -> None:
    old = machine.token("alice", PASSWORD)
    before = machine.kids()
    *_, rows = machine.play("leaked-signing-key")
    assert "signing_key.compromise" in rows
    assert not set(before[:1]) & set(machine.kids())
    assert not machine.takes(old)
    assert machine.takes(machine.token("alice", PASSWORD))


def test_a_leaked_secret_key_is_replaced_with_all_that_it_opened(machine: Machine) -> None:
    file = machine.folder / "lib" / "keyosk.db.secret"
    old_secret, old_keys = file.read_text().strip(), machine.kids()
    machine.play("leaked-secret-key")
    assert not file.exists()
    assert old_secret not in machine.file.read_text()
    assert not set(old_keys) & set(machine.kids())
    assert machine.takes(machine.token("alice", PASSWORD))


def test_a_lost_admin_comes_back(machine: Machine) -> None:
    _, shown, _, rescued, rows = machine.play("lost-admin")
    assert "enabled        yes" in shown
    assert "rescue" in rescued
    assert "password.set" in machine.server.run("audit", "list").stdout
    assert "admin" in rows
    for name in ("admin", "rescue"):
        login = machine.server.client(name, NEW_PASSWORD)
        assert login.post("/auth/token", data={"audience": "keyosk"}).status_code == 200


def test_a_lost_database_is_restored(machine: Machine) -> None:
    backups = machine.folder / "backups"
    for name in ("keyosk", "secret"):
        (backups / name).mkdir(parents=True)
    with Terminal(machine.server, machine.folder) as terminal:
        terminal.paste("keyosk database backup backups/keyosk/keyosk-20260131T023000Z.db")
    shutil.rmtree(machine.folder / "programs")
    shutil.copy(machine.folder / "lib" / "keyosk.db.secret", backups / "secret")
    lost = {"username": "afterwards"}
    assert machine.server.admin().post("/accounts", json=lost).ok
    old = machine.token("alice", PASSWORD)
    machine.server.stop()
    database = machine.folder / "lib" / "keyosk.db"
    database.write_bytes(database.read_bytes()[:4096] + bytes(8192))
    if os.geteuid() == 0:  # who plays it; Keyosk has a user of its own
        for each in (database.parent, *database.parent.iterdir()):
            os.chown(each, 65_534, 65_534)
    said, _, _ = machine.play("database-lost")
    assert "damaged" in said
    owner = database.parent.stat().st_uid
    restored = (database, database.with_name("keyosk.db.secret"))
    assert {each.stat().st_uid for each in restored} == {owner}
    assert machine.server.admin().get("/accounts/afterwards").status_code == 404
    assert not machine.takes(old)
    assert machine.takes(machine.token("alice", PASSWORD))


def test_a_wrong_clock_is_found(machine: Machine) -> None:
    clocks, claims, keys = machine.play("clock-wrong")
    assert clocks.lower().startswith("date:")
    assert json.loads(claims)["claims"]["preferred_username"] == "alice"
    assert "active" in keys


def test_a_token_that_is_refused_is_looked_into(machine: Machine) -> None:
    inspected, _, explained = machine.play("tokens-refused")
    assert json.loads(inspected)["claims"]["aud"] == "todo"
    assert "todo:write" in explained


def test_a_disk_that_is_full_is_looked_through(machine: Machine) -> None:
    (machine.folder / "backups").mkdir()
    room, checked, grown, _ = machine.play("disk-full")
    assert "%" in room
    assert "audit log" in checked
    assert "keyosk.db" in grown
    assert '"action":"account.create"' in (machine.folder / "audit.jsonl").read_text()


def test_an_attack_is_seen_and_a_guessed_account_gets_a_new_password(machine: Machine) -> None:
    for wrong in range(3):
        machine.server.client("alice", f"wrong {wrong}").post("/auth/token")
    later = Installation(config.load(machine.server.environment), clock=lambda: time.time() + 60)
    with closing(later.database):
        later.audit.seal()  # failed logins of a minute are counted when it is over
    _, addresses, account = machine.play("under-attack")
    assert addresses.count(" 127.") == 3
    assert account
    assert machine.server.client("alice", PASSWORD).post("/auth/token").status_code in (401, 429)
    assert machine.token("alice", NEW_PASSWORD)


def test_every_runbook_has_a_test() -> None:
    tests = Path(__file__).read_text()
    for page in RUNBOOKS.glob("*.md"):
        assert page.stem == "index" or f'play("{page.stem}"' in tests, page
