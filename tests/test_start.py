"""The first start, on the wrong place as well: nothing is made or told that should not be."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import processes
from live import ADMIN_PASSWORD, LiveServer, command, environment, free_port

pytestmark = [pytest.mark.every_database, pytest.mark.slow]

#: A generated password, which stands alone on its line.
PASSWORD = re.compile(r"^    ((?:[a-z2-9]{5}-){5}[a-z2-9]{5})$", re.MULTILINE)


def run(folder: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """A keyosk command with no settings but those given, in a folder."""
    result = processes.run(*arguments, cwd=folder, env=environment(**settings))
    return subprocess.CompletedProcess(
        arguments, result.returncode, result.stdout.decode(), result.stderr.decode()
    )


def refusal(result: "subprocess.CompletedProcess[str]") -> str:
    """The sentences of a command that refused, and told nothing else."""
    assert (result.returncode, result.stdout) == (1, ""), (result.stdout, result.stderr)
    assert all(line.startswith("keyosk: ") for line in result.stderr.splitlines()), result.stderr
    return result.stderr


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for what locks and SQLite leave beside a database."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".lock", ".db-wal", ".db-shm")
    }


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# --- the port -------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["bind", "metrics_bind"])
def test_a_first_start_whose_port_is_taken_tells_no_password_and_makes_nothing(
    tmp_path: Path, taken: int, which: str
) -> None:
    settings = {"bind": f"127.0.0.1:{free_port()}", "metrics_bind": "off"}
    said = refusal(run(tmp_path, "serve", **settings | {which: f"127.0.0.1:{taken}"}))
    assert f"KEYOSK_{which.upper()}" in said
    assert "Address already in use" in said
    assert list(tmp_path.iterdir()) == []


def test_a_first_start_whose_port_is_taken_leaves_an_empty_database_empty(
    database_url: str, tmp_path: Path, taken: int
) -> None:
    settings = {"database_url": database_url, "secret_key": "x" * 43, "metrics_bind": "off"}
    refusal(run(tmp_path, "serve", bind=f"127.0.0.1:{taken}", **settings))
    assert "not set up" in refusal(run(tmp_path, "account", "list", **settings))


def test_the_password_is_told_once_the_port_is_taken_by_keyosk_itself(tmp_path: Path) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path, admin_password="")
    with server:
        [password] = PASSWORD.findall(server.log.read_text())
        assert server.client("admin", password).post("/auth/token").status_code == 200
    # The second of two first starts on one port tells nothing.
    with server:
        second = tmp_path / "second"
        second.mkdir()
        refusal(run(second, "serve", bind=f"127.0.0.1:{server.port}", metrics_bind="off"))
        assert list(second.iterdir()) == []


def test_an_upgrade_prints_no_line_that_sends_the_password_out(tmp_path: Path, taken: int) -> None:
    result = run(tmp_path, "database", "upgrade", "--create", bind=f"127.0.0.1:{taken}")
    assert result.returncode == 0, result.stderr
    [password] = PASSWORD.findall(result.stdout)
    assert result.stdout.count(password) == 1
    assert "curl" not in result.stdout


def test_a_password_that_could_not_be_printed_is_told_of(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        arguments = ("database", "upgrade", "--create")
        result = processes.run(*arguments, cwd=tmp_path, env=environment(), stdout=full.fileno())
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
    assert b"keyosk account password admin" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("is_given", [True, False], ids=["given", "made"])
@pytest.mark.parametrize("after", [">/dev/full", ">&-"])
def test_a_server_tells_of_a_password_that_it_could_not_print(
    tmp_path: Path, after: str, *, is_given: bool
) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path)
    if not is_given:
        del server.environment["KEYOSK_ADMIN_PASSWORD"]
    server.program = ("bash", "-c", f'exec "$@" {after}', "bash", *command())
    with server:
        log = server.log.read_text()
        told = "The password of admin was made and cannot be printed" in log
        assert told is not is_given
        assert ("keyosk account password admin" in log) is told
        assert "Traceback" not in log


# --- the secret key -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SQLite database that was set up, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    result = run(folder, "database", "upgrade", database_url=f"sqlite:///{folder / 'keyosk.db'}")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def original(made: Path, tmp_path: Path) -> Path:
    """A SQLite database that was set up, in a folder of its own."""
    return Path(shutil.copytree(made, tmp_path / "original")) / "keyosk.db"


def copied(original: Path, target: Path) -> None:
    shutil.copy(original, target)


def renamed(original: Path, target: Path) -> None:
    original.rename(target)


def hard_linked(original: Path, target: Path) -> None:
    target.hardlink_to(original)


@pytest.mark.parametrize("put", [copied, renamed, hard_linked])
def test_a_database_without_its_key_gets_no_other(original: Path, tmp_path: Path, put: Any) -> None:
    place = tmp_path / "other" / "auth.db"
    place.parent.mkdir()
    put(original, place)
    before = tree(tmp_path)
    settings = {
        "database_url": f"sqlite:///{place}",
        "bind": f"127.0.0.1:{free_port()}",
        "metrics_bind": "off",
    }
    for arguments in (("serve",), ("database", "upgrade"), ("account", "list")):
        said = refusal(run(tmp_path, *arguments, **settings))
        assert f"{place}.secret" in said
        assert "KEYOSK_SECRET_KEY" in said
        assert tree(tmp_path) == before
    # What it says is what helps.
    shutil.copy(f"{original}.secret", f"{place}.secret")
    assert run(tmp_path, "account", "list", **settings).returncode == 0


def test_a_database_of_a_deleted_secret_key_gets_no_other(original: Path, tmp_path: Path) -> None:
    Path(f"{original}.secret").unlink()
    before = tree(tmp_path)
    settings = {"database_url": f"sqlite:///{original}"}
    assert f"{original}.secret" in refusal(run(tmp_path, "database", "upgrade", **settings))
    assert tree(tmp_path) == before


def test_a_hard_link_to_a_database_not_written_back_is_not_a_new_one(tmp_path: Path) -> None:
    with LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path, secret_key="") as server:
        other = tmp_path / "other.db"
        other.hardlink_to(tmp_path / "keyosk.db")
        said = refusal(
            run(
                tmp_path,
                *("database", "upgrade"),
                database_url=f"sqlite:///{other}",
                bind=f"127.0.0.1:{free_port()}",
            )
        )
        assert "link" in said
        assert not Path(f"{other}.secret").exists()
        assert server.client().get("/auth/jwks").status_code == 200


def test_a_symbolic_link_to_a_database_finds_its_secret_key(original: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(original)
    result = run(tmp_path, "database", "upgrade", database_url=f"sqlite:///{link}")
    assert (result.returncode, result.stderr) == (0, "")
    assert not Path(f"{link}.secret").exists()
    # And of two names for one new database, either will do later.
    target, name = tmp_path / "new" / "real.db", tmp_path / "name.db"
    target.parent.mkdir()
    name.symlink_to(target)
    for place in (name, target, name):
        result = run(tmp_path, "database", "upgrade", database_url=f"sqlite:///{place}")
        assert result.returncode == 0, result.stderr


def test_a_secret_key_behind_a_broken_link_is_not_replaced(tmp_path: Path) -> None:
    secret = tmp_path / "keyosk.db.secret"
    secret.symlink_to(tmp_path / "not-mounted")
    said = refusal(
        run(tmp_path, "database", "upgrade", database_url=f"sqlite:///{tmp_path / 'keyosk.db'}")
    )
    assert str(secret) in said
    assert secret.is_symlink()
    assert not secret.exists()


# --- the settings ---------------------------------------------------------------------------------


def test_a_command_without_settings_names_the_place_and_makes_none(tmp_path: Path) -> None:
    place = tmp_path / "data" / "keyosk.db"
    said = refusal(run(tmp_path, "account", "list"))
    assert str(place) in said
    assert "--config" in said
    # Whoever now only wants it to go away does not get an installation beside the real one.
    said = refusal(run(tmp_path, "database", "upgrade"))
    assert str(place) in said
    assert "--create" in said
    assert list(tmp_path.iterdir()) == []
    result = run(tmp_path, "database", "upgrade", "--create")
    assert result.returncode == 0
    assert place.exists()
    assert str(place) in result.stderr
    assert run(tmp_path, "account", "list").returncode == 0


def test_a_database_that_settings_name_is_made_and_told(database_url: str, tmp_path: Path) -> None:
    settings = {"database_url": database_url, "secret_key": "x" * 43}
    said = refusal(run(tmp_path, "account", "list", **settings))
    named = database_url.rpartition("/")[2]
    assert named in said
    assert "password" not in said
    result = run(tmp_path, "database", "upgrade", **settings)
    assert result.returncode == 0, result.stderr
    assert named in result.stderr
    assert run(tmp_path, "database", "upgrade", **settings).stderr == ""


TOML = 'database_url = "sqlite:///{place}"\ntoken_lifetime = 300\n'
ENVIRONMENT_FILE = """\
# What systemd's EnvironmentFile= takes.
; and this

PATH=/nowhere
KEYOSK_DATABASE_URL="sqlite:///{place}"
KEYOSK_TOKEN_LIFETIME=300
export KEYOSK_ADMIN_USERNAME='root'
"""


@pytest.mark.parametrize(
    ("name", "text"), [("keyosk.toml", TOML), ("keyosk.env", ENVIRONMENT_FILE)]
)
def test_every_command_takes_the_settings_of_a_file_before_and_behind_its_name(
    tmp_path: Path, name: str, text: str
) -> None:
    settings, place, elsewhere = tmp_path / name, tmp_path / "real.db", tmp_path / "elsewhere"
    settings.write_text(text.format(place=place))
    elsewhere.mkdir()
    for arguments in (
        ("database", "upgrade", "--config", str(settings)),
        ("--config", str(settings), "account", "list"),
        ("account", "list", "--config", str(settings)),
        ("account", "--config", str(settings), "list"),
    ):
        result = run(elsewhere, *arguments)
        assert result.returncode == 0, result.stderr
    assert place.exists()
    assert list(elsewhere.iterdir()) == []
    shown = run(elsewhere, "config", "check", "--config", str(settings)).stdout
    assert re.search(rf"^KEYOSK_TOKEN_LIFETIME +300 +file {settings}$", shown, re.MULTILINE)
    # The environment still wins, and the option wins over KEYOSK_CONFIG.
    shown = run(
        elsewhere,
        "config",
        "check",
        "--config",
        str(settings),
        token_lifetime="60",
        config=str(tmp_path / "no-such.toml"),
    ).stdout
    assert re.search(r"^KEYOSK_TOKEN_LIFETIME +60 +environment$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("KEYOSK_TOKEN_LIFETIM=300", "did you mean KEYOSK_TOKEN_LIFETIME?"),
        ("KEYOSK_TOKEN_LIFETIME", "line 1 is not NAME=VALUE"),
        ('KEYOSK_SECRET_KEY="hidden-word', "line 1 has a quotation mark without its other one"),
        ("KEYOSK_TOKEN_LIFETIME=300\nKEYOSK_TOKEN_LIFETIME=60", "KEYOSK_TOKEN_LIFETIME is given"),
    ],
)
def test_a_broken_environment_file_is_refused_without_what_it_holds(
    tmp_path: Path, line: str, fault: str
) -> None:
    settings = tmp_path / "keyosk.env"
    settings.write_text(line + "\n")
    said = refusal(run(tmp_path, "config", "check", "--config", str(settings)))
    assert fault in said
    assert str(settings) in said
    assert "hidden-word" not in said


def test_an_environment_file_may_name_the_toml_file(tmp_path: Path) -> None:
    (tmp_path / "keyosk.env").write_text(
        f"KEYOSK_CONFIG={tmp_path / 'keyosk.toml'}\nKEYOSK_TOKEN_LIFETIME=300\n"
    )
    (tmp_path / "keyosk.toml").write_text("token_lifetime = 60\nthreads = 3\n")
    shown = run(tmp_path, "config", "check", "--config", str(tmp_path / "keyosk.env")).stdout
    assert re.search(r"^KEYOSK_TOKEN_LIFETIME +300 ", shown, re.MULTILINE)
    assert re.search(r"^KEYOSK_THREADS +3 ", shown, re.MULTILINE)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a process namespace")
def test_the_first_process_of_a_container_stops_while_it_still_starts(tmp_path: Path) -> None:
    """The kernel gives it no signal that it has no handler for."""
    (tmp_path / "keyosk.db").touch(mode=0o600)
    settings = environment(
        database_url=f"sqlite:///{tmp_path}/keyosk.db",
        bind=f"127.0.0.1:{free_port()}",
        metrics_bind="off",
    )
    container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with (tmp_path / "keyosk.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that it waits for another that sets up
        started = subprocess.Popen([*container, *command("serve")], env=settings, cwd=tmp_path)
        try:
            waiting_for(tmp_path / "keyosk.db.lock", started.pid).terminate()
            assert started.wait(60) == 128 + signal.SIGTERM
        finally:
            started.kill()
            started.wait()


def waiting_for(lock: Path, above: int) -> psutil.Process:
    """The process below another one that has opened a lock file."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in psutil.Process(above).children():
            with suppress(psutil.Error):
                if str(lock) in {each.path for each in process.open_files()}:
                    return process
        time.sleep(0.05)
    raise AssertionError("it does not start")


# --- What it imports ------------------------------------------------------------------------------

#: What "-X importtime" writes for each module, when it has been imported.
IMPORTED = re.compile(r"^import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)
#: Modules of Keyosk that few requests need.
LATER = ("keyosk.cli.client", "keyosk.web.openapi", "keyosk.metrics.exposition")


def test_a_start_imports_what_every_server_needs_and_that_before_the_workers(
    own_server: LiveServer,
) -> None:
    """Nine tenths of a start is imports; what each worker imports takes memory in each."""
    own_server.program = (sys.executable, "-X", "importtime", "-m", "keyosk")
    with own_server as server:
        api_key = json.loads(server.run("api-key", "create", "admin", "first", "--json").stdout)
        for secret in (api_key["secret"], ADMIN_PASSWORD):
            assert server.client("admin", secret).post("/auth/token").status_code == 200
    before, _, after = server.log.read_text().partition("Booting worker")
    imported = set(IMPORTED.findall(before))
    assert "keyosk.web.token" in imported
    assert {name for name in imported if name.startswith(LATER)} == set()
    assert IMPORTED.findall(after) == []
