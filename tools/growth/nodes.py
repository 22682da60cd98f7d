"""Nodes on one PostgreSQL: real servers with one worker each, and what a request costs with more.

All run all the time; a load of the same size is shared out between the first 1, 2, 4 of them. A
machine has room for so many processes only: what the nodes and PostgreSQL spend on a request says
whether more of them get in one another's way, the requests a second say so where cores are free.
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
from axes import FLAT, Measured
from axes import Row as Figure

sys.path.append(str(Path(__file__).parent.parent / "bench"))
import rows
import servers

TITLE: Final = "nodes, one worker each"
_SECONDS: Final = 3.0
_SETTINGS: Final = {"KEYOSK_WORKERS": "1", "KEYOSK_ISSUER": "http://127.0.0.1:8080"}


@dataclass(frozen=True)
class _Request:
    """What is sent, as ``rows.Row`` of each node."""

    name: str
    of_nodes: list[rows.Row]


@dataclass(frozen=True)
class _Sample:
    """Microseconds of CPU a request, and requests a second."""

    nodes: float
    database: float
    rate: float


def measure(sizes: Sequence[int], url: str, folder: Path, *, rounds: int) -> list[Measured]:
    """Start the nodes on a new database, and load the first of them, round after round."""
    with ExitStack() as running:
        nodes = []
        for _ in range(max(sizes)):
            nodes.append(running.enter_context(servers.keyosk(folder, url, settings=_SETTINGS)))
            servers.wait_for(nodes[-1], "/health/ready")
        connection = running.enter_context(psycopg.connect(url))
        postmaster = psutil.Process(connection.info.backend_pid).parent()
        assert postmaster is not None
        found: list[Measured] = []
        for request in _requests(nodes):
            samples = [
                [_sample(request.of_nodes[:size], nodes, postmaster) for size in sizes]
                for _ in range(rounds)
            ]
            found += _figures(request.name, samples)
            print(f"  {request.name}", file=sys.stderr)
        return found


def _requests(nodes: Sequence[servers.Server]) -> Iterator[_Request]:
    scene = rows.Scene(nodes[0])

    def to_all(name: str, expected: str, of_connection: Callable[[int], list[bytes]]) -> _Request:
        each = range(rows.CONNECTIONS)
        own = [
            [of_connection(node * len(each) + one) for one in each] for node in range(len(nodes))
        ]
        return _Request(
            name,
            [
                rows.http_row(name, node, [], expected=expected, connections=connections)
                for node, connections in zip(nodes, own, strict=True)
            ],
        )

    yield to_all("token by API key", "token", lambda _: [scene.token_request(scene.key)])
    yield to_all("one account", "200", lambda _: [scene.account_request()])
    yield to_all("change of an account", "200", scene.patch_requests)


def _sample(
    of_nodes: Sequence[rows.Row], nodes: Sequence[servers.Server], postmaster: psutil.Process
) -> _Sample:
    """Send a request to some of the nodes; ``nodes``: all of them."""
    share = rows.CONNECTIONS // len(of_nodes)
    loaded = [replace(row, connections=row.connections[:share]) for row in of_nodes]
    before = sum(node.cpu_seconds() for node in nodes), _cpu(postmaster)
    with ThreadPoolExecutor(len(loaded)) as pool:
        samples = [*pool.map(lambda row: row.measure(row, _SECONDS), loaded)]
    after = sum(node.cpu_seconds() for node in nodes), _cpu(postmaster)
    rate = sum(sample.rate for sample in samples)
    spent, database = (
        (end - begin) / (rate * _SECONDS) * 1e6 for begin, end in zip(before, after, strict=True)
    )
    return _Sample(spent, database, rate)


def _cpu(postmaster: psutil.Process) -> float:
    """The CPU seconds of all of PostgreSQL's processes, and of those that have ended."""
    own = postmaster.cpu_times()
    children = [child.cpu_times() for child in postmaster.children()]
    spent: float = sum(
        (each.user + each.system for each in children), own.children_user + own.children_system
    )
    return spent


def _figures(name: str, samples: Sequence[Sequence[_Sample]]) -> Iterator[Measured]:
    parts: dict[str, dict[str, Any]] = {
        "nodes": {"name": f"{name}, the nodes' CPU"},
        "database": {"name": f"{name}, PostgreSQL's CPU"},
        "rate": {"name": f"{name}, all nodes", "unit": "/s", "limit": None},
    }
    for part, row in parts.items():
        values = [[getattr(sample, part) for sample in each] for each in samples]
        yield Measured(
            Figure(**{"limit": FLAT, **row}),
            [statistics.median(each) for each in zip(*values, strict=True)],
            [
                statistics.median(each[place] / each[0] for each in values)
                for place in range(len(values[0]))
            ],
        )
