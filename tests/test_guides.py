"""The guides for frameworks in Python: each service is started as written there, and attacked."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from live import Client, LiveServer, free_port
from people import ok
from processes import execute
from test_bad_tokens import verify

pytestmark = pytest.mark.slow

GUIDES = Path(__file__).parent.parent / "docs" / "how-to" / "services"
KEYOSK, PORT = "http://127.0.0.1:8080", "8081"
_START = 60  # seconds


def files(page: str) -> dict[str, str]:
    """The programs of a page, by the name in their first line."""
    blocks = re.findall(
        r"^```python\n# (\S+\.py)\n(.*?)^```$", _text(page), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == len(re.findall(r"^```python$", _text(page), re.MULTILINE))
    assert len(blocks) == len(dict(blocks))
    return dict(blocks)


def commands(page: str) -> list[str]:
    """What starts the services of a page."""
    lines = re.findall(r"^```console\n(.*)\n```$", _text(page), re.MULTILINE)
    return [line for line in lines if not line.startswith("pip ")]


def _text(page: str) -> str:
    return (GUIDES / f"{page}.md").read_text()


PAGES = ["fastapi", "flask", "django", "aiohttp"]
SERVICES = [(page, command) for page in PAGES for command in commands(page)]
#: What generic libraries accept, as their pages say; none of them learns of revocations.
ACCEPTED: dict[str, set[str]] = {"fastapi": set(), "flask": set(), "django": set()}


@contextmanager
def started(page: str, command: str, folder: Path, issuer: str) -> Iterator[str]:
    """A service of a page as a process of its own; gives its address."""
    port = str(free_port())
    for name, text in files(page).items():
        (folder / name).write_text(text.replace(KEYOSK, issuer).replace(PORT, port))
    log = (folder / "service.log").open("wb")
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command.replace(PORT, port)}"],
        cwd=folder,
        env={**_environment(), "HOME": str(folder)},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/todos"
        _await(process, url, folder / "service.log")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            log.close()


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": "", "no_proxy": "127.0.0.1"}


def _await(process: subprocess.Popen[Any], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            assert requests.get(url, timeout=60).status_code == 401  # nobody needs Keyosk for that
            return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize(("page", "command"), SERVICES, ids=[" ".join(each) for each in SERVICES])
def test_the_service_of_a_guide_refuses_every_bad_token(
    server: LiveServer, admin: Client, tmp_path: Path, page: str, command: str
) -> None:
    if admin.get("/services/todo").status_code == 404:
        body = {"name": "todo", "scopes": ["todo:read", "todo:write"]}
        ok(admin.post("/services", json=body), 201)
    bind = f"127.0.0.1:{free_port()}"
    with started(page, command, tmp_path, f"http://{bind}") as url:
        more = ["--scope", "todo:read"]
        if "generic" not in command:
            more.append("--revocations")
        code, verdicts = verify(server, url, "todo", bind, *more)
    assert len(verdicts) >= 30
    wrong = {name for name, verdict in verdicts.items() if verdict != "right"}
    if "generic" not in command:
        assert (code, wrong) == (0, set())
    else:
        assert verdicts["revoked"] == "not polled"
        assert wrong - {name for name in wrong if "revoked" in name} == ACCEPTED[page]


@pytest.mark.parametrize("page", PAGES)
def test_the_test_of_a_guide_passes_and_can_fail(tmp_path: Path, page: str) -> None:
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_todo.py"]
    options: dict[str, Any] = {"cwd": tmp_path, "env": _environment(), "text": True}
    result = subprocess.run(run, capture_output=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
    service = (tmp_path / "todo.py").read_text()
    (tmp_path / "todo.py").write_text(service.replace('require("todo:write")', "require()"))
    result = subprocess.run(run, capture_output=True, **options)
    assert result.returncode == 1, result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES)
def test_protecting_a_service_takes_at_most_six_lines(page: str) -> None:
    lines = files(page)["todo.py"].splitlines()
    own = [line for line in lines if re.search(r"keyosk|require\(", line, re.IGNORECASE)]
    own = [line for line in own if ".subject" not in line]  # what the service does with it
    assert 3 < len(own) <= 6


@pytest.mark.skipif(not shutil.which("gofmt"), reason="no Go here")
def test_the_files_for_go_are_written_as_gofmt_writes_them(tmp_path: Path) -> None:
    """The libraries come from a registry that the tests do not reach, so they are not built."""
    files = re.findall(r"^```go\n(// (\S+\.go)\n.*?)^```$", _text("go"), re.DOTALL | re.MULTILINE)
    assert [name for _, name in files] == ["main.go", "keyosk.go"]
    for text, name in files:
        (tmp_path / name).write_text(text)
    result = execute(["gofmt", "-d", tmp_path])
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
