"""Counters for Prometheus: over all workers, at an address of their own."""

import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as families

from keyosk.metrics import FAMILIES
from keyosk.metrics.families import ALGORITHMS, KEY_STATES, TOKEN_ERRORS
from keyosk.model import SIGNING_ALGORITHMS, KeyState
from keyosk.web import errors
from live import ADMIN_PASSWORD, LiveServer, free_port, source, unique
from postgres import PostgresServer
from processes import execute

METRICS_PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "metrics.md"


class Metered(LiveServer):
    """A Keyosk of three workers, with metrics at a port of their own."""

    def __init__(self, folder: Path, database_url: str = "", **settings: str) -> None:
        self.metrics_port = free_port()
        address = f"127.0.0.1:{self.metrics_port}"
        url = database_url or f"sqlite:///{folder / 'keyosk.db'}"
        settings = {"workers": "3", "key_publish_ahead": "900", **settings}
        super().__init__(url, folder, metrics_bind=address, **settings)

    def page(self, path: str = "/metrics", **options: Any) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=60, **options)

    def series(self) -> dict[tuple[str, ...], float]:
        """Every series there is, by its name and labels."""
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in families(self.page().text)
            for sample in family.samples
        }

    def becomes(self, expected: float, name: str, *, most: float = 0, **labels: str) -> None:
        """Wait until a gauge has a value, or one up to ``most``.

        What comes from the database may be seconds old, and each worker reads it.
        """
        deadline = time.monotonic() + 60
        while not expected <= (value := self.count(name, **labels)) <= max(expected, most):
            assert time.monotonic() < deadline, (name, labels, value)
            time.sleep(0.5)

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


@pytest.mark.slow
def test_every_metric_has_its_series_from_the_start_at_0(tmp_path: Path) -> None:
    with Metered(tmp_path) as server:
        by_name = {family.name: family for family in families(server.page().text)}
        assert by_name.keys() == {family.name for family in FAMILIES}
        for family in FAMILIES:
            shown = by_name[family.name]
            assert (shown.type, shown.documentation) == (family.kind, family.help)
            assert shown.samples, family.name
            if family.kind == "counter" and family.name != "keyosk_http_requests":
                assert {sample.value for sample in shown.samples} == {0.0}, family.name
        before = server.series().keys()
        use_it(server)
        assert server.series().keys() == before


def use_it(server: LiveServer) -> None:
    """Send requests of many kinds, with what each of them is refused for."""
    admin = server.admin()
    admin.post("/accounts", json={"username": "someone", "password": ADMIN_PASSWORD})
    for path in ("/auth/jwks", "/accounts", "/accounts/nobody", "/services/nobody", "/nowhere"):
        admin.get(path)
        server.client().get(path)
    admin.get("/auth/jwks", headers={"If-None-Match": admin.get("/auth/jwks").headers["ETag"]})
    server.client("someone", ADMIN_PASSWORD).get("/accounts")
    for form in ({}, {"scope": "no:scope"}, {"audience": "nobody"}, {"grant_type": "made-up"}):
        server.client("someone", ADMIN_PASSWORD).post("/auth/token", data=form)
        server.client("someone", "wrong").post("/auth/token", data=form)
    for _ in range(2):
        admin.post("/roles", json={"name": "once"}, headers={"Idempotency-Key": "one"})
    admin.post("/roles", json={"name": "other"}, headers={"Idempotency-Key": "one"})


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
    created: dict[str, str] = client.post("/accounts/me/api-keys", json={"name": "count"}).json()
    return created


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
    assert "hunter2" not in metered.page().text.lower()
    assert metered.count("keyosk_http_requests_total", route="none", status="404") >= 1


@pytest.mark.attack
def test_no_request_makes_a_series(metered: Metered) -> None:
    use_it(metered)
    before = metered.series().keys()
    client = metered.client("hunter3", "hunter3")
    for number in range(20):
        form = {"audience": f"a{number}", "scope": f"s:{number}", "grant_type": f"g{number}"}
        client.post("/auth/token", data=form)
        client.get(f"/auth/jwks?service=made-up-{number}")
        client.request(f"METHOD{number}", f"/made-up/{number}")
    new = metered.series().keys() - before
    assert {name[:3] for name in new} <= {("keyosk_http_requests_total", "404", "none")}


def test_tokens_are_counted_by_service_and_grant_type(metered: Metered) -> None:
    admin = metered.admin()
    name = unique("shop")
    service = {"name": name, "audience": f"https://{name}.example", "refresh_allowed": True}
    admin.post("/services", json={**service, "scopes": [{"name": f"{name}:read"}]})
    buyer = {"username": f"{name}-buyer", "password": ADMIN_PASSWORD}
    admin.post("/accounts", json={**buyer, "grants": {"scopes": [f"{name}:read"]}})
    metered.becomes(0, "keyosk_service_tokens_issued_total", service=name)
    client = metered.client(buyer["username"], ADMIN_PASSWORD)
    issued = client.post("/auth/token", data={"scope": f"{name}:read offline_access"}).json()
    form = {"grant_type": "refresh_token", "refresh_token": issued["refresh_token"]}
    before = metered.count("keyosk_tokens_issued_total", grant_type="refresh_token")
    assert metered.client().post("/auth/token", data=form).status_code == 200
    assert metered.count("keyosk_tokens_issued_total", grant_type="refresh_token") == before + 1
    metered.becomes(2, "keyosk_service_tokens_issued_total", service=name)
    metered.becomes(1, "keyosk_refresh_sessions")
    assert client.delete("/accounts/me/tokens").status_code in (200, 204)
    metered.becomes(0, "keyosk_refresh_sessions")
    metered.becomes(1, "keyosk_revocations", most=1_000)
    admin.delete(f"/services/{name}?force=true")
    metered.becomes(0, "keyosk_service_tokens_issued_total", service=name)
    metered.becomes(2, "keyosk_service_tokens_issued_total", service="other", most=1_000)


def test_refused_tokens_are_counted_by_reason(metered: Metered) -> None:
    client = metered.client("admin", ADMIN_PASSWORD)
    for reason, form in (
        ("invalid_scope", {"scope": "no:scope"}),
        ("invalid_target", {"audience": "no-such-service"}),
        ("unsupported_grant_type", {"grant_type": "password"}),
        ("invalid_grant", {"grant_type": "refresh_token", "refresh_token": "kysr_x"}),
    ):
        before = metered.count("keyosk_tokens_refused_total", reason=reason)
        assert client.post("/auth/token", data=form).json()["error"] == reason
        assert metered.count("keyosk_tokens_refused_total", reason=reason) == before + 1


@pytest.mark.slow
def test_throttled_accounts_and_sources_are_told(tmp_path: Path) -> None:
    with Metered(tmp_path, workers="2") as metered:
        assert metered.count("keyosk_throttled") == 0
        assert_throttling_is_told(metered)


def assert_throttling_is_told(metered: Metered) -> None:
    name = unique("target")
    metered.admin().post("/accounts", json={"username": name, "password": ADMIN_PASSWORD})
    for _ in range(16):
        client = metered.client(name, "wrong")
        client.source = source()
        client.post("/auth/token")
    metered.becomes(1, "keyosk_throttled", kind="account")
    guesser = metered.client(name, "wrong")
    for number in range(26):
        guesser.session.auth = (f"{name}-{number}", "wrong")
        guesser.post("/auth/token")
    metered.becomes(1, "keyosk_throttled", kind="source")


def test_signing_keys_and_who_has_not_fetched_the_next(metered: Metered) -> None:
    admin = metered.admin()
    slow = unique("slow")
    admin.post("/services", json={"name": slow, "audience": slow})
    assert metered.client().get(f"/auth/jwks?service={slow}").status_code == 200
    assert metered.count("keyosk_signing_keys", algorithm="ES256", state="active") == 1
    began = metered.count("keyosk_signing_key_active_timestamp_seconds", algorithm="ES256")
    assert abs(time.time() - began) < 3600
    every = metered.count("keyosk_signing_key_rotation_timestamp_seconds", algorithm="ES256")
    assert every == began + 90 * 86_400
    response = metered.client("admin", ADMIN_PASSWORD).post("/signing-keys/rotate", json={})
    assert response.status_code == 201, response.text
    metered.becomes(1, "keyosk_signing_keys", algorithm="ES256", state="next")
    now = time.time()
    name = "keyosk_signing_key_rotation_timestamp_seconds"
    metered.becomes(now + 600, name, most=now + 1_200, algorithm="ES256")
    metered.becomes(1, "keyosk_signing_key_laggards", algorithm="ES256")
    deadline = time.monotonic() + 60
    while metered.count("keyosk_signing_key_laggards", algorithm="ES256"):
        assert time.monotonic() < deadline  # each process has the next key within a second
        metered.client().get(f"/auth/jwks?service={slow}")
        time.sleep(0.5)
    admin.delete(f"/signing-keys/{response.json()['kid']}")


def test_fetches_of_keys_are_counted(metered: Metered) -> None:
    before = metered.count("keyosk_jwks_fetches_total")
    statuses, tag = [0], ""
    while 304 not in statuses:  # another test may just have changed the keys
        response = metered.client().get("/auth/jwks", headers={"If-None-Match": tag})
        statuses.append(response.status_code)
        tag = response.headers["ETag"]
    assert metered.count("keyosk_jwks_fetches_total") == before + len(statuses) - 1
    assert metered.count("keyosk_jwks_fetches_total", result="not_modified") >= 1
    assert metered.count("keyosk_jwks_fetches_total", result="sent") >= 1


def test_repeated_requests_are_counted(metered: Metered) -> None:
    admin = metered.admin()
    results = ("first", "repeated", "refused")

    def counted() -> list[float]:
        return [metered.count("keyosk_idempotent_requests_total", result=each) for each in results]

    before = counted()
    key = {"Idempotency-Key": unique("key")}
    name = unique("role")
    assert [admin.post("/roles", json={"name": name}, headers=key).status_code for _ in "ab"] == [
        201,
        201,
    ]
    assert admin.post("/roles", json={"name": "another"}, headers=key).status_code == 422
    assert counted() == [each + 1 for each in before]
    metered.becomes(1, STORED, most=1_000)


STORED = "keyosk_idempotency_stored_responses"


def test_the_audit_log_is_told(metered: Metered) -> None:
    metered.admin().post("/roles", json={"name": unique("role")})
    metered.becomes(0, "keyosk_audit_unsealed_rows")
    metered.becomes(1, "keyosk_audit_sealed_rows", most=100_000)
    metered.becomes(0, "keyosk_audit_oldest_unsealed_timestamp_seconds")


def test_what_was_under_way_in_a_killed_worker_is_not_under_way_for_ever(metered: Metered) -> None:
    assert metered.process is not None
    with socket.create_connection(("127.0.0.1", metered.port)) as half:
        # The body of an import streams: the request waits for the rest of it.
        token = metered.admin().session.headers["Authorization"]
        half.sendall(
            b"POST /accounts/import HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            b"Content-Type: application/x-ndjson\r\nAuthorization: "
            + str(token).encode()
            + b"\r\n\r\n{"
        )
        metered.becomes(1, "keyosk_http_requests_in_flight")
        for worker in psutil.Process(metered.process.pid).children():
            os.kill(worker.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        with suppress(requests.ConnectionError):
            metered.becomes(0, "keyosk_http_requests_in_flight")
            break
        assert time.monotonic() < deadline
    metered.becomes(3, "keyosk_workers")


def test_hashing_is_counted(metered: Metered) -> None:
    before = metered.count("keyosk_hashing_seconds_count")
    a_token(metered)
    assert metered.count("keyosk_hashing_seconds_count") >= before + 1
    assert metered.count("keyosk_hashing_slots") >= 1
    assert metered.count("keyosk_hashing_active") == 0
    assert metered.count("keyosk_hashing_waiting") == 0


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.every_database
def test_metrics_tell_of_a_database_that_is_away_and_do_not_wait_for_it(tmp_path: Path) -> None:
    with (
        PostgresServer() as postgres,
        Metered(tmp_path, postgres.create_database(), workers="2") as server,
    ):
        server.becomes(1, "keyosk_database_up")
        server.becomes(1, "keyosk_up")
        assert server.count("keyosk_database_connections") >= 1
        assert server.count("keyosk_database_connections_max") >= 10
        assert server.count("keyosk_database_size_bytes") > 1_000_000
        sealed = server.count("keyosk_audit_sealed_rows")
        postgres.freeze()
        try:
            server.becomes(0, "keyosk_database_up")
            assert server.count("keyosk_audit_sealed_rows") == sealed
            server.client("nobody", "wrong").post("/auth/token")
            assert server.count("keyosk_database_failures_total") >= 1
        finally:
            postgres.thaw()
        server.becomes(1, "keyosk_database_up")
    # And one that is not there at the start.
    server = Metered(tmp_path, "postgresql://keyosk@127.0.0.1:1/keyosk", workers="2")
    server.launch()
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(requests.ConnectionError):
                assert server.count("keyosk_up") == 0
                assert server.count("keyosk_database_up") == 0
                break
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        server.stop()


def test_the_page_of_metrics_is_the_table_of_the_code() -> None:
    rows = [f"| `{family.shown_name}` | {family.kind} |" for family in FAMILIES]
    page = METRICS_PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `keyosk_\w+` \| \w+ \|", page, re.MULTILINE) == rows
    for family, start in zip(FAMILIES, rows, strict=True):
        row = next(line for line in page.splitlines() if line.startswith(start))
        assert row.endswith(f" | {family.help} |")
        for name in (*family.labels, *(value for each in family.values for value in each)):
            assert f"`{name}`" in row, (family.name, name)


def test_the_values_of_labels_are_those_of_the_program() -> None:
    assert set(ALGORITHMS) == set(SIGNING_ALGORITHMS)
    assert set(KEY_STATES) == set(KeyState) - {KeyState.GONE}
    words = {*errors.OAUTH_CODES.values(), *errors.OAUTH_STATUS_CODES.values(), "invalid_request"}
    assert set(TOKEN_ERRORS) == words - {"unsupported_response_type"}


@pytest.mark.skipif(
    not (os.environ.get("CI") or shutil.which("promtool")), reason="no promtool here"
)
def test_promtool_finds_no_fault_in_names_and_texts(metered: Metered) -> None:
    result = execute(["promtool", "check", "metrics"], input=metered.page().text)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


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
    response = metered.page(headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert [family.name for family in open_metrics(response.text)]  # type: ignore[no-untyped-call]  # it has no types


def line_of(server: Metered, response: requests.Response) -> dict[str, object]:
    """The line that the log has of a request."""
    lines = server.log.read_text().splitlines()
    line = next(line for line in reversed(lines) if response.headers["X-Request-Id"] in line)
    entry: dict[str, object] = json.loads(line)
    return entry


def test_the_log_says_whose_token_it_was(metered: Metered) -> None:
    response = a_token(metered)
    entry = line_of(metered, response)
    claims = requests.post(
        f"{metered.url}/auth/introspect",
        data={"token": response.json()["access_token"]},
        auth=("admin", ADMIN_PASSWORD),
        timeout=10,
    ).json()
    assert (entry["account"], entry["jti"]) == (claims["sub"], claims["jti"])
    assert "api_key" not in entry


def test_the_log_says_who_was_refused(metered: Metered) -> None:
    response = metered.admin().post(
        "/accounts", json={"username": "meek", "password": ADMIN_PASSWORD}
    )
    refused = metered.client("meek", ADMIN_PASSWORD).get("/accounts")
    assert refused.status_code == 403
    entry = line_of(metered, refused)
    assert (entry["account"], entry["status"]) == (response.json()["id"], 403)


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
def test_a_chosen_address_that_is_taken_is_refused(tmp_path: Path, taken: str) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path, metrics_bind=taken)
    result = server.run("serve")
    assert result.returncode == 1
    assert f"KEYOSK_METRICS_BIND: cannot listen at {taken}: Address already in use" in result.stderr


@pytest.mark.slow
def test_a_default_address_that_is_taken_is_told(tmp_path: Path) -> None:
    """A second Keyosk on the machine starts, without."""
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path)
    del server.environment["KEYOSK_METRICS_BIND"]
    with suppress(OSError), socket.create_server(("127.0.0.1", 9464)):
        with server:
            assert a_token(server).status_code == 200
        assert (
            "no metrics: cannot listen at 127.0.0.1:9464: Address already in use"
            in server.log.read_text()
        )
        return
    with server:  # somebody else has it, which is as good
        assert "no metrics: cannot listen at 127.0.0.1:9464" in server.log.read_text()


@pytest.mark.slow
def test_a_main_address_that_is_taken_is_refused(tmp_path: Path, taken: str) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path)
    server.environment["KEYOSK_BIND"] = taken
    result = server.run("serve")
    assert result.returncode == 1
    assert f"KEYOSK_BIND: cannot listen at {taken}: Address already in use" in result.stderr
