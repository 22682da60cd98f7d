"""Runs the commands of a page in bash; ``keyosk`` and ``systemctl`` act on a server of the test.

``keyosk`` is forked from a process that has imported it (``processes``), so that a page with thirty
commands costs a second and not half a minute.
"""

import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import processes
from live import LiveServer
from processes import execute

_PROGRAM = f"""#!{sys.executable} -SE
import json, os, socket, sys
name = os.path.basename(sys.argv[0])
with socket.socket(socket.AF_UNIX) as channel:
    channel.connect(os.environ["PASTED"])
    request = {{"name": name, "arguments": sys.argv[1:]}}
    request |= {{"cwd": os.getcwd(), "env": dict(os.environ)}}
    text = json.dumps(request).encode()
    socket.send_fds(channel, [len(text).to_bytes(8, "big")], [0, 1, 2])
    channel.sendall(text)
    sys.exit(int(channel.makefile().readline() or 70))
"""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language, without their indentation."""
    matches = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [re.sub(rf"^{space}", "", text, flags=re.MULTILINE) for space, text in matches]


class Terminal:
    """A bash on the machine of a server; use as ``with Terminal(server, folder) as terminal``."""

    def __init__(self, server: LiveServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.calls: list[list[str]] = []
        """Every command that was given to ``keyosk`` and ``systemctl``."""

    def __enter__(self) -> "Terminal":
        programs = self.folder / "programs"
        programs.mkdir()
        for name in ("keyosk", "systemctl"):
            (programs / name).write_text(_PROGRAM)
            (programs / name).chmod(0o755)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(programs / "channel"))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def paste(self, *scripts: str, **variables: str) -> list[str]:
        """Paste scripts into one bash, whose first failure ends it; returns what each printed."""
        mark = "\nprintf '\\036'\n"
        programs = str(self.folder / "programs")
        path = os.pathsep.join([programs, str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**self.server.environment, "PATH": path, "no_proxy": "127.0.0.1"}
        environment |= {"PASTED": f"{programs}/channel", **variables}
        text = mark.join([*scripts, ""]).replace("http://127.0.0.1:8080", self.server.url)
        # What a page adds to PATH stands behind the programs of this test.
        text = text.replace('PATH="$PWD/.venv/bin:$PATH"', 'PATH="$PATH:$PWD/.venv/bin"')
        result = execute(["bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=environment)
        assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
        return result.stdout.split("\036")[:-1]

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                channel, _ = self._socket.accept()
                threading.Thread(target=self._run, args=(channel,), daemon=True).start()

    def _run(self, channel: socket.socket) -> None:
        with channel:
            head, numbers, _, _ = socket.recv_fds(channel, 8, 3)
            with channel.makefile("rb") as reading:
                request = json.loads(reading.read(int.from_bytes(head, "big")))
            try:
                code = self._command(request, numbers)
            finally:
                for number in numbers:
                    os.close(number)
            channel.sendall(f"{code}\n".encode())

    def _command(self, request: dict[str, Any], numbers: list[int]) -> int:
        self.calls.append([request["name"], *request["arguments"]])
        if request["name"] == "systemctl":
            action, unit = request["arguments"]
            assert (action in ("start", "stop", "restart"), unit) == (True, "keyosk")
            if action != "start":
                self.server.stop()
            if action != "stop":
                # A service manager gives it the settings of its file.
                self.server.environment.update(settings_of(self.folder / "keyosk.env"))
                self.server.start()
            return 0
        process = processes.start(
            *request["arguments"],
            cwd=Path(request["cwd"]),
            env=request["env"],
            stdin=numbers[0],
            stdout=numbers[1],
            stderr=numbers[2],
        )
        return process.wait(120)


def settings_of(file: Path) -> dict[str, str]:
    """The settings in an environment file, if there is one."""
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(line.split("=", 1) for line in lines if "=" in line)


@contextmanager
def terminal(server: LiveServer) -> Iterator[Terminal]:
    """A terminal in the folder of a server."""
    with Terminal(server, server.folder) as opened:
        yield opened
