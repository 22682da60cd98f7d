"""The log: one form from the first line to the last, for programs or for people."""

import json
import os
import pty
import re
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keyosk.web import trace_context
from live import ADMIN_PASSWORD, LiveServer
from postgres import PostgresServer
from tables import table
from waiting import until

HEAD = ["time", "level", "logger", "process", "message"]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def sqlite(folder: Path, **settings: str) -> LiveServer:
    return LiveServer(f"sqlite:///{folder / 'keyosk.db'}", folder, workers="2", **settings)


@pytest.mark.slow
def test_every_line_is_json_with_its_keys_in_one_order(tmp_path: Path) -> None:
    server = sqlite(tmp_path)
    path = tmp_path / "stderr"
    with path.open("wb") as stderr:
        server.stderr = stderr.fileno()
        with server:
            server.client("admin", ADMIN_PASSWORD).post("/auth/token")
            server.client().get("/nowhere")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {tuple(line)[:5] for line in lines} == {tuple(HEAD)}
    assert "Keyosk serves" in " ".join(line["message"] for line in lines)
    assert {line["logger"] for line in lines} == {
        "gunicorn.error",
        "keyosk.access",
        "keyosk.cli.serving",
    }
    requests = [list(line)[5:] for line in lines if line["logger"] == "keyosk.access"]
    shortest = min(requests, key=len)
    assert all(keys[: len(shortest)] == shortest for keys in requests)


def on_a_terminal(server: LiveServer) -> str:
    """What a server writes to a terminal while it answers some requests."""
    ours, theirs = pty.openpty()
    output = b""

    def read() -> None:
        nonlocal output
        with suppress(OSError):
            while data := os.read(ours, 65_536):
                output += data

    reader = threading.Thread(target=read)
    reader.start()
    server.stderr = theirs
    try:
        with server:
            server.client().get("/made%0aup%1b[31m")
    finally:
        os.close(theirs)
        reader.join(60)
        os.close(ours)
    return output.decode().replace("\r\n", "\n")


TEXT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00 (DEBUG|INFO|WARNING|ERROR|CRITICAL) +\S.*")


@pytest.mark.slow
def test_on_a_terminal_it_is_for_people_and_on_one_line_each(tmp_path: Path) -> None:
    lines = on_a_terminal(sqlite(tmp_path)).splitlines()
    assert [line for line in lines if not TEXT.fullmatch(line)] == []
    request = next(line for line in lines if "status=404" in line)
    assert " INFO     request method=GET path=" in request
    assert "\x1b" not in "".join(lines)


@pytest.mark.slow
def test_the_form_can_be_chosen(tmp_path: Path) -> None:
    for line in on_a_terminal(sqlite(tmp_path, log_format="json")).splitlines():
        assert list(json.loads(line))[:5] == HEAD
    with sqlite(tmp_path, log_format="text") as server:
        server.client().get("/nowhere")
    assert any(TEXT.fullmatch(line) for line in server.log.read_text().splitlines())


@table(
    "header, found",
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", True),
        (f"cc-{TRACE}-{SPAN}-01.more", False),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE[1:]}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01", False),
        (f"00-{TRACE[1:]}٣-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}-01\n", False),
        ("", False),
    ],
)
def test_a_traceparent_is_taken_if_it_is_valid(header: str, found: bool) -> None:
    expected = {"trace_id": TRACE, "span_id": SPAN} if found else {}
    assert trace_context.fields(header) == expected


@pytest.mark.slow
def test_a_request_has_its_trace_in_the_log(tmp_path: Path) -> None:
    with sqlite(tmp_path) as server:
        client = server.client()
        good = client.get("/auth/jwks", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        bad = client.get("/auth/jwks", headers={"traceparent": "00-hunter2-hunter2-01"})
        none = client.get("/auth/jwks")
    lines = server.log.read_text()
    assert line_of(lines, good)["trace_id"] == TRACE
    assert line_of(lines, good)["span_id"] == SPAN
    for other in (bad, none):
        assert not {"trace_id", "span_id"} & line_of(lines, other).keys()
    assert "hunter2" not in lines


def line_of(lines: str, response: Any) -> dict[str, Any]:
    name = response.headers["X-Request-Id"]
    entry: dict[str, Any] = json.loads(next(x for x in lines.splitlines() if name in x))
    return entry


END = "The database is available again."


@pytest.mark.fault
@pytest.mark.every_database
@pytest.mark.slow
def test_an_outage_has_one_line_when_it_begins_and_one_when_it_ends(tmp_path: Path) -> None:
    with (
        PostgresServer() as postgres,
        LiveServer(postgres.create_database(), tmp_path, workers="3") as server,
    ):
        for number in (1, 2):
            postgres.halt()
            try:
                for _ in range(12):
                    server.client("nobody", "wrong").post("/auth/token")
                until(partial(has_warnings, server, 2 * number - 1))
                time.sleep(3)  # each worker reads the keys every second
            finally:
                postgres.restart()
            until(partial(has_warnings, server, 2 * number))
            assert warnings_of(server).count(END) == number
            until(lambda: server.client().get("/health/ready").status_code == 200)
            warnings = warnings_of(server)
            assert len([x for x in warnings if x != END]) == number, warnings


def has_warnings(server: LiveServer, number: int) -> bool:
    return len(warnings_of(server)) >= number


def warnings_of(server: LiveServer) -> list[str]:
    messages = []
    for line in server.log.read_text().splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            # A login that fails at that moment may tell of what it could not write besides.
            if isinstance(entry, dict) and entry.get("logger") == "keyosk.storage.outage":
                messages.append(entry["message"])
    return messages
