"""Slots: how much runs at once, over threads, processes and their sudden ends."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from keyosk.credentials import concurrency
from keyosk.credentials.concurrency import HashingLimit
from keyosk.errors import Unavailable
from live import ADMIN_PASSWORD, LiveServer

HOLDER = """
import sys
from pathlib import Path
from keyosk.credentials.concurrency import HashingLimit
with HashingLimit(1, folder=Path(sys.argv[1])).hold():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that holds the only slot until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


@pytest.mark.parametrize("shared", [True, False])
def test_no_more_than_the_number_are_held_at_once(tmp_path: Path, shared: bool) -> None:
    held, most, lock = 0, 0, threading.Lock()
    bound = HashingLimit(2, folder=tmp_path if shared else None, timeout=60)
    both = threading.Barrier(2)

    def work(number: int) -> None:
        nonlocal held, most
        with bound.hold():
            with lock:
                held += 1
                most = max(most, held)
            if number < 2:
                both.wait(timeout=60)  # so that two are held at once for sure
            with lock:
                held -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(40)))

    assert most == 2


def test_a_thread_that_holds_a_slot_needs_no_second_one() -> None:
    bound = HashingLimit(1, timeout=0)
    with bound.hold(), bound.hold():
        pass
    with bound.hold():
        pass


def test_another_process_holds_a_slot_too(tmp_path: Path) -> None:
    bound = HashingLimit(1, folder=tmp_path, timeout=0)
    with holder(tmp_path), pytest.raises(Unavailable), bound.hold():
        pass
    with bound.hold():
        pass


def test_a_process_that_holds_a_slot_leaves_the_next_one_to_others(tmp_path: Path) -> None:
    first, other = (HashingLimit(2, folder=tmp_path, timeout=60, patience=60) for _ in range(2))
    entered = threading.Event()

    def wait() -> None:
        with first.hold():
            entered.set()

    waiting = threading.Thread(target=wait)
    with first.hold():
        waiting.start()
        for _ in range(200):
            with other.hold():
                assert not entered.is_set()
    # Its own it passes on at once.
    assert entered.wait(timeout=60)
    waiting.join()


def test_a_process_takes_a_further_slot_that_nobody_wants(tmp_path: Path) -> None:
    limit = HashingLimit(2, folder=tmp_path, timeout=60, patience=0.001)
    with limit.hold(), ThreadPoolExecutor(1) as other:

        def hold() -> bool:
            with limit.hold():
                return True

        assert other.submit(hold).result(timeout=60)


def test_a_slot_is_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        with HashingLimit(1, folder=tmp_path, timeout=0).hold():
            pass


def test_who_fails_while_holding_a_slot_gives_it_back(tmp_path: Path) -> None:
    bound = HashingLimit(1, folder=tmp_path, timeout=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), bound.hold():
            1 / 0  # noqa: B018


def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = concurrency.machine_folder()
    assert folder is not None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    folder.chmod(0o777)
    assert concurrency.machine_folder() is None

    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert concurrency.machine_folder() is None


def test_there_are_as_many_slots_as_cores_and_memory_allow() -> None:
    cores = len(os.sched_getaffinity(0))
    assert concurrency.for_hashes(19_456) <= cores
    assert concurrency.for_hashes(2**40) == 1


@pytest.mark.attack
def test_64_logins_at_once_grow_the_memory_by_less_than_150_mib(server: LiveServer) -> None:
    """A hash takes 19 MiB, and glibc would keep them for every thread that ever made one."""
    assert server.process is not None
    workers = psutil.Process(server.process.pid).children()
    assert server.client("admin", ADMIN_PASSWORD).post("/auth/token").status_code == 200
    before = sum(worker.memory_info().rss for worker in workers)
    stop = threading.Event()
    most = before

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, sum(worker.memory_info().rss for worker in workers))

    def login(_: int) -> int:
        return server.client("admin", ADMIN_PASSWORD).post("/auth/token").status_code

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(64) as pool:
        statuses = set(pool.map(login, range(64)))
    stop.set()
    watching.join()
    assert statuses <= {200, 503}
    assert (most - before) / 2**20 < 150
