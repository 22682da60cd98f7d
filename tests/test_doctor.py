"""keyosk doctor: what is wrong with an installation, and what to do."""

import json
import os
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from installed import installed
from keyosk import config, diagnosis
from keyosk.storage import maintenance
from live import ADMIN_PASSWORD, SECRET_KEY, LiveServer, free_port
from pages import logged_in
from people import make_service, ok
from platforms import METADATA, platform, send
from shops import Shop
from terminal import Done, keyosk
from test_remote import Terminal

# The command runs in the test's own process, on servers of each test.
pytestmark = pytest.mark.short


@pytest.fixture
def database_url(prepared_url: str) -> str:
    return prepared_url


def examined(result: Done) -> dict[str, dict[str, Any]]:
    """What was found, by part, after a look at the exit code."""
    assert result.err == "", result.err
    document = json.loads(result.out)
    checks = document["checks"]
    wrong = [each for each in checks if each["status"] == "wrong"]
    assert document["ok"] is not bool(wrong)
    assert result.code == (1 if wrong else 0), checks
    assert all(each["cure"] for each in wrong), wrong
    return {each["part"]: each for each in checks}


def doctor(server: LiveServer, *arguments: str, **environment: str) -> Done:
    return keyosk({**server.environment, **environment}, server.folder, "doctor", *arguments)


@pytest.mark.every_database
def test_a_sound_installation_is_found_sound(own_server: LiveServer, tmp_path: Path) -> None:
    with own_server as server:
        check_that_it_is_sound(server, tmp_path)


def check_that_it_is_sound(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "backup.db").write_text("")
    checks = examined(doctor(server, "--json", "--backups", str(tmp_path)))
    assert {name: each["status"] for name, each in checks.items()} == {
        **dict.fromkeys(("settings", "files", "database", "encoding", "rights"), "ok"),
        **({"room": "ok"} if "SQLite" in checks["database"]["found"] else {}),
        **dict.fromkeys(("clock", "keys", "next key", "backup", "proxies"), "ok"),
        **dict.fromkeys(("issuer", "TLS"), "ok"),
    }
    assert "MiB" in checks["database"]["found"]
    shown = doctor(server, "--backups", str(tmp_path))
    assert (shown.code, shown.err) == (0, "")
    assert len(shown.out.splitlines()) == len(checks)
    for said in (shown.out, str(checks)):
        assert SECRET_KEY not in said
        assert ADMIN_PASSWORD not in said


def test_from_another_machine_it_sees_what_it_can(own_server: LiveServer, tmp_path: Path) -> None:
    with own_server as server:
        check_what_is_seen_from_there(server, tmp_path)


def check_what_is_seen_from_there(server: LiveServer, tmp_path: Path) -> None:
    checks = examined(Terminal(tmp_path, server.url).logged_in().run("doctor", "--json"))
    assert {name: each["status"] for name, each in checks.items()} == {
        **dict.fromkeys(("settings", "database", "files", "backup", "proxies"), "not checked"),
        **dict.fromkeys(("clock", "keys", "next key", "issuer", "TLS"), "ok"),
    }
    here = examined(doctor(server, "--json"))
    for part in ("keys", "next key", "issuer", "TLS"):  # the same words
        assert checks[part] == here[part]


def test_a_service_that_has_not_fetched_the_next_key_is_named(tmp_path: Path) -> None:
    # In one process, which knows at once which service fetched the keys.
    with LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path, workers="1") as server:
        admin = server.admin()
        service = make_service(admin)
        ok(server.client().get("/auth/jwks", params={"service": service}))
        signing_key = ok(admin.post("/signing-keys/rotate"), 201)
        assert signing_key["not_seen_by"] == [service]
        check = examined(doctor(server, "--json"))["next key"]
        assert check["status"] == "warning"
        assert (
            check["found"]
            == f"not fetched yet by {service}; it signs from {signing_key['active_from']}"
        )
        ok(server.client().get("/auth/jwks", params={"service": service}))
        assert ok(admin.get("/signing-keys"))["items"][-1]["not_seen_by"] == []
        assert examined(doctor(server, "--json"))["next key"]["status"] == "ok"


def diagnosed(shop: Shop) -> dict[str, dict[str, Any]]:
    """What the server itself finds, by part."""
    return {each["part"]: each for each in ok(shop.admin.get("/diagnosis"))["checks"]}


@pytest.mark.every_database
def test_unreachable_issuers_and_useless_rules(own_server: LiveServer, tmp_path: Path) -> None:
    with own_server as server, platform() as ci:
        shop = Shop(server, server.admin(), ci)
        key, rules = f"issuer {shop.issuer}", f"rules of {shop.issuer}"
        main, other = f"rule {shop.issuer}/main", f"rule {shop.issuer}/other"
        checks = examined(doctor(server, "--json"))
        assert (checks[key]["status"], checks[main]["status"]) == ("ok", "warning")
        assert "none are in use yet" in checks[key]["found"]
        assert "no token ever logged in by it" in checks[main]["found"]
        assert f"keyosk issuer test {shop.issuer}" in checks[main]["cure"]
        asked = len(ci.asked)
        here = diagnosed(shop)
        assert (here[key]["status"], here[main]) == ("ok", checks[main])
        root = logged_in(server, "admin", ADMIN_PASSWORD)
        assert "no token ever logged in by it" in root.get("/console/settings").text
        assert len(ci.asked) == asked  # whoever opens a page has us call nobody

        ok(shop.present(ci.token()))
        checks = examined(doctor(server, "--json"))
        assert (checks[key]["status"], checks[rules]["status"]) == ("ok", "ok")
        assert "fetched 0 minutes ago" in checks[key]["found"]
        there = examined(Terminal(tmp_path, server.url).logged_in().run("doctor", "--json"))
        here = diagnosed(shop)
        assert there[rules] == checks[rules] == here[rules]
        assert "fetched 0 minutes ago" in here[key]["found"]

        idle = {"claims": {"repository_id": "1"}, "account": shop.machine()}
        rule = ok(
            shop.admin.post(f"/issuers/{shop.issuer}/rules", json={"name": "other", **idle}), 201
        )
        path = f"/issuers/{shop.issuer}/rules/other"
        ok(shop.admin.patch(path, json={"expires_at": "2020-01-01T00:00:00Z"}))
        assert "ended at 2020" in examined(doctor(server, "--json"))[other]["found"]
        ok(shop.admin.patch(f"/accounts/{rule['account']}", json={"enabled": False}))
        checks = examined(doctor(server, "--json"))
        assert "is disabled or has expired" in checks[other]["found"]
        assert checks[other]["cure"].endswith(f"keyosk rule delete {shop.issuer} other")
        assert diagnosed(shop)[other] == checks[other]
        ok(shop.admin.patch(path, json={"enabled": False}))

        ci.answers[METADATA] = lambda handler: send(handler, b"", status=500)
        checks = examined(doctor(server, "--json"))
        assert (checks[key]["status"], checks[rules]["status"]) == ("warning", "ok")
        assert "cannot be fetched" in checks[key]["found"]
        ok(shop.change(jwks_uri=f"{ci.issuer}/none"))  # what was known is forgotten
        checks = examined(doctor(server, "--json"))
        assert checks[key]["status"] == "wrong"
        assert "--keys FILE" in checks[key]["cure"]
        shop.present(ci.token())  # now the server knows as well
        assert diagnosed(shop)[key] == checks[key]

        ok(shop.change(jwks_uri=None, keys={"keys": ci.keys}))
        ok(shop.admin.delete(f"/issuers/{shop.issuer}/rules/main"), 204)
        ok(shop.admin.delete(path), 204)
        checks = examined(doctor(server, "--json"))
        assert (checks[key]["status"], checks[rules]["status"]) == ("ok", "warning")
        assert "its keys were given" in checks[key]["found"]
        assert diagnosed(shop)[key] == checks[key]
        ok(shop.change(enabled=False))
        assert key not in examined(doctor(server, "--json"))


def test_settings_with_faults_are_told_one_by_one(tmp_path: Path) -> None:
    result = keyosk(
        {"KEYOSK_BIND": "nowhere", "KEYOSK_SECRET_KEY": "hidden"}, tmp_path, "doctor", "--json"
    )
    assert result.code == 1
    assert result.out.count('"part": "settings"') == 2
    assert "hidden" not in result.out


def test_a_database_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nothing.db'}"
    result = keyosk({"KEYOSK_DATABASE_URL": url}, tmp_path, "doctor", "--json")
    checks = examined(result)
    assert checks["database"]["status"] == "wrong"
    assert "keyosk serve sets it up" in checks["database"]["found"]
    assert list(tmp_path.iterdir()) == []
    away = "postgresql://keyosk:hidden-word@127.0.0.1:1/keyosk"
    environment = {"KEYOSK_DATABASE_URL": away, "KEYOSK_SECRET_KEY": SECRET_KEY}
    result = keyosk(environment, tmp_path, "doctor", "--json")
    checks = examined(result)
    assert "not available" in checks["database"]["found"]
    assert "KEYOSK_DATABASE_URL" in checks["database"]["cure"]
    assert "hidden-word" not in result.out


def test_files_that_others_can_read_are_told_with_what_closes_them(own_server: LiveServer) -> None:
    own_server.start()
    path = Path(own_server.environment["KEYOSK_DATABASE_URL"].removeprefix("sqlite:///"))
    path.chmod(0o644)
    result = doctor(own_server, "--json")
    assert result.code == 1
    cures = [each["cure"] for each in json.loads(result.out)["checks"] if each["part"] == "files"]
    assert f"chmod 600 {path}" in cures


def test_the_log_tells_the_same_at_each_start(own_server: LiveServer, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(own_server.environment.pop("KEYOSK_SECRET_KEY"))
    own_server.environment["KEYOSK_SECRET_KEY_FILE"] = str(secret)
    secret.chmod(0o644)
    own_server.start()
    (check,) = [
        each
        for each in json.loads(doctor(own_server, "--json").out)["checks"]
        if each["part"] == "files"
    ]
    assert check["found"] == f"others can read {secret} (0644)"
    own_server.stop()
    secret.chmod(0o600)
    own_server.start()
    told = own_server.log.read_text()
    assert told.count("others can read") == 1
    assert f"{check['found']}: {check['cure']}" in told


def test_a_tls_key_may_be_open_to_a_group_and_to_nobody_else(tmp_path: Path) -> None:
    (key := tmp_path / "privkey.pem").touch()
    names = {"CERTIFICATE": tmp_path / "fullchain.pem", "KEY": key}
    settings = config.load({f"KEYOSK_TLS_{name}": str(path) for name, path in names.items()})

    def statuses(mode: int) -> set[str]:
        key.chmod(mode)
        return {check.status for check in diagnosis.of_files(settings) if "privkey" in check.cure}

    assert statuses(0o640) == statuses(0o600) == set()
    assert statuses(0o644) == {"wrong"}


def test_a_file_of_settings_without_a_secret_may_be_open(tmp_path: Path) -> None:
    file = tmp_path / "keyosk.env"

    def statuses(line: str) -> set[str]:
        file.write_text(f"KEYOSK_ISSUER=https://login.example.org\n{line}\n")
        file.chmod(0o644)
        return {c.status for c in diagnosis.of_files(config.load({"KEYOSK_CONFIG": str(file)}))}

    assert statuses("KEYOSK_DATABASE_URL=sqlite:////var/lib/nowhere/keyosk.db") == {"ok"}
    key = "KEYOSK_SECRET_KEY=" + "A" * 43 + "="
    assert statuses("KEYOSK_DATABASE_URL=postgresql://db/keyosk\n" + key) == {"wrong"}
    (secret := tmp_path / "key").write_text("A" * 43 + "=")
    secret.chmod(0o600)
    with_password = "KEYOSK_DATABASE_URL=postgresql://u:p@db/keyosk"
    assert statuses(f"{with_password}\nKEYOSK_SECRET_KEY_FILE={secret}") == {"wrong"}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of another user")
def test_settings_that_root_gave_to_the_group_of_keyosk_alone_are_closed(
    own_server: LiveServer, tmp_path: Path
) -> None:
    own_server.start()
    file = tmp_path / "keyosk.env"
    moved = {
        name: own_server.environment.pop(f"KEYOSK_{name}")
        for name in ("DATABASE_URL", "SECRET_KEY")
    }
    file.write_text("".join(f"KEYOSK_{name}={value}\n" for name, value in moved.items()))

    def cures(mode: int, owner: int, group: int) -> list[str]:
        file.chmod(mode)
        os.chown(file, owner, group)
        result = doctor(own_server, "--json", "--config", str(file))
        checks = json.loads(result.out)["checks"]
        return [each["cure"] for each in checks if each["part"] == "files" and each["cure"]]

    ours = os.getegid()
    assert cures(0o640, 0, ours) == []
    assert cures(0o644, 0, ours) == cures(0o660, 0, ours) == [f"chmod 600 {file}"]
    assert cures(0o640, 0, ours + 1) == [f"chmod 600 {file}"]
    assert cures(0o600, 65_534, ours) == [f"chown 0 {file}; chmod 600 {file}"]


def test_a_backup_that_is_old_or_missing_is_told(server: LiveServer, tmp_path: Path) -> None:
    def status(folder: Path) -> str:
        checks = examined(doctor(server, "--json", "--backups", str(folder)))
        return str(checks["backup"]["found"] + checks["backup"]["status"])

    assert "is emptywrong" in status(tmp_path)
    copy = tmp_path / "keyosk.db"
    copy.write_text("")
    os.utime(copy, (time.time() - 3 * 86_400,) * 2)
    assert "3.0 days old" in status(tmp_path)
    assert status(tmp_path / "nowhere").endswith("wrong")


def test_an_issuer_that_is_elsewhere_is_called_as_others_see_it(server: LiveServer) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    checks = examined(doctor(server, "--json", KEYOSK_ISSUER=nobody))
    assert checks["issuer"]["status"] == "wrong"
    assert "cannot be reached" in checks["issuer"]["found"]
    assert checks["proxies"]["status"] == "wrong"
    assert "KEYOSK_TRUSTED_PROXIES" in checks["proxies"]["cure"]
    trusting = {"KEYOSK_ISSUER": nobody, "KEYOSK_TRUSTED_PROXIES": "127.0.0.1"}
    assert examined(doctor(server, "--json", **trusting))["proxies"]["status"] == "ok"
    # Another Keyosk answers there: it calls itself otherwise.
    other = f"http://localhost:{server.port}"
    checks = examined(doctor(server, "--json", KEYOSK_ISSUER=other))
    assert checks["issuer"]["found"] == f"{other} calls itself {server.url}"


def test_a_server_whose_clock_is_wrong_is_told(server: LiveServer, tmp_path: Path) -> None:
    class Late(BaseHTTPRequestHandler):
        """Another clock; the rest is that of the server."""

        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", self.date_time_string(int(time.time()) - 600))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Late) as late:
        thread = Thread(target=late.serve_forever, args=(0.05,))
        thread.start()
        try:
            user = Terminal(tmp_path, f"http://127.0.0.1:{late.server_port}")
            result = user.run("doctor", "--json")
        finally:
            late.shutdown()
            thread.join()
    assert result.code == 1
    assert re.search(r"clock and the server's differ by (59\d|6\d\d) seconds", result.out)
    assert "You are not logged in" in result.out


@pytest.mark.every_database
def test_the_database_is_asked_for_its_version_encoding_and_rights(prepared_url: str) -> None:
    with installed(prepared_url) as keyosk_:
        database = keyosk_.database
        assert maintenance.encoding(database) in ("UTF-8", "UTF8")
        assert maintenance.missing_rights(database) == []
        name = "SQLite 3" if database.is_sqlite else "PostgreSQL 1"
        assert maintenance.version(database).startswith(name)
        if not database.is_sqlite:
            database.raw.execute_sql("SET default_transaction_read_only = on")
            (fault,) = maintenance.missing_rights(database)
            assert "read-only" in fault
