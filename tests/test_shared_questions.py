"""Requests for the key set that wait at the same time share what the database is asked."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from live import LiveServer
from people import ok
from waiting import until

READERS = 12  # more than the threads that answer them, so that some always wait

pytestmark = [pytest.mark.slow, pytest.mark.every_database]


def kids(server: LiveServer) -> set[str]:
    """The published keys, as somebody sees them who connects just now."""

    def confirmed() -> set[str]:
        response = server.client().get("/auth/jwks", headers={"Connection": "close"})
        assert response.status_code == 200
        # Where the database does not answer in time, the last set may be kept for a second.
        if response.headers["Cache-Control"].startswith("public, max-age=1,"):
            return set()
        return {key["kid"] for key in response.json()["keys"]}

    return until(confirmed)


def test_no_worker_publishes_a_key_known_to_be_stolen(database_url: str, tmp_path: Path) -> None:
    with LiveServer(database_url, tmp_path, workers="2") as server:
        stop = threading.Event()

        def read() -> None:
            client = server.client()
            while not stop.is_set():
                assert client.get("/auth/jwks").status_code == 200

        with ThreadPoolExecutor(READERS) as pool:
            readers = [pool.submit(read) for _ in range(READERS)]
            try:
                for _ in range(5):
                    admin = server.admin()  # its last token is revoked with the key
                    [stolen, *_] = admin.get("/auth/jwks").json()["keys"]
                    path = f"/signing-keys/{stolen['kid']}/compromise"
                    ok(admin.post(path))
                    for _ in range(8):
                        assert stolen["kid"] not in kids(server)
            finally:
                stop.set()
            for reader in readers:
                reader.result()
