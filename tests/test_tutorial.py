"""The tutorial is followed as it stands: its service runs, and every response is compared."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import LiveServer, free_port
from pasted import blocks, terminal
from waiting import running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "start" / "tutorial.md"
KEYOSK, NOTES = "http://127.0.0.1:8080", "127.0.0.1:8081"


@contextlib.contextmanager
def notes_service(issuer: str, folder: Path) -> Iterator[str]:
    """The service of the page, started by its line; gives its address."""
    (source,) = blocks(PAGE, "python")
    (folder / "notes.py").write_text(source.replace(KEYOSK, issuer))
    _, start = blocks(PAGE, "console")
    port = str(free_port())
    line = start.replace(".venv/bin/flask", f"{sys.executable} -m flask").replace("8081", port)
    environment = {**os.environ, "PYTHONPATH": "", "no_proxy": "127.0.0.1"}
    command, log = ["bash", "-c", f"exec {line}"], folder / "notes.log"
    with running(command, log, port=int(port), cwd=folder, env=environment):
        yield f"127.0.0.1:{port}"


@pytest.fixture
def keyosk(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path) as server:
        yield server


def test_the_tutorial_protects_a_service(keyosk: LiveServer, tmp_path: Path) -> None:
    with notes_service(keyosk.url, tmp_path) as notes, terminal(keyosk) as bash:
        scripts = [each.replace(NOTES, notes) for each in blocks(PAGE, "sh")]
        printed = bash.paste(*scripts)
    stated = blocks(PAGE, "json")
    # Those of step 1 to 4 print what is not compared; each later one is followed by its response.
    assert [each.strip() for each in printed[-len(stated) :]] == [each.strip() for each in stated]
    assert len(scripts) == 3 + len(stated)
