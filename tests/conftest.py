"""Fixtures that more than one test file uses."""

import atexit
import gc
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import hypothesis
import pytest
from coverage import Coverage
from jinja2 import Environment

import cheap_passwords
import keyosk.installation
from in_process import InProcess
from installed import installed, settings
from keyosk import app
from keyosk.credentials.password_hashing import Passwords
from keyosk.installation import Installation
from keyosk.storage import schema
from keyosk.storage.database import Database
from live import Client, LiveServer
from pages import Browser, logged_in
from people import make_person
from platforms import Platform, platform
from postgres import PostgresServer
from shops import Shop

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium

# These machines are shared and noisy: how long one example takes says nothing.
hypothesis.settings.register_profile("keyosk", deadline=None)
hypothesis.settings.load_profile("keyosk")

# As the Makefile does: tests start hundreds of commands, and workers of their own. And a command
# that writes to a full disk fails in another place where its output is buffered.
for _name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
    os.environ.pop(_name, None)
sys.dont_write_bytecode = False

# --- The session ----------------------------------------------------------------------------------

_MEMORY: Final = Path("/dev/shm")
_MEMORY_NEEDED: Final = 2 << 30  # the long tests leave a third of it
_ALL_SLOW: Final = re.compile(r"^pytestmark = .*\bmark\.slow\b", re.MULTILINE)


def _use_memory() -> None:
    """Have temporary folders in memory: each commit of a test would wait for the disk."""
    with suppress(OSError):
        filesystem = os.statvfs(_MEMORY)
        room = filesystem.f_bavail * filesystem.f_frsize >= _MEMORY_NEEDED
        if room and os.access(_MEMORY, os.W_OK) and not filesystem.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


_use_memory()


def _use_own_slots() -> None:
    """Give each worker of xdist a temporary folder, where Keyosk has the slots of its hashes.

    All processes of a user on a machine share them. So a test that sends many passwords at once had
    the logins of other workers' tests wait until they were refused.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="keyosk-tests-")
    Path(folder).chmod(0o1777)  # as /tmp: some tests run programs as another user
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None  # to be looked up again


_use_own_slots()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file of slow tests is not even imported where they are not asked for."""
    if config.option.markexpr != "not slow" or not collection_path.match("test_*.py"):
        return None
    return _ALL_SLOW.search(collection_path.read_text("utf-8")) is not None or None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays: garbage collections that go through it took a fifth of a run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _share_templates() -> None:
    """Compile each template once in this process, which makes many consoles."""
    compile_template: Callable[..., Any] = Environment.compile
    compiled: dict[tuple[Any, ...], Any] = {}

    def compile_once(environment: Environment, *given: Any, **named: Any) -> Any:
        key = (environment.trim_blocks, *given, *sorted(named.items()))
        if key not in compiled:
            compiled[key] = compile_template(environment, *given, **named)
        return compiled[key]

    setattr(Environment, "compile", compile_once)  # noqa: B010 - mypy refuses an assignment


_share_templates()

# Most of what a request by password costs is its hash. Of this process and of the shared server;
# servers of a test's own hash as users' do.
cheap_passwords.install()

# --- Databases ------------------------------------------------------------------------------------

BACKENDS: Final = ("sqlite", "postgresql")
#: Fixtures that start a server for one test or module: whatever uses them is slow.
_SERVERS: Final = frozenset({"own_server", "own_console", "lonely", "metered", "live"})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=[*BACKENDS, "all"],
        help="the database to run all tests on (default: SQLite, and PostgreSQL too where a test "
        "is marked every_database)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        # For the session, so that fixtures of any scope may depend on it.
        metafunc.parametrize("backend", _backends(metafunc), scope="session")


def _backends(metafunc: pytest.Metafunc) -> list[Any]:
    chosen = metafunc.config.getoption("--backend")
    if chosen is not None:
        return list(BACKENDS if chosen == "all" else (chosen,))
    marker = metafunc.definition.get_closest_marker("every_database")
    if marker is None:
        return ["sqlite"]
    later = () if marker.kwargs.get("always") else (pytest.mark.slow,)
    return ["sqlite", pytest.param("postgresql", marks=later)]


@pytest.hookimpl(tryfirst=True)  # before the tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        starts_one = isinstance(item, pytest.Function) and _SERVERS & {*item.fixturenames}
        if starts_one and item.get_closest_marker("short") is None:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """This worker's own PostgreSQL, started by the first test that needs it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database of the test's own."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


def _create(
    backend: str, folder: Path, request: pytest.FixtureRequest, template: str | None = None
) -> str:
    """The URL of a new database, in ``folder`` if it is a file: empty, or a copy of another."""
    if backend == "sqlite":
        if template is not None:
            shutil.copy(template.removeprefix("sqlite:///"), folder / "keyosk.db")
        return f"sqlite:///{folder / 'keyosk.db'}"
    # By name, so that no PostgreSQL is started where only SQLite is asked for.
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.create_database(template)


@contextmanager
def _created(
    backend: str, folder: Path, request: pytest.FixtureRequest, template: str | None = None
) -> Iterator[str]:
    """The same for one test."""
    url = _create(backend, folder, request, template)
    yield url
    if backend != "sqlite":
        request.getfixturevalue("postgres_server").drop_database(url)


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    with _created(backend, tmp_path, request) as url:
        yield url


@pytest.fixture(scope="session")
def empty_template_url(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A database that has all migrations and nothing else, to be copied."""
    url = _create(backend, tmp_path_factory.mktemp("empty"), request)
    database = Database(url)
    with schema.exclusive(database):
        schema.upgrade(database)
    database.close()
    return url


@pytest.fixture
def migrated_url(
    backend: str, empty_template_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """The URL of a database of the test's own that has all tables and no rows."""
    with _created(backend, tmp_path, request, empty_template_url) as url:
        yield url


@pytest.fixture(scope="session")
def template_url(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A database that was set up once, to be copied."""
    url = _create(backend, tmp_path_factory.mktemp("template"), request)
    app.prepare(settings(url))
    return url


def _set_up_in(folder: Path, backend: str, request: pytest.FixtureRequest) -> str:
    """The URL of a database that has been set up, which is in ``folder`` if it is a file."""
    return _create(backend, folder, request, request.getfixturevalue("template_url"))


@pytest.fixture
def prepared_url(
    backend: str, template_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """The URL of a database of the test's own that has been set up, with the first admin."""
    with _created(backend, tmp_path, request, template_url) as url:
        yield url


@pytest.fixture
def users_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed at the cost that users pay."""
    monkeypatch.setitem(vars(keyosk.installation), "Passwords", Passwords)


@pytest.fixture
def installation(prepared_url: str) -> Iterator[Installation]:
    """An installation that this test has for itself, in its own process."""
    with installed(prepared_url) as made:
        yield made


# --- A running Keyosk -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(backend: str, request: pytest.FixtureRequest) -> LiveServer:
    """A Keyosk that all tests of this worker share: they make their own names (``live.unique``).

    For modules that are marked ``in_process`` it is one without a process and sockets.
    """
    # By name, so that only one of them is started, and for the same database.
    marked = request.node.get_closest_marker("in_process") is not None
    found: LiveServer = request.getfixturevalue("in_process" if marked else "served")
    return found


@pytest.fixture(scope="module")
def admin(server: LiveServer) -> Client:
    """The first admin, by token."""
    return server.admin()


@pytest.fixture(scope="session")
def served(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp(f"keyosk-{backend}")
    shared = LiveServer(_set_up_in(folder, backend, request), folder)
    shared.script = cheap_passwords.__file__
    if Coverage.current() is not None:
        # Other servers and commands are many and short: to measure each costs half as much again.
        shared.program = (sys.executable, "-P", shared.script)
        root = request.config.rootpath
        shared.environment |= {
            "COVERAGE_PROCESS_START": str(root / "pyproject.toml"),
            "COVERAGE_FILE": str(root / ".coverage"),
        }
    with shared:
        yield shared


@pytest.fixture(scope="session")
def in_process(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp(f"in-process-{backend}")
    with InProcess(_set_up_in(folder, backend, request), folder) as made:
        yield made


@pytest.fixture
def own_server(database_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    """A Keyosk that this test has for itself, not yet started."""
    server = LiveServer(database_url, tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator["Chromium"]:
    """A Chromium; each test opens contexts of its own."""
    import chromium  # a library that few tests need

    with chromium.launched() as launched:
        yield launched


@pytest.fixture
def root(server: LiveServer, admin: Client) -> Browser:
    """An admin of this test's own, logged in to the console."""
    return logged_in(server, make_person(admin, "keyosk:admin").username)


# --- Workloads ------------------------------------------------------------------------------------


@pytest.fixture
def ci() -> Iterator[Platform]:
    """A platform that signs tokens for its jobs."""
    with platform() as made:
        yield made


@pytest.fixture
def shop(server: LiveServer, admin: Client, ci: Platform) -> Shop:
    """A service that the jobs of ``ci`` may use."""
    return Shop(server, admin, ci)
