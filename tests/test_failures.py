"""What a user can cause is told in one sentence: the cause and what to do, never a traceback.

Each situation is made for real, and met by the program as it is installed.
"""

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest

import live
import processes
from live import LiveServer, free_port
from test_outages import fill, small_disk

pytestmark = pytest.mark.slow

PROGRAM = (sys.executable, "-m", "keyosk")
#: Root reads and writes everything; without these it is held to permissions like anybody.
_CAPABILITIES = "-dac_override,-dac_read_search"
UNPRIVILEGED = (
    ("setpriv", f"--bounding-set={_CAPABILITIES}", f"--inh-caps={_CAPABILITIES}")
    if os.geteuid() == 0
    else ()
)


def run(
    folder: Path,
    *arguments: str,
    before: Sequence[str] = (),
    text: bytes = b"",
    limit: Callable[[], object] | None = None,
    environment: Mapping[str, str] = {},
    stdout: int | None = None,
    program: Sequence[str] = (),
    **settings: str,
) -> "subprocess.CompletedProcess[bytes]":
    """The program with the given settings and no others, behind another program if need be.

    It is started where its start matters: what Python reads then, a limit, another program.
    """
    env = {**live.environment(**settings), **environment}
    of_start = any(name.startswith(("PYTHON", "LC_")) for name in environment)
    if not (of_start or limit or program or before[:1] in (("bash",), ("env",))):
        return processes.run(
            *arguments, cwd=folder, env=env, text=text, stdout=stdout, before=before
        )
    return subprocess.run(
        [*before, *(program or PROGRAM), *arguments],
        cwd=folder,
        env=env,
        input=text,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        preexec_fn=limit,
    )


def sentence(result: "subprocess.CompletedProcess[bytes]") -> str:
    """The one sentence that a command that failed said."""
    said = result.stderr.decode()
    assert result.returncode == 1, (result.returncode, said)
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    (line,) = said.splitlines()
    assert line.startswith("keyosk: ")
    return line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that was set up, with a service, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    assert run(folder, "database", "upgrade", "--create").returncode == 0
    assert run(folder, "service", "create", "todo", "--scope", "todo:read").returncode == 0
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A folder with such a database, at its default place."""
    folder = tmp_path / "place"
    shutil.copytree(made, folder)
    return folder


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk without room."""
    with small_disk(tmp_path / "full", 1) as disk:
        fill(disk)
        yield disk


# --- Where files are to be written ----------------------------------------------------------------

WRITERS = (
    ("account", "export", "--output"),
    ("token", "bad", "--service", "todo", "--out"),
    ("database", "backup"),
)
writers = pytest.mark.parametrize("command", WRITERS, ids=lambda words: " ".join(words[:2]))


@writers
def test_a_full_disk_is_told_and_nothing_half_written_stays(
    place: Path, full: Path, command: tuple[str, ...]
) -> None:
    said = sentence(run(place, *command, str(full / "new")))
    assert "No space left on device" in said or "disk is full" in said
    assert [path.name for path in full.iterdir()] == ["filler"]


def test_a_disk_that_is_full_before_the_first_start_is_told(full: Path) -> None:
    (full / "filler").write_bytes(bytes(900 * 1024))  # room for a file, not for its tables
    assert "disk is full" in sentence(run(full, "database", "upgrade", "--create"))


def test_a_file_that_could_not_be_written_anew_is_as_it_was(place: Path, full: Path) -> None:
    (full / "filler").unlink()
    old = full / "accounts.jsonl"
    old.write_text("what was there before\n")
    fill(full)
    assert "No space left" in sentence(run(place, "account", "export", "--output", str(old)))
    assert old.read_text() == "what was there before\n"


def test_a_limit_of_file_sizes_is_told_and_nothing_half_written_stays(place: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    target = place / "new"
    for command in WRITERS[:2]:
        run(place, *command, str(target), limit=limit)
        assert not target.exists()


@writers
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("a-file/new", "Not a directory"),
        ("locked/new", "Permission denied"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_told(
    place: Path, command: tuple[str, ...], target: str, reason: str
) -> None:
    (place / "a-file").touch()
    (place / "locked").mkdir(mode=0o500)
    assert reason in sentence(run(place, *command, target, before=UNPRIVILEGED))


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file of another user")
def test_a_database_of_another_user_is_told_with_both_names(place: Path) -> None:
    # As after a restore by root, which Keyosk cannot open.
    run(place, "database", "upgrade")
    os.chown(place / "data" / "keyosk.db", 65_533, 65_533)
    for command in (("account", "list"), ("database", "upgrade")):
        said = sentence(run(place, *command, before=UNPRIVILEGED))
        assert "keyosk.db: it belongs to user 65533, and Keyosk runs as root." in said


def test_a_folder_that_exists_is_left_alone(place: Path) -> None:
    (place / "kit").mkdir()
    said = sentence(run(place, "token", "bad", "--service", "todo", "--out", "kit"))
    assert "kit: File exists" in said
    assert (place / "kit").is_dir()


def test_a_written_file_is_whole_and_replaces_only_files(place: Path) -> None:
    target = place / "accounts.jsonl"
    target.write_text("old\n" * 10_000)
    target.chmod(0o640)
    link = place / "link"
    link.symlink_to(target)
    assert run(place, "account", "export", "--output", str(link)).returncode == 0
    assert [json.loads(line)["username"] for line in target.read_text().splitlines()] == ["admin"]
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    result = run(place, "account", "export", "--output", "/dev/stdout")
    assert (result.returncode, result.stdout) == (0, target.read_bytes())
    assert Path("/dev/stdout").is_symlink()
    assert run(place, "account", "export", "--output", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()
    fresh = place / "fresh"
    assert run(place, "account", "export", "--output", str(fresh)).returncode == 0
    assert fresh.stat().st_mode & 0o777 == 0o600


# --- Standard input and output --------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [("account", "list"), ("account", "export"), ("config", "check"), ("--help",)]
)
def test_standard_output_without_room_is_told(place: Path, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as nowhere:
        said = sentence(run(place, *command, stdout=nowhere.fileno()))
    assert "No space left on device" in said


@pytest.mark.parametrize("command", [("account", "export"), ("config", "check"), ("--help",)])
def test_a_reader_that_left_is_no_reason_to_complain(place: Path, command: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        result = run(place, *command, stdout=write)
    finally:
        os.close(write)
    assert (result.returncode, result.stderr) == (1, b"")


def test_closed_streams_are_no_fault_of_keyosk(place: Path) -> None:
    def close_all() -> None:
        os.close(0)
        os.close(1)

    assert "password" in sentence(run(place, "account", "password", "admin", limit=close_all))


@pytest.mark.parametrize(
    "command",
    [
        ("account", "password", "admin"),
        ("account", "create", "alice", "--password"),
        ("signing-key", "import"),
        ("token", "inspect"),
        ("account", "import", "-"),
        ("apply", "-"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("locale", ["C"])
def test_input_that_is_not_utf_8_is_refused_without_a_word_of_it(
    place: Path, command: tuple[str, ...], locale: str
) -> None:
    text = b"rosebud \xff\xfe rosebud rosebud rosebud\n"
    result = run(place, *command, text=text, environment={"LC_ALL": locale})
    said = result.stderr.decode()
    assert result.returncode == 1
    assert "UTF-8" in said
    assert "Traceback" not in said
    assert "rosebud" not in said


@pytest.mark.parametrize("environment", [{}, {"PYTHONIOENCODING": "ascii"}], ids=["utf-8", "ascii"])
def test_a_name_that_the_terminal_cannot_show_is_shown_as_well_as_it_can(
    place: Path, environment: dict[str, str]
) -> None:
    name = "李雷 😀"
    assert run(place, "account", "create", "li", "--display-name", name).returncode == 0
    shown = run(place, "account", "show", "li", "--json", environment=environment)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["display_name"] == name
    assert run(place, "account", "show", "li", environment=environment).returncode == 0
    exported = run(place, "account", "export", environment=environment)
    assert exported.returncode == 0, exported.stderr
    assert name in [json.loads(line)["display_name"] for line in exported.stdout.splitlines()]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_arguments_that_are_no_text_are_used_wrongly(place: Path, locale: str) -> None:
    result = subprocess.run(
        [*map(str.encode, PROGRAM), b"account", b"show", b"\xff\xfe"],
        cwd=place,
        env={"PATH": os.environ["PATH"], "LC_ALL": locale},
        capture_output=True,
        timeout=60,
    )
    assert result.returncode in (1, 2)
    assert b"Traceback" not in result.stderr


def unread(pipe: IO[bytes]) -> int:
    """How many bytes that were written to a pipe nobody has read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_an_interrupt_is_no_traceback(place: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "account", "import", "-"],
        cwd=place,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Shells have programs that they start in the background ignore it, tests too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stdin is not None
    process.stdin.write(b'{"username": "early"}\n')
    process.stdin.flush()
    deadline = time.monotonic() + 60  # until it reads
    wchan = Path(f"/proc/{process.pid}/wchan")
    while unread(process.stdin) or "pipe" not in wchan.read_text():  # it waits for the next line
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"Traceback" not in said


# --- Places of the database and of settings -------------------------------------------------------

REFUSED_PLACES = {
    "a folder that may not be entered": "locked/keyosk.db",
    "a folder that may not be written to": "readable/keyosk.db",
    "a file in the place of the folder": "a-file/keyosk.db",
    "a folder in the place of the file": "folder",
    "a name that is too long": "x" * 300,
    "a circle of links": "circle/keyosk.db",
    "a file that may not be read": "closed.db",
}


@pytest.mark.parametrize("database", REFUSED_PLACES.values(), ids=REFUSED_PLACES)
@pytest.mark.parametrize("command", [("account", "list"), ("serve",)])
def test_a_database_at_a_place_that_cannot_be_used_is_told(
    tmp_path: Path, command: tuple[str, ...], database: str
) -> None:
    (tmp_path / "locked").mkdir(mode=0o000)
    (tmp_path / "readable").mkdir(mode=0o500)
    (tmp_path / "folder").mkdir()
    (tmp_path / "a-file").touch()
    (tmp_path / "closed.db").touch(mode=0o000)
    (tmp_path / "circle").symlink_to("circle")
    bind: dict[str, Any] = {"bind": f"127.0.0.1:{free_port()}", "metrics_bind": "off"}
    url = f"sqlite:///{tmp_path / database}"
    sentence(run(tmp_path, *command, before=UNPRIVILEGED, database_url=url, **bind))


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    sentence(
        run(
            tmp_path,
            "account",
            "list",
            before=("bash", "-c", f'cd {gone}; rmdir {gone}; exec "$@"', "-"),
        )
    )


@pytest.mark.parametrize("home", [None, "/no/such/place", "/proc"])
def test_a_home_that_cannot_be_used_does_not_matter(place: Path, home: str | None) -> None:
    environment = {"HOME": home} if home else {}
    without = ("env", "-u", "HOME", "-u", "XDG_RUNTIME_DIR") if home is None else ()
    result = run(place, "account", "list", before=without, environment=environment)
    assert (result.returncode, result.stderr) == (0, b"")


def test_settings_that_cannot_be_read_are_told(place: Path) -> None:
    settings = place / "keyosk.toml"
    settings.write_text("threads = 2\n")
    settings.chmod(0o000)
    said = sentence(run(place, "account", "list", before=UNPRIVILEGED))
    assert "cannot read keyosk.toml: Permission denied" in said
    locked = place / "locked"
    locked.mkdir(mode=0o000)
    file = str(locked / "keyosk.env")
    said = sentence(run(place, "account", "list", "--config", file, before=UNPRIVILEGED))
    assert f"cannot read {file}: Permission denied" in said


@pytest.mark.parametrize("what", ["data", "data/keyosk.db"])
@pytest.mark.parametrize("command", [("account", "list"), ("database", "upgrade"), ("serve",)])
def test_an_unreadable_database_is_told(place: Path, what: str, command: tuple[str, ...]) -> None:
    (place / what).chmod(0o000)
    listening: dict[str, Any] = {"bind": f"127.0.0.1:{free_port()}", "metrics_bind": "off"}
    said = sentence(run(place, *command, before=UNPRIVILEGED, **listening))
    (place / what).chmod(0o700)
    assert re.search("[Pp]ermission denied|unable to open database file", said), said


def test_a_key_file_that_cannot_be_read_is_told(place: Path) -> None:
    (place / "data" / "keyosk.db.secret").chmod(0o000)
    for command in (("account", "list"), ("database", "upgrade")):
        said = sentence(run(place, *command, before=UNPRIVILEGED))
        assert "keyosk.db.secret cannot be read: Permission denied" in said


# --- What is missing on the machine ---------------------------------------------------------------


def without_package(folder: Path, *names: str) -> dict[str, str]:
    """An environment in which packages are not installed."""
    for name in names:
        (folder / f"{name}.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        )
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("command", [("config", "check"), ("account", "list"), ("serve",)])
def test_a_driver_that_is_not_installed_is_told_with_the_extra_to_install(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    said = sentence(
        run(
            tmp_path,
            *command,
            environment=without_package(tmp_path, "psycopg"),
            database_url="postgresql://keyosk:hidden-word@127.0.0.1:1/keyosk",
            secret_key="x" * 43,
            bind=f"127.0.0.1:{free_port()}",
            metrics_bind="off",
        )
    )
    assert "KEYOSK_DATABASE_URL" in said
    assert "pip install 'keyosk[postgresql]'" in said
    assert "hidden-word" not in said


@pytest.mark.parametrize("command", [("config", "check"), ("database", "upgrade", "--create")])
def test_a_binding_for_hsms_that_is_not_installed_is_told_with_the_extra_to_install(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    said = sentence(
        run(
            tmp_path,
            *command,
            environment=without_package(tmp_path, "pkcs11"),
            pkcs11_module="/usr/lib/none.so",
            pkcs11_token="none",
            pkcs11_pin="1234",
        )
    )
    assert "KEYOSK_PKCS11_MODULE" in said
    assert "pip install 'keyosk[pkcs11]'" in said


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    said = sentence(run(tmp_path, "--help", environment=without_package(tmp_path, "click")))
    assert "click is missing" in said


#: Runs a command where the only place to write to is one folder.
READ_ONLY = """
set -e
mount --make-rprivate /
for place in /tmp /var/tmp /usr/tmp /dev/shm; do
    if [ -d $place ]; then mount --bind -o ro $place $place; mount -o remount,bind,ro $place; fi
done
mount -o remount,bind,ro /
mount --bind "$1" "$1"
mount -o remount,bind,rw "$1"
cd "$2"
shift 2
exec "$@"
"""


@pytest.fixture
def read_only(place: Path, tmp_path: Path) -> tuple[str, ...]:
    """Has a command see a read-only root; ``place/data`` alone can be written to."""
    script = ("bash", "-c", READ_ONLY, "-", str(place / "data"), str(place))
    tried = subprocess.run(
        ["unshare", "-m", *script, "sh", "-c", "! touch /tmp/x && ! touch x && touch data/x"],
        capture_output=True,
    )
    if tried.returncode:
        pytest.skip(f"only root may mount: {tried.stderr!r}")
    return ("unshare", "-m", *script)


def test_commands_need_no_folder_for_temporaries(place: Path, read_only: tuple[str, ...]) -> None:
    for command in (
        ("account", "list"),
        ("account", "export"),
        ("account", "password", "admin"),
        ("database", "check"),
        ("audit", "list"),
    ):
        result = run(place, *command, before=read_only, text=b"a password of this test\n")
        assert result.returncode == 0, result.stderr
    said = sentence(run(place, "account", "export", "--output", "here", before=read_only))
    assert "Read-only file system" in said


def test_serve_needs_no_folder_for_temporary_files(
    place: Path, read_only: tuple[str, ...], tmp_path: Path
) -> None:
    run(place, "account", "password", "admin", text=b"a password of this test\n")
    server = LiveServer("", place, metrics_bind="off", workers="2")
    for name in ("DATABASE_URL", "SECRET_KEY", "ADMIN_PASSWORD"):
        del server.environment[f"KEYOSK_{name}"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        server.process = subprocess.Popen(
            [*read_only, *PROGRAM, "serve"],
            cwd=place,
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while "Keyosk serves" not in log.read_text() and time.monotonic() < deadline:
            assert server.process.poll() is None, log.read_text()
            time.sleep(0.05)
        client = server.client("admin", "a password of this test")
        assert client.post("/auth/token").status_code == 200
        assert client.get("/accounts?total=true").status_code == 200
    finally:
        server.stop()
    assert "Traceback" not in log.read_text()


# --- Faults of Keyosk itself ----------------------------------------------------------------------


def test_a_fault_of_keyosk_itself_is_one_sentence_and_its_place_on_request(tmp_path: Path) -> None:
    script = (
        "import keyosk.cli as cli, click\n"
        "@cli.keyosk.command('fail')\n"
        "def fail(): raise KeyError('hidden-word')\n"
        "cli.main()\n"
    )
    program = (sys.executable, "-c", script)
    said = sentence(run(tmp_path, "fail", program=program))
    assert "KeyError at <string>:3" in said
    assert "KEYOSK_LOG_LEVEL=debug" in said
    more = run(tmp_path, "fail", program=program, log_level="debug")
    assert more.returncode == 1
    assert b"in fail" in more.stderr
    assert b"hidden-word" not in more.stderr
