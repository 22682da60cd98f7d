"""The primary of a replicated PostgreSQL dies under load: nothing that was acknowledged is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from live import ADMIN_PASSWORD, LiveServer, unique
from patroni_cluster import LEASE, PatroniCluster, missing, patroni
from waiting import until

# Part of `make test-long`.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]


@pytest.fixture
def cluster() -> Iterator[PatroniCluster]:
    with patroni() as made:
        yield made


def test_a_primary_that_is_killed_under_load_costs_no_acknowledged_write(
    cluster: PatroniCluster, tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    tokens: list[float] = []
    unexpected: list[str] = []
    stopping = threading.Event()
    with LiveServer(cluster.url, tmp_path, workers="2") as server:
        admin = server.admin()
        creation = admin.post(
            "/accounts/admin/api-keys", json={"name": "load", "current_password": ADMIN_PASSWORD}
        )
        assert creation.status_code == 201, creation.text
        key, bearer = creation.json()["secret"], str(admin.session.headers["Authorization"])

        def write(session: requests.Session) -> None:
            name = unique("kept")
            headers = {"Authorization": bearer}
            body = {"name": name}
            response = session.post(f"{server.url}/roles", json=body, headers=headers, timeout=30)
            if response.status_code == 201:
                acknowledged.append(name)
            elif response.status_code != 503:
                unexpected.append(f"write: {response.status_code} {response.text}")

        def issue(session: requests.Session) -> None:
            headers = {"Authorization": f"Bearer {key}"}
            response = session.post(f"{server.url}/auth/token", headers=headers, timeout=30)
            if response.ok:
                tokens.append(time.monotonic())
            elif response.status_code != 503:
                unexpected.append(f"token: {response.status_code} {response.text}")

        def fetch(session: requests.Session) -> None:
            response = session.get(f"{server.url}/auth/jwks", timeout=5)
            if not response.ok or not response.json()["keys"]:
                unexpected.append(f"JWKS: {response.status_code} {response.text}")

        def repeat(action: Callable[[requests.Session], None]) -> None:
            with requests.Session() as session:
                while not stopping.is_set():
                    action(session)
                    stopping.wait(0.02)

        with ThreadPoolExecutor(6) as pool:
            clients = [
                pool.submit(repeat, each) for each in (write, write, write, issue, issue, fetch)
            ]
            try:
                until(lambda: len(acknowledged) > 50 and len(tokens) > 50)
                first = cluster.primary()
                cluster.synchronous()
                first.kill()
                before = len(acknowledged)
                second = cluster.primary(other_than=first, within=2 * LEASE + 20)
                promoted = time.monotonic()
                until(lambda: bool(tokens) and tokens[-1] > promoted)
                until(lambda: len(acknowledged) > before + 20)
            finally:
                stopping.set()
            for each in clients:
                each.result()
        assert unexpected == []
        assert second is not first
        assert [name for name in acknowledged if not admin.get(f"/roles/{name}").ok] == []
