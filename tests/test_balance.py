"""Connections are shared out between workers, whoever wakes first."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from keyosk.server.balance import Balance
from live import LiveServer

pytestmark = pytest.mark.slow

ASK = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def pair(database_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(database_url, tmp_path, workers="2") as server:
        yield server


def workers(server: LiveServer) -> list[psutil.Process]:
    """Both workers. The server is ready as soon as one of them is."""
    assert server.process is not None
    deadline = time.monotonic() + 60
    while True:
        children: list[psutil.Process] = psutil.Process(server.process.pid).children()
        if len(children) == 2:
            return children
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def connected(server: LiveServer, number: int) -> Iterator[None]:
    """Open this many connections, each of which got a response."""
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
            for _ in range(number)
        ]
        for connection in connections:
            connection.sendall(ASK)
        for connection in connections:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        yield


def connections_of_workers(server: LiveServer) -> list[int]:
    """The connections of each worker."""
    return [
        sum(
            connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == server.port
            for connection in worker.net_connections("tcp")
        )
        for worker in workers(server)
    ]


def test_connections_that_come_at_once_go_to_all_workers(pair: LiveServer) -> None:
    """Else a core is idle for as long as a client keeps its connections."""
    fewest = 0
    for _ in range(12):
        with connected(pair, 16):
            numbers = connections_of_workers(pair)
        assert sum(numbers) == 16
        fewest += min(numbers)
    assert fewest >= 24  # of 96; without the balance 5 to 25, as one worker mostly has all


def test_a_stuck_worker_holds_up_nobody(pair: LiveServer) -> None:
    stuck, _ = workers(pair)
    with connected(pair, 4):
        stuck.send_signal(signal.SIGSTOP)
        try:
            with connected(pair, 200):
                pass
        finally:
            stuck.send_signal(signal.SIGCONT)


def test_who_is_ahead_waits() -> None:
    balance = Balance()
    assert not balance.is_ahead(1, 1_000)  # it is alone
    balance.note(1, 5)
    assert not balance.is_ahead(1, 5)
    assert not balance.has_others(1)
    balance.note(2, 3)
    assert balance.has_others(1)
    balance.note(3, 9)
    assert not balance.is_ahead(1, 4)
    assert balance.is_ahead(1, 5)
    assert not balance.is_ahead(2, 3)
    balance.note(2, 80)
    balance.note(3, 80)
    assert not balance.is_ahead(1, 91)
    assert balance.is_ahead(1, 92)
    balance.note(2, 0)
    assert balance.is_ahead(1, 2)
    balance.leave(2)
    balance.leave(3)
    assert not balance.is_ahead(1, 1_000)
    assert not balance.has_others(1)
    balance.note(1 + 1024, 0)  # a worker much younger takes an older one's place
    assert not balance.is_ahead(1, 1_000)
