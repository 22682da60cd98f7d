"""The pages of daily tasks and of migration are followed as they stand."""

import base64
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import argon2
import bcrypt
import pytest

import api_pages
from live import ADMIN_PASSWORD, LiveServer
from pasted import blocks, terminal
from people import ok
from processes import execute

pytestmark = pytest.mark.slow

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to"
PASSWORD = "violet lamps orbit slowly"
NEW_PASSWORD = "slowly orbit lamps violet"

#: Prints the accounts of a Django project with two users, made for this.
DJANGO = f"""
import sys
import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User

User.objects.create_user("alice", password={PASSWORD!r}, first_name="Alice")
User.objects.create_user("bob", is_active=False)
call_command("shell", "--no-imports", "--command", sys.stdin.read())
"""


@pytest.fixture
def todo(tmp_path: Path) -> Iterator[LiveServer]:
    """A Keyosk with the service todo."""
    with LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path) as server:
        body = {"name": "todo", "scopes": ["todo:read", "todo:write"]}
        assert server.admin().post("/services", json=body).ok
        (tmp_path / "password.txt").write_text(f"{PASSWORD}\n")
        (tmp_path / "new-password.txt").write_text(f"{NEW_PASSWORD}\n")
        yield server


def test_every_task_of_an_admin_is_done_by_its_lines(todo: LiveServer) -> None:
    scripts = blocks(HOW_TO / "admins.md", "sh")
    bob = "keyosk account create bob"  # whom the page takes for granted
    with terminal(todo) as bash:
        bash.paste(bob, *scripts)
    old, new = todo.admin().get("/accounts/backup-job/api-keys").json()["items"]
    assert old["successor"] == new["id"]
    assert todo.admin().get("/accounts/bob").status_code == 404
    assert "keyosk:accounts:write" in todo.admin().get("/accounts/alice/grants").json()["scopes"]


def test_the_service_of_the_guides_gets_a_caller_whose_token_passes(tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []

    class Todos(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "keyosk"
    folder.mkdir()
    with (
        LiveServer(f"sqlite:///{folder / 'keyosk.db'}", folder) as server,
        ThreadingHTTPServer(("127.0.0.1", 0), Todos) as service,
        terminal(server) as bash,
    ):
        threading.Thread(target=service.serve_forever, args=(0.05,), daemon=True).start()
        place = f"127.0.0.1:{service.server_port}"
        scripts = blocks(HOW_TO / "services" / "index.md", "sh")
        bash.paste(*(each.replace("127.0.0.1:8081", place) for each in scripts))
        service.shutdown()
        (path, sent), without = seen
        assert (path, without) == ("/todos", ("/todos", None))
        asked = {"token": (sent or "").removeprefix("Bearer ")}
        introspected = (
            server.client("admin", ADMIN_PASSWORD).post("/auth/introspect", data=asked).json()
        )
    assert (introspected["username"], introspected["scope"]) == ("carol", "todo:read todo:write")
    assert introspected["aud"] == ["todo"]


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def ldif() -> str:
    """Two people and a unit, as slapcat writes them: long lines continue after a space."""
    digest = hashlib.sha256(PASSWORD.encode() + b"salt").digest()
    hashed = b64(f"{{SSHA256}}{b64(digest + b'salt')}".encode())
    return f"""dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit

dn: uid=grace,ou=people,dc=example,dc=org
uid: grace
cn:: {b64("Gräce".encode())}
userPassword:: {hashed[:20]}
 {hashed[20:]}

dn: uid=heidi,ou=people,dc=example,dc=org
uid: heidi
cn: Heidi
pwdAccountLockedTime: 000001010000Z
userPassword: {{MD5}}X03MO1qnZdYdgyfeuILPmQ==
"""


def keycloak_user(name: str, credential: dict[str, Any], secret: dict[str, str]) -> dict[str, Any]:
    password = {"type": "password", "credentialData": json.dumps(credential)}
    password["secretData"] = json.dumps(secret)
    user = {"id": f"id-of-{name}", "username": name, "firstName": "A", "enabled": True}
    return {**user, "credentials": [password]}


def keycloak_export() -> str:
    """A realm whose users' passwords are hashed as Keycloak does: PBKDF2, then argon2id."""
    salt = b"0123456789abcdef"
    value = hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), salt, 30_000)
    older = keycloak_user(
        "older",
        {"hashIterations": 30_000, "algorithm": "pbkdf2-sha512"},
        {"salt": b64(salt), "value": b64(value)},
    )
    raw = argon2.low_level.hash_secret_raw(
        PASSWORD.encode(), salt, 5, 7168, 1, 32, argon2.low_level.Type.ID
    )
    more = {"hashLength": ["32"], "memory": ["7168"], "type": ["id"], "version": ["1.3"]}
    newer = keycloak_user(
        "newer",
        {
            "hashIterations": 5,
            "algorithm": "argon2",
            "additionalParameters": {**more, "parallelism": ["1"]},
        },
        {"salt": b64(salt), "value": b64(raw)},
    )
    client = {"id": "1", "username": "service-account-x", "serviceAccountClientId": "x"}
    return json.dumps({"realm": "example", "users": [older, newer, client]})


def test_people_come_from_other_systems_and_log_in(todo: LiveServer, tmp_path: Path) -> None:
    page = HOW_TO / "migrate.md"
    programs = {text.splitlines()[0].removeprefix("# "): text for text in blocks(page, "python")}
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4, b"2a")).decode()
    given = {
        "people.py": f"\ufeffusername,name,email,groups,password_hash\n"
        f'erin,Erin,erin@example.org,"editors, readers",{hashed}\nfrank,,,,\n',
        "ldif.py": ldif(),
        "htpasswd.py": f"carol:{hashed.replace('$2a$', '$2y$')}\n# old\n\nweak:$apr1$salt$hash\n",
        "keycloak.py": keycloak_export(),
        "userpass.py": '["dave"]',
    }
    lines = ""
    for name, text in given.items():
        (tmp_path / name).write_text(programs.pop(name))
        lines += run(name, folder=tmp_path, text=text)
    lines += run("-c", DJANGO, folder=tmp_path, text=programs.pop("django_users.py"))
    assert not programs
    (tmp_path / "accounts.jsonl").write_text(lines)
    for role in ("editors", "readers"):
        ok(todo.admin().post("/roles", json={"name": role, "scopes": []}), 201)
    with terminal(todo) as bash:
        told = bash.paste(*blocks(page, "sh"))

    assert len(lines.splitlines()) == 11
    for name in ("carol", "older", "newer", "alice", "erin", "grace"):
        assert todo.client(name, PASSWORD).post("/auth/token").status_code == 200, name
    assert todo.client("dave", NEW_PASSWORD).post("/auth/token").status_code == 200
    accounts = {each["username"]: each for each in todo.admin().get("/accounts").json()["items"]}
    assert not accounts["weak"]["has_password"]
    assert set(told[1].split()) == {"weak", "bob", "dave", "frank", "heidi"}
    assert not accounts["bob"]["enabled"]
    assert accounts["alice"]["display_name"] == "Alice"
    assert accounts["grace"]["display_name"] == "Gräce"
    assert not accounts["heidi"]["enabled"]
    granted = ok(todo.admin().get("/accounts/erin/grants"))
    assert granted["roles"] == ["editors", "readers"]
    assert "service-account-x" not in accounts


def run(*arguments: str, folder: Path, text: str) -> str:
    result = execute(
        [sys.executable, *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": ""}, input=text
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_lines_of_shorter_pages_work(todo: LiveServer) -> None:
    pages = ["how-to/backup.md", "how-to/production.md", "reference/events.md"]
    pages += ["reference/verifiers.md", "how-to/services/java.md"]
    scripts = [text for page in pages for text in blocks(HOW_TO.parent / page, "sh")]
    with terminal(todo) as bash:
        # The last page creates the service.
        printed = bash.paste("keyosk service delete todo --force", *scripts)
    assert len(scripts) == 6
    assert '"action":"service.create"' in "".join(printed)
    assert list(todo.folder.glob("backup-*.db"))
    assert todo.admin().get("/services/todo").json()["typ"] == "JWT"


def test_a_workload_is_set_up_by_the_lines_of_its_page(todo: LiveServer) -> None:
    # The second block sends a platform's own token; test_workload_forgeries has platforms.
    script, _ = blocks(HOW_TO / "workloads.md", "sh")
    with terminal(todo) as bash:
        bash.paste(script)
    assert todo.admin().get("/accounts/deployer/grants").json()["scopes"]


#: Pages whose commands nothing runs, and why.
NOT_RUN = {
    "install.md": "downloads; test_deploy compares the files that it installs with the lock",
    "several-nodes.md": "needs Patroni's cluster; test_failover gives one these settings",
}


def test_every_page_with_commands_has_a_test() -> None:
    sources = [file.read_text() for file in Path(__file__).parent.glob("test_*.py")]
    # test_docs pastes those of the API one after the other.
    for page in {*HOW_TO.parent.rglob("*.md")} - {*api_pages.RESOURCES}:
        if blocks(page, "sh") and page.name not in NOT_RUN:
            names = (page.name, f'"{page.stem}"')
            assert any(name in source for name in names for source in sources), page
