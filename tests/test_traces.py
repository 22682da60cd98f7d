"""Traces, as a collector gets them: real OTLP, decoded by OpenTelemetry's own messages."""

import gzip
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from live import ADMIN_PASSWORD, LiveServer, environment, free_port
from people import make_key, make_person
from processes import execute
from test_log import line_of

WAIT = 60.0
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
WORKERS = 2


class Collector:
    """Takes spans over OTLP, and keeps what was sent as bytes too."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.sent = b""
        self.paths: set[str] = set()
        self._arrived = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                outer.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        message = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            self.paths.add(path)
            self.sent += body
            for each in message.resource_spans:
                self.resources.append(texts(each.resource.attributes))
                self.spans += [span for scope in each.scope_spans for span in scope.spans]
            self._arrived.notify_all()

    def wait_for(self, number: int, name: str) -> list[Span]:
        """Spans of this name, once there are so many."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.named(name)) >= number, WAIT), [
                span.name for span in self.spans
            ]
            return self.named(name)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def below(self, parent: Span) -> list[Span]:
        return [span for span in self.spans if span.parent_span_id == parent.span_id]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def texts(attributes: Any) -> dict[str, str]:
    return {each.key: each.value.string_value or str(each.value.int_value) for each in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    taking = Collector()
    try:
        yield taking
    finally:
        taking.close()


@contextmanager
def traced(
    database_url: str, folder: Path, collector: Collector, **variables: str
) -> Iterator[LiveServer]:
    """A Keyosk that sends its traces there, soon."""
    server = LiveServer(database_url, folder, traces="on", workers=str(WORKERS))
    server.environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **variables,
    }
    with server:
        yield server


@pytest.mark.every_database
@pytest.mark.slow
def test_a_token_request_is_a_part_of_its_callers_trace(
    database_url: str, tmp_path: Path, collector: Collector
) -> None:
    with traced(database_url, tmp_path, collector) as server:
        admin = server.client("admin", ADMIN_PASSWORD)
        person = make_person(admin)
        _, secret = make_key(admin, person)
        response = server.client().post(
            "/auth/token", headers={**PARENT, "Authorization": f"Bearer {secret}"}
        )
        assert response.status_code == 200
        token = response.json()["access_token"]
        # Each way of saying who one is; the last two are refused.
        by_password = server.client(person.username, ADMIN_PASSWORD + "!")
        assert by_password.post("/auth/token", headers=PARENT).status_code == 401
        query = {"audience": "hunter2-in-a-query"}
        assert server.client().get("/auth/token", params=query).status_code == 401
        collector.wait_for(2, "POST /auth/token")
        collector.wait_for(1, "GET /auth/token")
        ours = [s for s in collector.named("POST /auth/token") if s.trace_id.hex() == TRACE]
        assert [each.parent_span_id.hex() for each in ours] == [CALLER] * 2
        [issued] = [s for s in ours if texts(s.attributes)["http.status_code"] == "200"]
        assert texts(issued.attributes) == {
            "http.method": "POST",
            "http.route": "/auth/token",
            "http.status_code": "200",
        }
        assert issued.kind == Span.SPAN_KIND_SERVER
        assert issued.end_time_unix_nano > issued.start_time_unix_nano
        line = line_of(server.log.read_text(), response)
        assert (line["trace_id"], line["span_id"]) == (TRACE, issued.span_id.hex())
        statements = collector.below(issued)
        if database_url.startswith("postgresql"):
            assert {"postgresql"} == {texts(s.attributes)["db.system"] for s in statements}
            assert all(s.trace_id == issued.trace_id for s in statements)
            assert any("%s" in texts(s.attributes)["db.statement"] for s in statements)
        else:
            assert statements == []
    assert {each["service.name"] for each in collector.resources} == {"keyosk"}
    assert collector.paths == {"/v1/traces"}
    for kept in (secret, token, token.split(".")[1], ADMIN_PASSWORD, "hunter2", person.username):
        assert kept.encode() not in collector.sent
    # Keyosk looks after itself all the time; that is no request's.
    assert all(s.parent_span_id for s in collector.spans if s.kind == Span.SPAN_KIND_CLIENT)


@pytest.mark.slow
def test_every_worker_sends_its_spans_and_the_last(tmp_path: Path, collector: Collector) -> None:
    url = f"sqlite:///{tmp_path / 'keyosk.db'}"
    # Nothing is sent before the end.
    with traced(url, tmp_path, collector, OTEL_BSP_SCHEDULE_DELAY="3600000") as server:
        seen: set[int] = set()
        sent, deadline = 0, time.monotonic() + WAIT
        while len(seen) < WORKERS and time.monotonic() < deadline:
            response = server.client().get("/roles")
            seen.add(line_of(server.log.read_text(), response)["process"])
            sent += 1
        assert len(seen) == WORKERS
        assert collector.named("GET /roles") == []
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0
    assert len(collector.named("GET /roles")) == sent


@pytest.mark.slow
def test_what_a_variable_asks_for_is_sent_but_secrets(tmp_path: Path, collector: Collector) -> None:
    """OpenTelemetry's variables can have headers, and newer names, in spans."""
    url = f"sqlite:///{tmp_path / 'keyosk.db'}"
    variables = {
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup,database/dup",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": ".*",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE": ".*",
        "OTEL_SERVICE_NAME": "login",
    }
    with traced(url, tmp_path, collector, **variables) as server:
        secrets = {"Authorization": "Bearer hunter2", "User-Agent": "hunter2", "X-Own": "hunter2"}
        client = server.client()
        client.get("/accounts/hunter2", params={"q": "hunter2"}, headers=secrets)
        client.get("/hunter2/hunter2", headers={**secrets, "Host": "hunter2"})
        client.request("HUNTER2", "/auth/jwks", headers=secrets)
        spans = collector.wait_for(1, "GET /accounts/<account>") + collector.wait_for(1, "GET")
        assert [texts(each.attributes)["http.response.status_code"] for each in spans] == [
            *("401", "404")
        ]
        assert {each["service.name"] for each in collector.resources} == {"login"}
    assert b"hunter2" not in collector.sent


@pytest.mark.slow
def test_a_failure_has_a_span_without_its_text(tmp_path: Path, collector: Collector) -> None:
    url = f"sqlite:///{tmp_path / 'keyosk.db'}"
    with traced(url, tmp_path, collector) as server:
        (tmp_path / "keyosk.db").write_bytes(b"hunter2 is no database " * 400)
        assert server.client("hunter2", ADMIN_PASSWORD).get("/accounts").status_code >= 500
        [span] = collector.wait_for(1, "GET /accounts")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert (span.status.message, list(span.events)) == ("", [])
    assert b"hunter2" not in collector.sent


@pytest.mark.slow
def test_without_the_extra_the_start_says_what_is_missing(tmp_path: Path) -> None:
    hidden = (
        "import sys\nsys.modules['opentelemetry.sdk'] = None\nfrom keyosk.cli import main\nmain()\n"
    )
    settings = environment(traces="on", bind=f"127.0.0.1:{free_port()}", metrics_bind="off")
    for words in (("serve",), ("config", "check")):
        result = execute([sys.executable, "-c", hidden, *words], cwd=tmp_path, env=settings)
        assert result.returncode == 1
        assert result.stderr == (
            "keyosk: KEYOSK_TRACES: needs the extra opentelemetry: "
            "pip install 'keyosk[opentelemetry]'\n"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nobody_who_sends_no_traces_imports_opentelemetry() -> None:
    script = "import sys, keyosk.cli.serving; print('\\n'.join(sys.modules))"
    result = execute([sys.executable, "-c", script], env=os.environ)
    assert "keyosk.traces" in result.stdout.split()
    assert not [name for name in result.stdout.split() if name.startswith("opentelemetry")]


@pytest.mark.slow
def test_an_unreachable_collector_delays_no_request(tmp_path: Path) -> None:
    server = LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path, traces="on")
    server.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    server.environment["OTEL_BSP_SCHEDULE_DELAY"] = "100"
    with server:
        for _ in range(5):
            assert server.client().get("/auth/jwks").status_code == 200
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0
    assert "Traceback" not in server.log.read_text()
