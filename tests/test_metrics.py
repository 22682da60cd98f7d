"""Counters for Prometheus: over all workers, at an address of their own."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as families

from live import ADMIN_PASSWORD, LiveServer, free_port


class Metered(LiveServer):
    """A Keyosk of three workers, with metrics at a port of their own."""

    def __init__(self, folder: Path) -> None:
        self.metrics_port = free_port()
        address = f"127.0.0.1:{self.metrics_port}"
        super().__init__(
            f"sqlite:///{folder / 'keyosk.db'}", folder, metrics_bind=address, workers="3"
        )

    def page(self, path: str = "/metrics", **options: Any) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=60, **options)

    def count(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for family in families(self.page().text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metered]:
    with Metered(tmp_path_factory.mktemp("metered")) as server:
        yield server


def a_token(server: LiveServer, secret: str = ADMIN_PASSWORD) -> requests.Response:
    return server.client("admin", secret).post("/auth/token")


def test_tokens_are_counted_over_all_workers(metered: Metered) -> None:
    key = metered.admin().post("/accounts/me/api-keys", json={"name": "count"}).json()
    secret = (key if "secret" in key else made_by_password(metered))["secret"]
    before = metered.count("keyosk_tokens_issued_total", credential="api_key")
    for _ in range(12):  # each by a connection of its own, which any worker may accept
        assert a_token(metered, secret).status_code == 200
    seen = [metered.count("keyosk_tokens_issued_total", credential="api_key") for _ in range(6)]
    assert seen == [before + 12] * 6
    assert metered.count("keyosk_tokens_issued_total", algorithm="ES256") >= 12


def made_by_password(server: Metered) -> dict[str, str]:
    client = server.client("admin", ADMIN_PASSWORD)
    made: dict[str, str] = client.post("/accounts/me/api-keys", json={"name": "count"}).json()
    return made


def test_requests_are_counted_by_route_and_timed(metered: Metered) -> None:
    before = metered.count("keyosk_http_request_seconds_count", route="/accounts/<account>")
    assert metered.admin().get("/accounts/nobody-of-this-name").status_code == 404
    labels = {"route": "/accounts/<account>", "status": "404", "method": "GET"}
    assert metered.count("keyosk_http_requests_total", **labels) == 1
    assert (
        metered.count("keyosk_http_request_seconds_count", route="/accounts/<account>")
        == before + 1
    )


def test_refused_logins_are_counted(metered: Metered) -> None:
    before = metered.count("keyosk_logins_refused_total", reason="wrong")
    for _ in range(3):
        assert metered.client("nobody", "wrong").post("/auth/token").status_code == 401
    assert metered.count("keyosk_logins_refused_total", reason="wrong") == before + 3


@pytest.mark.attack
def test_nothing_that_a_client_chose_becomes_a_label(metered: Metered) -> None:
    client = metered.client("hunter2-name", "hunter2-secret")
    assert client.post("/auth/token?hunter2=1").status_code in (400, 401)
    client.get("/hunter2/hunter2")
    client.request("HUNTER2", "/accounts/hunter2")
    text = metered.page().text
    assert "hunter2" not in text.lower()
    assert metered.count("keyosk_http_requests_total", route="none", status="404") >= 1


@pytest.mark.fault
def test_a_worker_that_was_killed_leaves_its_counts(metered: Metered) -> None:
    a_token(metered)
    before = metered.count("keyosk_tokens_issued_total")
    assert metered.process is not None
    for worker in psutil.Process(metered.process.pid).children():
        os.kill(worker.pid, signal.SIGKILL)
    for _ in range(100):
        with suppress(requests.ConnectionError):
            assert metered.count("keyosk_tokens_issued_total") == before
            return
    raise AssertionError("nobody answers")


def test_each_listener_has_its_own(metered: Metered) -> None:
    assert metered.client().get("/metrics").status_code == 404
    for path in ("/", "/auth/jwks", "/auth/token", "/metrics/"):
        assert metered.page(path).status_code == 404
    refused = requests.post(f"http://127.0.0.1:{metered.metrics_port}/metrics", timeout=60)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
    # SECURITY: the socket decides, not what the client says it called.
    assert metered.page("/auth/jwks", headers={"Host": metered.url[7:]}).status_code == 404


def test_openmetrics_where_it_is_asked_for(metered: Metered) -> None:
    answer = metered.page(headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert [family.name for family in open_metrics(answer.text)]  # type: ignore[no-untyped-call]  # it has no types


def line_of(server: Metered, answer: requests.Response) -> dict[str, object]:
    """The line that the log has of a request."""
    lines = server.log.read_text().splitlines()
    line = next(line for line in reversed(lines) if answer.headers["X-Request-Id"] in line)
    entry: dict[str, object] = json.loads(line)
    return entry


def test_the_log_says_whose_token_it_was(metered: Metered) -> None:
    answer = a_token(metered)
    entry = line_of(metered, answer)
    claims = requests.post(
        f"{metered.url}/auth/introspect",
        data={"token": answer.json()["access_token"]},
        auth=("admin", ADMIN_PASSWORD),
        timeout=10,
    ).json()
    assert (entry["account"], entry["jti"]) == (claims["sub"], claims["jti"])
    assert "api_key" not in entry


def test_the_log_says_who_was_refused(metered: Metered) -> None:
    made = metered.admin().post("/accounts", json={"username": "meek", "password": ADMIN_PASSWORD})
    refused = metered.client("meek", ADMIN_PASSWORD).get("/accounts")
    assert refused.status_code == 403
    entry = line_of(metered, refused)
    assert (entry["account"], entry["status"]) == (made.json()["id"], 403)


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_chosen_address_that_is_taken_is_refused(tmp_path: Path, taken: str) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path, metrics_bind=taken)
    done = server.run("serve")
    assert done.returncode == 1
    assert "KEYOSK_METRICS_BIND: cannot be served: Address already in use" in done.stderr


def test_a_default_address_that_is_taken_is_told(tmp_path: Path) -> None:
    """A second Keyosk on the machine starts, without."""
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path)
    del server.environment["KEYOSK_METRICS_BIND"]
    with suppress(OSError), socket.create_server(("127.0.0.1", 9464)):
        with server:
            assert a_token(server).status_code == 200
        assert (
            "no metrics at 127.0.0.1:9464: cannot be served: Address already in use"
            in server.log.read_text()
        )
        return
    with server:  # somebody else has it, which is as good
        assert "no metrics at 127.0.0.1:9464" in server.log.read_text()


def test_a_main_address_that_is_taken_is_refused(tmp_path: Path, taken: str) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path)
    server.environment["KEYOSK_BIND"] = taken
    done = server.run("serve")
    assert done.returncode == 1
    assert "KEYOSK_BIND: cannot be served: Address already in use" in done.stderr
