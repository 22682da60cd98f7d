"""Counting and logging never decide whether a request is answered, whatever is full or closed."""

import fcntl
import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import requests

from keyosk.metrics import Metrics, SharedCounts
from keyosk.server import LogStream
from live import ADMIN_PASSWORD, LiveServer, command
from test_metrics import Metered
from waiting import until

pytestmark = [pytest.mark.fault, pytest.mark.slow]

_NO_ROOM = """\
mount -t tmpfs -o size=64k none /dev/shm && head -c 65536 /dev/zero >/dev/shm/full; exec "$@"
"""


class Odd(Metered):
    """A Keyosk with another standard error, or one that a shell starts."""

    def __init__(self, folder: Path, *, stderr: int | None = None) -> None:
        super().__init__(folder)
        self.stderr = stderr

    def start_by(self, shell: str, *before: str) -> None:
        """Have a shell start it: ``exec "$@"`` in its script is the start."""
        self.program = [*before, "sh", "-c", shell, "sh", *command()]


def key_of(server: LiveServer) -> str:
    basic = server.client("admin", ADMIN_PASSWORD)
    secret: str = basic.post("/accounts/me/api-keys", json={"name": "k"}).json()["secret"]
    return secret


def assert_answers(server: LiveServer, key: str, times: int = 20) -> None:
    """Every request is answered, each by a connection of its own, which any worker may take."""
    for _ in range(times):
        for method, path in (("GET", "/health/live"), ("GET", "/auth/jwks"), ("GET", "/none")):
            response = requests.request(method, f"{server.url}{path}", timeout=60)
            assert response.status_code == (404 if path == "/none" else 200)
        token = requests.post(f"{server.url}/auth/token", auth=("admin", key), timeout=60)
        assert token.status_code == 200, token.text


def can_mount() -> bool:
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /dev/shm"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def test_no_request_dies_of_a_full_shared_memory_folder() -> None:
    if not can_mount():
        pytest.skip("no mount namespaces here")
    # The usual temporary folders may be in the one that is full.
    with TemporaryDirectory(dir="/var/tmp") as folder:
        server = Odd(Path(folder))
        server.start_by(_NO_ROOM, "unshare", "--mount")
        with server:
            assert_answers(server, key_of(server))
            assert server.count("keyosk_tokens_issued_total", credential="api_key") == 20
            assert server.count("keyosk_http_requests_total", route="none", status="404") == 20


def test_no_request_dies_of_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    with Odd(tmp_path) as server:
        key = key_of(server)
        assert server.process is not None
        master = psutil.Process(server.process.pid)
        for process in (*master.children(recursive=True), master):
            process.rlimit(resource.RLIMIT_FSIZE, (0, 0))
        assert_answers(server, key)
        assert server.count("keyosk_tokens_issued_total", credential="api_key") == 20
        # A worker that takes another's place starts under the limit.
        before = {each.pid for each in master.children()}
        master.children()[0].kill()
        until(lambda: {each.pid for each in master.children()} - before)
        assert_answers(server, key)


@pytest.mark.parametrize("after", ["2>&-", "2>/dev/full", "2>/dev/full >&2", "2>&- >&- <&-"])
def test_no_request_waits_for_a_log_that_nobody_can_write(tmp_path: Path, after: str) -> None:
    """For a full one and for none."""
    server = Odd(tmp_path)
    server.start_by(f'exec "$@" {after}')
    with LiveServer(server.environment["KEYOSK_DATABASE_URL"], tmp_path) as first:
        key = key_of(first)  # so that there is nothing to print at the next start
    with server:
        assert_answers(server, key)
        assert server.count("keyosk_tokens_issued_total", credential="api_key") == 20


@contextmanager
def silent_reader() -> Iterator[tuple[int, int]]:
    """A pipe that has room for one page, and whose reader does not read."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for end in (reader, writer):
        with suppress(OSError):
            os.close(end)


def test_no_request_waits_for_a_reader_of_the_log_that_does_not_read(tmp_path: Path) -> None:
    with silent_reader() as (reader, writer), Odd(tmp_path, stderr=writer) as server:
        assert_answers(server, key_of(server), times=30)
        # Once it reads again, the log says that something is missing in it.
        os.set_blocking(reader, False)
        lines = b""
        for _ in range(200):
            requests.get(f"{server.url}/health/live", timeout=60)
            with suppress(BlockingIOError):
                lines += os.read(reader, 65536)
            if b"lines of this log were lost" in lines:
                break
        assert b"lines of this log were lost" in lines


def test_no_request_dies_with_the_reader_of_the_log(tmp_path: Path) -> None:
    with silent_reader() as (reader, writer), Odd(tmp_path, stderr=writer) as server:
        key = key_of(server)
        os.close(reader)
        os.close(writer)
        assert_answers(server, key)


def test_a_line_that_was_cut_goes_on_where_it_was() -> None:
    with silent_reader() as (reader, writer):
        stream, found = LogStream(writer), b""
        lines = ["first\n", f"{'x' * 6_000}\n", "lost\n", "lost\n", "last\n"]
        stream.write(lines[0])
        stream.write(lines[1])  # a part of it fits
        stream.write(lines[2])
        found += os.read(reader, 8_192)
        assert len(found) < 6_000
        stream.write(lines[3])  # the rest of the long one takes the room there is
        found += os.read(reader, 8_192)
        stream.write(lines[4])
        found += os.read(reader, 8_192)
        text = found.decode()
        assert text.startswith(lines[0] + lines[1])
        told, last = text.removeprefix(lines[0] + lines[1]).splitlines(keepends=True)
        assert "2 lines of this log were lost" in told
        assert last == lines[4]


# --- Counting together ----------------------------------------------------------------------------


def test_who_follows_a_worker_goes_on_with_its_counts() -> None:
    counts = SharedCounts(1)
    for _ in range(20):  # more than there are parts
        process = os.fork()
        if process == 0:
            Metrics(counts).token_issued(
                "api_key", "ES256", grant_type="client_credentials", audiences=("todo",)
            )
            os._exit(0)
        os.waitpid(process, 0)
        counts.release(process)
    assert {name: number for name, number in counts.totals().items() if number} == {
        '["keyosk_tokens_issued", "api_key", "ES256", "client_credentials"]': 20.0,
        '["keyosk_service_tokens_issued", "todo", "of"]': 20.0,
    }


def test_a_process_without_a_part_counts_nothing_and_lives() -> None:
    counts = SharedCounts(1)
    while os.read(counts._free, 1) and _is_open(counts._free):
        pass
    Metrics(counts).request("GET", "/auth/jwks", "200", seconds=0.1)
    assert counts.totals() == {}


def _is_open(descriptor: int) -> bool:
    import select

    return bool(select.select((descriptor,), (), (), 0)[0])


def test_a_part_that_is_full_takes_what_fits() -> None:
    counts = SharedCounts(1)
    metrics = Metrics(counts)
    for number in range(10_000):
        metrics.request("GET", f"/{number}", "200", seconds=0.1)
    metrics.request("GET", "/0", "200", seconds=0.1)
    assert counts.totals()['["keyosk_http_requests", "GET", "/0", "200"]'] == 2.0


def test_threads_lose_no_count() -> None:
    counts = SharedCounts(1)
    metrics = Metrics(counts)

    def work() -> None:
        for _ in range(5_000):
            metrics.login_refused(throttled=False)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = {name: number for name, number in counts.totals().items() if number}
    assert counted == {'["keyosk_logins_refused", "wrong"]': 20_000.0}
