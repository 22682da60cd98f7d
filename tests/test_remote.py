"""Commands from another machine, over HTTP, with a login that nobody else can read."""

import json
import os
import re
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyosk.bulk import records
from keyosk.bulk.records import OnConflict, Status
from keyosk.cli.bulk import CONFLICTS, FAILED, STATUSES
from live import ADMIN_PASSWORD, Client, LiveServer, command, free_port, unique
from people import PASSWORD, make_key, make_person, make_service, ok
from processes import execute
from tables import table
from terminal import Done, keyosk

ESCAPE = "\x1b]0;owned\x07"


class Terminal:
    """A user on another machine: a home of their own, and a server's URL."""

    def __init__(self, home: Path, url: str, **variables: str) -> None:
        self.home = home
        self.url = url
        self.variables = {"XDG_STATE_HOME": str(home / "state"), "KEYOSK_URL": url, **variables}

    @property
    def file(self) -> Path:
        return self.home / "state" / "keyosk" / "logins.json"

    def run(self, *arguments: str, text: str = "") -> Done:
        return keyosk(self.variables, self.home, *arguments, text=text)

    def logged_in(self, username: str = "admin", secret: str = ADMIN_PASSWORD) -> "Terminal":
        result = self.run("login", "--username", username, text=f"{secret}\n")
        assert (result.code, result.err) == (0, "")
        assert result.out == f"Logged in at {self.url} as {username}.\n"
        return self

    def stored_login(self) -> dict[str, Any]:
        """The login that is stored for the server."""
        login: dict[str, Any] = json.loads(self.file.read_text())["servers"][self.url]
        return login

    def change(self, **fields: Any) -> None:
        document = json.loads(self.file.read_text())
        document["servers"][self.url] |= fields
        self.file.write_text(json.dumps(document))


@pytest.fixture
def remote(server: LiveServer, tmp_path: Path) -> Terminal:
    """A user who is not logged in yet."""
    return Terminal(tmp_path, server.url)


# --- The operator ---------------------------------------------------------------------------------


@pytest.mark.attack
@table(
    "name",
    [
        *("Operator", "X-Operator", "Keyosk-Operator", "keyosk.operator", "keyosk.caller"),
        *("BY_OPERATOR", "X-Keyosk-Account", "X-Remote-User", "Remote-User", "Remote_User"),
        *("HTTP_REMOTE_USER", "wsgi.url_scheme", "X-Forwarded-User", "Host"),
    ],
)
def test_no_header_makes_a_caller_the_operator(server: LiveServer, name: str) -> None:
    for value in ("operator", "Caller(account_id=None)", "True", "in-process.invalid"):
        assert server.client().get("/accounts", headers={name: value}).status_code in (400, 401)


@pytest.mark.attack
def test_no_text_in_the_environ_makes_a_caller_the_operator(installation: Any) -> None:
    from keyosk import app
    from keyosk.model import OPERATOR
    from keyosk.web.operator import BY_OPERATOR

    client = app.create_app(installation).test_client()
    claims: list[dict[Any, Any]] = [
        {name: value}
        for name in ("keyosk.operator", str(BY_OPERATOR), "REMOTE_USER", "AUTH_TYPE")
        for value in ("operator", OPERATOR)
    ]
    claims += [{BY_OPERATOR: "operator"}, {BY_OPERATOR: True}, {BY_OPERATOR: None}]
    for claim in claims:
        response = client.get("/accounts", environ_overrides=claim)
        assert response.status_code == 401, claim
    response = client.get("/accounts", environ_overrides={BY_OPERATOR: OPERATOR})
    assert response.status_code == 200


@pytest.mark.slow
@pytest.mark.attack
def test_a_trusted_proxy_cannot_claim_to_be_the_operator(prepared_url: str, tmp_path: Path) -> None:
    with LiveServer(prepared_url, tmp_path, trusted_proxies="127.0.0.0/8") as proxied:
        for value in ("operator", "127.0.0.1", "", "unix:"):
            headers = {"X-Forwarded-For": value, "Forwarded": f'for="{value}"'}
            assert proxied.client().get("/accounts", headers=headers).status_code == 401


# --- Logging in and out ---------------------------------------------------------------------------


def test_a_login_is_kept_for_its_owner_alone_and_serves_other_commands(remote: Terminal) -> None:
    assert "You are not logged in" in remote.run("account", "list").refused()
    remote.logged_in()
    for path in (remote.file, remote.file.with_name("logins.lock")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(remote.file.parent.stat().st_mode) == 0o700
    assert ADMIN_PASSWORD not in remote.file.read_text()
    assert sorted(path.name for path in remote.file.parent.iterdir()) == [
        "logins.json",
        "logins.lock",
    ]
    listed = remote.run("account", "list", "--json")
    assert (listed.code, listed.err) == (0, "")
    assert json.loads(listed.out)["items"][0]["username"] == "admin"


def test_logging_out_ends_and_forgets_it(
    remote: Terminal, server: LiveServer, admin: Client
) -> None:
    person = make_person(admin, "keyosk:accounts:read")
    remote.logged_in(person.username, PASSWORD)
    kept = remote.stored_login()
    assert len(ok(admin.get(f"{person.path}/tokens"))["items"]) == 1
    result = remote.run("logout")
    assert (result.code, result.err) == (0, "")
    assert not remote.file.exists()
    assert ok(admin.get(f"{person.path}/tokens"))["items"] == []
    assert Client(server.url, token=kept["access_token"]).get("/accounts/me").status_code == 401
    again = {"grant_type": "refresh_token", "refresh_token": kept["refresh_token"]}
    assert server.client().post("/auth/token", data=again).status_code == 400
    assert "You are not logged in" in remote.run("logout").refused()


def test_logging_out_works_after_the_access_token_expired(remote: Terminal, admin: Client) -> None:
    person = make_person(admin)
    remote.logged_in(person.username, PASSWORD).change(expires_at=0)
    assert remote.run("logout").code == 0
    assert ok(admin.get(f"{person.path}/tokens"))["items"] == []


def test_logging_in_again_leaves_no_session_behind(remote: Terminal, admin: Client) -> None:
    person = make_person(admin)
    remote.logged_in(person.username, PASSWORD).logged_in(person.username, PASSWORD)
    assert len(ok(admin.get(f"{person.path}/tokens"))["items"]) == 1


def test_an_api_key_logs_in_by_itself(remote: Terminal, admin: Client) -> None:
    person = make_person(admin, "keyosk:accounts:read")
    _, secret = make_key(admin, person)
    (remote.home / "key").write_text(f"\ufeff{secret}\n")
    result = remote.run("login", "--secret-file", "key")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"Logged in at {remote.url} as {person.username}.\n"
    assert remote.run("account", "show", "me", "--json").code == 0
    assert "keyosk:accounts:write" in remote.run("account", "create", unique("by-key")).refused()


def test_a_wrong_secret_is_refused_and_told_nowhere(remote: Terminal, server: LiveServer) -> None:
    secret = "hidden words of nobody"
    refusal = remote.run("login", "--username", unique("nobody"), text=secret).refused()
    assert "not valid" in refusal
    assert secret not in refusal + server.log.read_text()
    assert not remote.file.exists()


@pytest.mark.parametrize("arguments", [("login",), ("logout",)])
def test_a_login_needs_a_server(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = Terminal(tmp_path, "").run(*arguments, text="x")
    assert (result.code, result.out) == (2, "")
    assert "--server" in result.err


def test_a_password_needs_its_username(remote: Terminal) -> None:
    assert remote.run("login", text="some password\n").code == 2


@pytest.mark.slow
def test_several_servers_are_kept_apart(
    remote: Terminal, server: LiveServer, prepared_url: str, tmp_path: Path
) -> None:
    remote.logged_in()
    folder = tmp_path / "second"
    folder.mkdir()
    with LiveServer(prepared_url, folder, key_publish_ahead="3600") as second:
        other = Terminal(tmp_path, second.url).logged_in()
        assert set(json.loads(remote.file.read_text())["servers"]) == {server.url, second.url}
        assert remote.run("account", "show", "admin").code == 0
        assert other.run("logout").code == 0
    assert set(json.loads(remote.file.read_text())["servers"]) == {server.url}
    assert remote.run("account", "show", "admin").code == 0


# --- The life of a login --------------------------------------------------------------------------


def test_an_expired_access_token_is_renewed_and_the_next_refresh_token_kept(
    remote: Terminal,
) -> None:
    before = remote.logged_in().stored_login()
    remote.change(expires_at=0)
    assert remote.run("account", "show", "admin").code == 0
    after = remote.stored_login()
    assert after["refresh_token"] != before["refresh_token"]
    assert after["expires_at"] > 0


def test_a_token_that_the_server_takes_no_more_is_renewed_before_its_end(remote: Terminal) -> None:
    remote.logged_in().change(access_token="eyJhbGciOiJFUzI1NiJ9.e30.AAAA")
    assert remote.run("account", "show", "admin").code == 0


@pytest.mark.slow
@pytest.mark.attack
def test_commands_at_once_refresh_once(remote: Terminal, server: LiveServer, admin: Client) -> None:
    person = make_person(admin, "keyosk:accounts:read")
    remote.logged_in(person.username, PASSWORD).change(expires_at=0)
    used = remote.stored_login()["refresh_token"]
    environment = {**os.environ, **remote.variables}

    def show(_: int) -> subprocess.CompletedProcess[str]:
        return execute(
            command("account", "show", person.username), env=environment, cwd=remote.home
        )

    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(show, range(4)):
            assert result.returncode == 0, result.stderr
    [session] = ok(admin.get(f"{person.path}/tokens"))["items"]
    # One use: had there been another, the one that is kept would follow after that.
    once = {"grant_type": "refresh_token", "refresh_token": used}
    repeated = server.client().post("/auth/token", data=once).json()
    assert repeated["refresh_token"] == remote.stored_login()["refresh_token"]
    assert ok(admin.get(f"{person.path}/tokens"))["items"][0]["id"] == session["id"]


def test_a_login_that_was_revoked_is_forgotten_and_told(remote: Terminal, admin: Client) -> None:
    person = make_person(admin, "keyosk:accounts:read")
    remote.logged_in(person.username, PASSWORD)
    ok(admin.delete(f"{person.path}/tokens"))
    refusal = remote.run("account", "list").refused()
    assert f"Your login at {remote.url} has ended" in refusal
    assert f"keyosk login --server {remote.url}" in refusal
    assert not remote.file.exists()


def test_a_server_that_is_away_costs_no_login(remote: Terminal) -> None:
    remote.logged_in().change(expires_at=0)
    kept = remote.file.read_text()
    nobody = f"http://127.0.0.1:{free_port()}"
    remote.file.write_text(kept.replace(remote.url, nobody))
    lost = Terminal(remote.home, nobody)
    before = lost.file.read_text()
    assert "cannot be reached" in lost.run("account", "list").refused()
    assert "cannot be reached" in lost.run("logout").refused()
    assert lost.file.read_text() == before
    assert lost.run("logout", "--forget").code == 0
    assert not lost.file.exists()


# --- The file -------------------------------------------------------------------------------------


@pytest.mark.attack
def test_a_file_that_others_can_read_or_replace_is_not_used(remote: Terminal) -> None:
    remote.logged_in()
    for mode in (0o640, 0o604, 0o660):
        remote.file.chmod(mode)
        assert "others may read it" in remote.run("account", "list").refused()
    remote.file.chmod(0o600)
    remote.change(expires_at=0)
    remote.file.parent.chmod(0o770)
    assert "Others may write to" in remote.run("account", "list").refused()
    remote.file.parent.chmod(0o700)
    assert remote.run("account", "show", "admin").code == 0


@pytest.mark.attack
def test_a_link_in_the_place_of_the_file_is_not_followed(remote: Terminal) -> None:
    remote.logged_in()
    remote.file.rename(remote.home / "elsewhere")
    remote.file.symlink_to(remote.home / "elsewhere")
    assert "logins.json" in remote.run("account", "list").refused()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"servers": 1}', '{"servers": {"x": {"username": "a"}}}', "\udcff"]
)
def test_a_damaged_file_is_told_and_not_repeated(remote: Terminal, text: str) -> None:
    remote.logged_in()
    remote.file.write_bytes(text.encode(errors="surrogateescape"))
    assert "is damaged: remove it and log in again" in remote.run("account", "list").refused()


def test_a_state_folder_of_no_absolute_path_is_none(server: LiveServer, tmp_path: Path) -> None:
    Terminal(tmp_path, server.url, XDG_STATE_HOME="state", HOME=str(tmp_path)).logged_in()
    assert (tmp_path / ".local" / "state" / "keyosk" / "logins.json").is_file()
    assert not (tmp_path / "state").exists()


# --- Which server ---------------------------------------------------------------------------------


@pytest.mark.attack
@pytest.mark.parametrize(
    "url",
    [
        *("http://keyosk.example.com", "http://10.0.0.1:8080", "http://127.0.0.1.example.com"),
        *("http://[2001:db8::1]/", "HTTP://keyosk.example.com"),
    ],
)
def test_nothing_goes_without_tls_to_another_machine(tmp_path: Path, url: str) -> None:
    user = Terminal(tmp_path, url)
    for arguments in (("account", "list"), ("login", "--username", "admin")):
        assert "use https" in user.run(*arguments, text="secret\n").refused()


def test_http_to_another_machine_is_for_those_who_say_so(tmp_path: Path) -> None:
    user = Terminal(tmp_path, "http://keyosk.invalid")
    assert "not logged in" in user.run("account", "list", "--allow-http").refused()


@pytest.mark.attack
def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    said = Terminal(tmp_path, "https://admin:hidden-word@keyosk.example.com").run("account", "list")
    assert "must not have a password in it" in said.refused()
    assert "hidden-word" not in said.err


@pytest.mark.parametrize(
    "url",
    ["keyosk.example.com", "ftp://x", "https://", "https://x/?a=b", "https://x/#a", "https://["],
)
def test_what_is_no_url_of_a_server_is_refused(tmp_path: Path, url: str) -> None:
    assert "named by its URL" in Terminal(tmp_path, url).run("account", "list").refused()


def test_the_command_line_wins_over_the_environment(server: LiveServer, tmp_path: Path) -> None:
    names = ("KEYOSK_DATABASE_URL", "KEYOSK_SECRET_KEY")
    lines = [f"{name}={server.environment[name]}\n" for name in names]
    (tmp_path / "here.env").write_text("".join(lines))
    user = Terminal(tmp_path, "https://keyosk.invalid")
    assert user.run("account", "show", "admin", "--config", "here.env").code == 0
    assert user.run("account", "list", "--config", "here.env", "--server", server.url).code == 2


MACHINE = (
    ("serve",),
    ("config", "check"),
    ("database", "upgrade"),
    ("database", "rewrap"),
    ("database", "backup", "copy.db"),
    ("database", "load", "copy.db"),
    ("database", "check"),
    ("token", "issue", "admin"),
    ("token", "inspect"),
    ("audit", "verify"),
    ("audit", "prune", "400"),
    ("signing-key", "export", "--x5c"),
)


@table("arguments", MACHINE, ids=" ".join)
def test_what_needs_the_machine_says_so(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    user = Terminal(tmp_path, "")
    said = user.run(*arguments, "--server", "https://keyosk.example.com").refused()
    assert f"keyosk {arguments[0]}" in said
    assert "needs the machine that has the database" in said
    assert list(tmp_path.iterdir()) == []


# --- The same words in both ways ------------------------------------------------------------------

#: Commands in their order, with what they read. NAME is another one for each way.
SAME: tuple[tuple[str, str], ...] = (
    ("service create NAME --scope NAME:read --scope NAME:write --title T", ""),
    ("service create NAME --typ JWT --signing-algorithm RS256 --accepts api_key", ""),
    ("service create NAME --token-lifetime 60", ""),
    ("service create NAME", ""),
    ("service list", ""),
    ("service show NAME", ""),
    ("service show no-such", ""),
    ("service show a/b", ""),
    ("service set NAME --accepts api_key --claim team --for spring", ""),
    ("service set NAME --reset title --json", ""),
    ("service set NAME --token-lifetime 1", ""),
    ("service scopes NAME NAME:read NAME:write NAME:share --json", ""),
    ("service exchange NAME keyosk", ""),
    ("role create NAME NAME:read --description D", ""),
    ("role create NAME no:such", ""),
    ("role list", ""),
    ("role scopes NAME NAME:read NAME:write", ""),
    ("account create NAME --grant NAME:read --expires-at 2099-01-31 --password --json", PASSWORD),
    ("account create NAME", ""),
    ("account create 'two words' --display-name \x07", ""),
    ("account create x-NAME --expires-at soon", ""),
    ("account show NAME", ""),
    ("account show import", ""),
    ("account show ''", ""),
    ("account show ..", ""),
    ("account show 李雷", ""),
    ("account disable NAME", ""),
    ("account enable NAME", ""),
    ("account password NAME", "short"),
    ("account password NAME", PASSWORD[::-1]),
    ("account disable no-such", ""),
    ("grant add NAME NAME:write --with password --until 2099-01-31", ""),
    ("grant add NAME NAME --role --json", ""),
    ("grant add NAME no:such", ""),
    ("grant list NAME", ""),
    ("grant remove NAME NAME:write", ""),
    ("grant list no-such", ""),
    ("api-key create NAME laptop --scope NAME:read --network 10.0.0.0/8 --json", ""),
    ("api-key create NAME laptop --scope no:such", ""),
    ("api-key list NAME", ""),
    ("api-key rotate NAME no-such", ""),
    ("api-key disable NAME ''", ""),
    ("token explain NAME --scope NAME:read", ""),
    ("token explain NAME --audience NAME --lifetime 60 --json", ""),
    ("token explain no-such", ""),
    ("token bad --service no-such", ""),
    ("signing-key list", ""),
    ("signing-key export", ""),
    ("signing-key export --jwk", ""),
    ("signing-key export --docker", ""),
    ("signing-key export no-such", ""),
    ("signing-key retire no-such", ""),
    ("signing-key compromise rotate", ""),
    ("signing-key import", "no key"),
    ("signing-key rotate --limit 1", ""),
    ("account import -", '{"username":"i-NAME"}\n{"username":"a b"}\n{"username":"i-NAME"}\n'),
    ("account import - --json --dry-run", '{"username":"j-NAME"}\n{\n'),
    ("account import - --on-conflict update", '{"username":"i-NAME","display_name":"I"}\n'),
    ("account export --query i-NAME", ""),
    ("account export --scope x --output out.jsonl", ""),
    ("apply --plan -", "roles:\n  - name: r-NAME\n    scopes: [NAME:read]\n"),
    ("apply - --json", "roles:\n  - name: r-NAME\n    scopes: [NAME:read]\n"),
    ("apply -", "roles:\n  - name: r-NAME\n    scopes: [NAME:read]\n"),
    ("apply -", "roles:\n  - name: r-NAME\n    scopes: [no:such]\n    colour: red\n"),
    ("apply -", "accounts:\n  - username: s-NAME\n    password: x\n"),
    ("apply -", "services:\n  - name: n-NAME\n    token_lifetime: 1.0e999\n"),
    ("audit list --action no.such", ""),
    ("account revoke-tokens NAME", ""),
    ("service delete no-such", ""),
    ("role delete NAME --force", ""),
    ("account delete NAME", ""),
    ("account delete NAME", ""),
    ("service delete NAME --force", ""),
)


@pytest.mark.slow
def test_commands_say_the_same_both_ways(server: LiveServer, admin: Client, tmp_path: Path) -> None:
    home, desk = tmp_path / "away", tmp_path / "desk"
    home.mkdir()
    desk.mkdir()
    ways = {
        "far": Terminal(home, server.url).logged_in(),
        "own": Terminal(desk, "", **server.environment),
    }
    stem = unique("same")
    for line, text in SAME:
        said = {}
        for way, user in ways.items():
            name = f"{stem}-{way}"
            words = [
                word.strip("'").replace("NAME", name) for word in re.findall(r"'[^']*'|\S+", line)
            ]
            result = user.run(*words, text=text.replace("NAME", name))
            said[way] = (result.code, plain(result.out, name), plain(result.err, name))
        listed = line.split()[1] == "list" and "NAME" not in line
        if listed:
            # What one way made the other lists as well.
            said = {way: (code, out.split("\n")[0], err) for way, (code, out, err) in said.items()}
        assert said["far"] == said["own"], line


def plain(text: str, name: str) -> str:
    """What was said, without what differs by chance."""
    text = text.replace(name, "NAME")
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}", "ID", text)
    text = re.sub(r"kysk_\w+", "KEY", text)
    text = re.sub(r'"(iat|exp|auth_time|size)": \d+', r'"\1": N', text)
    return re.sub(r"token of \d+ bytes", "token of N bytes", text)


def test_who_may_not_see_accounts_is_not_told_who_uses_it(remote: Terminal, admin: Client) -> None:
    name = make_service(admin)
    holder = make_person(admin, f"{name}:read")
    person = make_person(admin, "keyosk:services:write")
    said = remote.logged_in(person.username, PASSWORD).run("service", "delete", name).refused()
    assert "still granted to 1 account." in said
    assert said.endswith("Repeat with --force to remove it.\n")
    assert holder.username not in said


def test_ones_own_password_is_changed_with_the_current_one(remote: Terminal, admin: Client) -> None:
    person = make_person(admin)
    remote.logged_in(person.username, PASSWORD)
    new = PASSWORD[::-1]
    said = remote.run("account", "password", "me", text=f"{new}\nnot the current one\n").refused()
    assert "The current password is wrong" in said
    assert remote.run("account", "password", "me", text=f"{new}\n{PASSWORD}\n").code == 0
    assert person.login(new).post("/auth/token").status_code == 200
    remote.logged_in(person.username, new)
    created = remote.run("api-key", "create", "me", "laptop", "--json", text=f"{new}\n")
    assert created.code == 0, created.err
    assert json.loads(created.out)["secret"].startswith("kysk_")


@pytest.mark.attack
def test_the_kit_is_made_for_a_service_of_a_server(remote: Terminal, admin: Client) -> None:
    name = make_service(admin, typ="JWT")
    remote.logged_in()
    assert remote.run("token", "bad", "--service", name, "--out", "kit").code == 0
    tokens = json.loads((remote.home / "kit" / "tokens.json").read_text())
    assert [token["name"] for token in tokens if token["good"]] == ["good"]


# --- Servers that are not what they should be -----------------------------------------------------

Response = tuple[int, Mapping[str, str], bytes]


@contextmanager
def answering(
    response: Callable[[BaseHTTPRequestHandler], Response | None],
    context: ssl.SSLContext | None = None,
) -> Iterator[str]:
    """A server that answers whatever it likes; ``None``: it hangs up."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = response(self)
            self.close_connection = True
            if answer is None:
                return
            status, headers, body = answer
            self.send_response(status)
            own = {"Content-Length": str(len(body)), "Connection": "close"}
            for name, value in {**own, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Clients leave in the middle here."""

    listening = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
    threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
    try:
        scheme = "http" if context is None else "https"
        yield f"{scheme}://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()


def with_token(home: Path, url: str, **variables: str) -> Terminal:
    """A user with a login at a server that gave none."""
    user = Terminal(home, url, **variables)
    user.file.parent.mkdir(parents=True, mode=0o700)
    login = {"username": "x", "access_token": "aaaa", "expires_at": 1 << 40, "refresh_token": None}
    user.file.write_text(json.dumps({"servers": {url: login}}))
    user.file.chmod(0o600)
    return user


JSON = {"Content-Type": "application/json"}
PROBLEM = {"Content-Type": "application/problem+json"}
STRANGE = "does not respond as Keyosk does"
RESPONSES: tuple[tuple[str, Response, str], ...] = (
    ("html", (200, {"Content-Type": "text/html"}, b"<html>"), STRANGE),
    ("gateway", (502, {"Content-Type": "text/html"}, b"<html>"), STRANGE),
    ("no-json", (200, JSON, b"{"), STRANGE),
    ("list", (200, JSON, b"[]"), STRANGE),
    ("items", (200, JSON, b'{"items": [1], "next": null}'), STRANGE),
    ("next", (200, JSON, b'{"items": [], "next": 1}'), STRANGE),
    ("endless", (200, JSON, b'{"items": [], "next": "again"}'), STRANGE),
    ("deep", (200, JSON, b'{"a":' + b"[" * 100_000), STRANGE),
    ("problem", (403, PROBLEM, b'{"detail": 1, "code": "x"}'), STRANGE),
    ("redirect", (302, {"Location": "https://elsewhere.example/"}, b""), "elsewhere.example"),
    ("cut", (200, {**JSON, "Content-Length": "100"}, b"{"), "broke"),
)


@pytest.mark.attack
@pytest.mark.parametrize(
    ("response", "reason"), [row[1:] for row in RESPONSES], ids=[row[0] for row in RESPONSES]
)
def test_answers_not_of_keyosk_are_told_so(tmp_path: Path, response: Response, reason: str) -> None:
    with answering(lambda _: response) as url:
        assert reason in with_token(tmp_path, url).run("account", "list").refused()


def test_a_connection_that_ends_is_told_in_one_sentence(tmp_path: Path) -> None:
    with answering(lambda _: None) as url:
        assert "broke" in with_token(tmp_path, url).run("account", "list").refused()


@pytest.mark.attack
def test_a_redirect_is_not_followed_with_the_token(tmp_path: Path) -> None:
    seen: list[str] = []

    def other(request: BaseHTTPRequestHandler) -> Response:
        seen.append(request.headers.get("Authorization", ""))
        return 200, JSON, b'{"items": [], "next": null}'

    with (
        answering(other) as elsewhere,
        answering(lambda _: (307, {"Location": f"{elsewhere}/accounts"}, b"")) as url,
    ):
        assert elsewhere in with_token(tmp_path, url).run("account", "list").refused()
    assert seen == []


@pytest.mark.attack
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_terminal_obeys_what_a_server_answers(tmp_path: Path, form: tuple[str, ...]) -> None:
    evil = f"a{ESCAPE}b\x9b2Jc\u202ed\x7f\r"
    item = {"username": evil, "kind": [evil], evil: evil, "id": {"x": evil}}
    responses: list[Response] = [
        (200, JSON, json.dumps({"items": [item], "next": None}).encode()),
        (200, JSON, json.dumps(item, ensure_ascii=False).encode()),
        (403, PROBLEM, json.dumps({"detail": evil, "code": "forbidden"}).encode()),
        (
            422,
            PROBLEM,
            json.dumps(
                {"detail": "", "code": "invalid", "errors": [{"field": evil, "message": evil}]}
            ).encode(),
        ),
        (302, {"Location": "https://x.example/\x9b2J"}, b""),
    ]
    home = tmp_path

    def respond(_: BaseHTTPRequestHandler) -> Response:
        return responses[number]

    for number in range(len(responses)):
        home = tmp_path / str(number)
        home.mkdir()
        with answering(respond) as url:
            user = with_token(home, url)
            for arguments in (("account", "list"), ("account", "show", "x")):
                result = user.run(*arguments, *form)
                said = result.out + result.err
                assert said
                assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said), repr(said)


@pytest.mark.attack
def test_an_answer_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    size = 65 * 1024 * 1024
    with answering(lambda _: (200, JSON, b" " * size)) as url:
        said = with_token(tmp_path, url).run("account", "list").refused()
    assert "larger than any" in said


def test_nobody_there_is_told(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert "Connection refused" in with_token(tmp_path, url).run("account", "list").refused()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A certificate of its own authority for 127.0.0.1, and the file to trust it by."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keyosk test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = folder / "key.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    return context, pem


@pytest.mark.attack
def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(
    tmp_path: Path, authority: tuple[ssl.SSLContext, Path]
) -> None:
    context, pem = authority
    seen: list[str] = []

    def respond(request: BaseHTTPRequestHandler) -> Response:
        seen.append(request.headers.get("Authorization", ""))
        return 200, JSON, b'{"items": [], "next": null}'

    with answering(respond, context) as url:
        user = with_token(tmp_path, url)
        said = user.run("account", "list").refused()
        assert "certificate that is not trusted here" in said
        assert "SSL_CERT_FILE" in said
        said = user.run("login", "--username", "admin", text="a secret\n").refused()
        assert "certificate that is not trusted here" in said
        assert seen == []
        user.variables["SSL_CERT_FILE"] = str(pem)
        result = user.run("account", "list", "--json")
        assert (result.code, result.err) == (0, "")
        assert seen == ["Bearer aaaa"]
    with answering(respond) as url:
        result = Terminal(tmp_path, url.replace("http://", "https://")).run(
            "login", "--username", "admin", text="a secret\n"
        )
        assert "TLS with " in result.refused()


@pytest.mark.attack
@pytest.mark.parametrize(
    "body",
    [
        b'{"access_token": "a\\r\\nX: y", "token_type": "Bearer", "expires_in": 900}',
        b'{"access_token": "", "expires_in": 900}',
        b'{"access_token": "a", "expires_in": "900"}',
        b'{"access_token": "a", "expires_in": true}',
        b'{"access_token": "a", "expires_in": 900, "refresh_token": 1}',
        b"{}",
    ],
)
def test_what_is_no_token_is_not_kept(tmp_path: Path, body: bytes) -> None:
    with answering(lambda _: (200, JSON, body)) as url:
        user = Terminal(tmp_path, url)
        said = user.run("login", "--username", "admin", text="a secret\n").refused()
    assert "tokens that are not Keyosk's" in said
    assert not user.file.exists()


# --- What it costs --------------------------------------------------------------------------------

#: What --version, --help and completion may import besides Python and what Python itself brings.
LIGHT = {
    *("click", "keyosk", "keyosk.__main__", "keyosk.checks", "keyosk.errors"),
    *("keyosk.small_files", "keyosk.strict_json", "keyosk.times", "keyosk.whitespace"),
    *("keyosk.permissions", "keyosk.permissions.verifier_presets"),
    *("keyosk.workloads", "keyosk.workloads.claims", "keyosk.workloads.presets"),
}
LIGHT_BELOW = ("click.", "keyosk.cli", "keyosk.model")
HEAVY = {f"keyosk.cli.{name}" for name in ("client", "documents", "local", "machine", "remote")} | {
    "keyosk.cli.service_check",
    "keyosk.cli.api_key_search",
    "keyosk.cli.diagnosis",
    "keyosk.cli.diagnosis_of_server",
    "keyosk.cli.serving",
    "keyosk.cli.tables",
}
#: The libraries that a server imports before it serves.
OF_A_START = {
    *("keyosk", "click", "gunicorn", "httptools", "uuid_utils", "precis_i18n"),
    *("flask", "flask_restful", "werkzeug", "jinja2", "markupsafe", "itsdangerous", "blinker"),
    "greenlet",  # requests of the event loop wait in them
    *("marshmallow", "peewee", "playhouse", "cython_runtime", "jwt", "argon2", "pyotp"),
    *("cryptography", "bcrypt"),  # which imports the other where it is there
}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        *((group, "--help") for group in ("account", "token", "signing-key", "apply", "database")),
        ("account", "import", "--help"),
        (),
    ],
    ids=lambda words: " ".join(words) or "completion",
)
@pytest.mark.slow
def test_help_and_completion_import_nothing_big(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    script = (
        "import sys\n"
        "from keyosk.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(sorted(sys.modules)), file=sys.stderr)\n"
    )
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    if not arguments:
        environment |= {
            "_KEYOSK_COMPLETE": "bash_complete",
            "COMP_WORDS": "keyosk account cr",
            "COMP_CWORD": "2",
        }
    result = execute([sys.executable, "-c", script, *arguments], cwd=tmp_path, env=environment)
    assert result.stdout
    site = {
        name
        for name in result.stderr.splitlines()
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("_")
    }
    surprising = {
        name for name in site - LIGHT if name in HEAVY or not name.startswith(LIGHT_BELOW)
    }
    assert surprising <= STARTUP, sorted(surprising - STARTUP)


@pytest.mark.slow
def test_a_server_imports_no_client_and_few_libraries() -> None:
    """Nine tenths of a start is imports; what only some request needs comes with that request."""
    script = "import sys, keyosk.cli.serving; print('\\n'.join(sys.modules))"
    result = execute([sys.executable, "-c", script], check=True)
    imported = set(result.stdout.split())
    assert "keyosk.server" in imported
    assert "keyosk.cli.client" not in imported
    libraries = {name.partition(".")[0] for name in imported - STARTUP}
    public = {name for name in libraries if not name.startswith("_")}
    assert public - sys.stdlib_module_names <= OF_A_START


@pytest.mark.slow
def test_the_driver_of_postgresql_is_imported_only_for_postgresql() -> None:
    """peewee imports each driver that is installed, and this one takes 11 MiB of each process."""
    script = (
        "import sys, keyosk.app, keyosk.cli.serving\n"
        "from keyosk.storage.database import Database\n"
        "Database('sqlite:///keyosk.db')\n"
        "print('psycopg' in sys.modules)\n"
        "Database('postgresql://127.0.0.1:1/keyosk')\n"
        "print('psycopg' in sys.modules)\n"
    )
    result = execute([sys.executable, "-c", script], check=True)
    assert result.stdout.split() == ["False", "True"]


def test_imports_have_the_words_of_the_api() -> None:
    assert tuple(Status) == STATUSES
    assert set(FAILED) == records.FAILED
    assert tuple(OnConflict) == CONFLICTS


def _startup() -> set[str]:
    """What every Python of this environment imports, such as for coverage or editable installs."""
    result = execute([sys.executable, "-c", "import sys; print('\\n'.join(sys.modules))"])
    return set(result.stdout.split())


STARTUP = _startup()
