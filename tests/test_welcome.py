"""What somebody at a terminal sees first: a real pseudo-terminal, and the line that it shows."""

import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from live import command, environment, free_port
from test_start import PASSWORD

pytestmark = pytest.mark.slow

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
END = "Stop it with Ctrl+C."
#: As the Makefile starts it.
START = "from keyosk.cli import main; sys.argv[0] = 'keyosk'; sys.exit(main())"


class Terminal:
    """A program at a terminal, and all that it has written there."""

    def __init__(
        self, folder: Path, *arguments: str, program: Sequence[str] = (), **settings: str
    ) -> None:
        others = settings.pop("others", "")
        self.ours, theirs = pty.openpty()
        named = dict(each.split("=", 1) for each in shlex.split(others))
        inherited = environment(**settings)
        inherited.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            program or command(*arguments),
            cwd=folder,
            env={**inherited, "TERM": "xterm-256color", **named},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.written = ""

    def read_until(self, text: str) -> str:
        """All that was written, once this is there or the program has ended."""
        deadline = time.monotonic() + 60
        while text not in self.written and time.monotonic() < deadline:
            if not select.select([self.ours], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(self.ours, 65536)
            except OSError:  # nobody has the other side any more
                break
            self.written += data.decode().replace("\r\n", "\n")
        return self.written


@contextmanager
def terminal(
    folder: Path, *arguments: str, program: Sequence[str] = (), **settings: str
) -> Iterator[Terminal]:
    running = Terminal(folder, *arguments, program=program, **settings)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.process.terminate()
        running.read_until("\0")
        running.process.wait(60)
        os.close(running.ours)


def test_the_line_that_a_new_user_sees_gets_a_token_for_the_admin_api(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"bind": f"127.0.0.1:{port}", "metrics_bind": "off"}
    with terminal(tmp_path, "serve", **settings) as shown:
        written = shown.read_until(END)
        assert "\x1b[" in written
        plain = ESCAPES.sub("", written)
        assert f"Keyosk is at {url}" in plain
        assert f"{url}/docs" in plain
        assert f"{url}/console" in plain
        assert requests.get(f"{url}/console/login", timeout=60).status_code == 200
        [password] = PASSWORD.findall(plain)
        [line] = re.findall(r"^    (curl .+)$", plain, re.MULTILINE)
        assert password in line
        reply = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60, check=True)
        token = json.loads(reply.stdout)["access_token"]
        response = requests.get(
            f"{url}/accounts", headers={"Authorization": f"Bearer {token}"}, timeout=60
        )
        assert [each["username"] for each in response.json()["items"]] == ["admin"]
        # What it says to do next can be done, as it stands.
        steps = re.findall(r"^    (?:\S+/)?keyosk (.+?)  +# ", plain, re.MULTILINE)
        assert len(steps) == 3
        for step in steps:
            result = subprocess.run(
                command(*shlex.split(step)),
                cwd=tmp_path,
                env=environment(**settings),
                input=b"violet lamps orbit slowly\n" * 2,
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert result.returncode == 0, result.stderr
    # The second time there is no secret to tell.
    with terminal(tmp_path, "serve", **settings) as shown:
        plain = ESCAPES.sub("", shown.read_until(END))
        assert f"Keyosk is at {url}" in plain
        assert "curl" not in plain
        assert password not in plain


def test_where_no_shell_finds_the_program_the_next_steps_name_its_file(tmp_path: Path) -> None:
    """As after "make run": what is shown can be pasted."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    program = programs / "keyosk"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    program.chmod(0o755)
    start = f"import sys; sys.executable = {str(programs / 'python')!r}; {START}"
    settings = {"bind": f"127.0.0.1:{free_port()}", "metrics_bind": "off"}
    with terminal(
        tmp_path, program=[sys.executable, "-c", start, "serve"], others="PATH=/usr/bin", **settings
    ) as shown:
        plain = ESCAPES.sub("", shown.read_until(END))
        [line] = re.findall(r"^    (.+ service create .+)$", plain, re.MULTILINE)
        assert line.startswith(".venv/bin/keyosk ")
        result = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env={**environment(**settings), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr


def test_a_welcome_without_colours_for_who_wants_none(tmp_path: Path) -> None:
    settings = {"bind": f"127.0.0.1:{free_port()}", "metrics_bind": "off"}
    with terminal(tmp_path, "serve", others="NO_COLOR=1", **settings) as shown:
        written = shown.read_until(END)
        assert PASSWORD.search(written)
        assert END in written
        assert "\x1b" not in written


@pytest.mark.parametrize("others", ["TERM=dumb", "NO_COLOR="])
def test_a_terminal_that_knows_no_colours_gets_none(tmp_path: Path, others: str) -> None:
    settings = {"bind": f"127.0.0.1:{free_port()}", "metrics_bind": "off"}
    with terminal(tmp_path, "serve", others=others, **settings) as shown:
        # An empty NO_COLOR counts as none (https://no-color.org).
        assert ("\x1b[" in shown.read_until(END)) == (others == "NO_COLOR=")


def test_with_the_port_taken_nothing_secret_is_shown_and_nothing_is_made(tmp_path: Path) -> None:
    port = free_port()
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    settings = {"bind": f"127.0.0.1:{port}", "metrics_bind": "off"}
    with terminal(first, "serve", **settings) as shown:
        shown.read_until(END)
        with terminal(second, "serve", **settings) as refused:
            assert refused.process.wait(60) == 1
            said = refused.read_until("\0")
            cause = f"KEYOSK_BIND: cannot listen at 127.0.0.1:{port}: Address already in use; stop "
            assert f"{cause}the program that listens there, or choose another port (" in said
            assert not PASSWORD.search(said)
            assert "Keyosk is at" not in said
        assert list(second.iterdir()) == []


def test_the_line_for_a_unix_socket_works_without_the_proxy() -> None:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        settings = {
            "bind": f"unix:{folder / 'keyosk.sock'}",
            "issuer": "https://login.example.org",
            "metrics_bind": "off",
        }
        with terminal(folder, "serve", **settings) as shown:
            plain = ESCAPES.sub("", shown.read_until(END))
            [line] = re.findall(r"^    (curl .+)$", plain, re.MULTILINE)
            result = subprocess.run(
                ["bash", "-c", line], capture_output=True, timeout=60, check=True
            )
            assert "access_token" in json.loads(result.stdout)
