"""Completion in the shells themselves: commands, options, and names from the server."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from live import Client, LiveServer, free_port, unique
from people import make_person, make_service, ok
from processes import execute
from terminal import keyosk
from test_remote import Terminal

pytestmark = pytest.mark.slow

SHELLS = ("bash", "zsh", "fish")
WAIT = 120  # seconds for a shell, and the programs that it starts, on a busy machine
START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
SOURCE = {
    "bash": "bind 'set enable-bracketed-paste off'; source <(keyosk completion bash)",
    "zsh": "unset zle_bracketed_paste; autoload -U compinit; compinit -u -D; "
    "source <(keyosk completion zsh)",
}
#: In place of the program, once its name is completed: it writes down its arguments.
INSTEAD = "keyosk() { printf '%s ' \"$@\" >out; mv out ran; }"


class Shell:
    """One of the shells, with ``keyosk`` on its path and completion as the page says."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        program = folder / "bin" / "keyosk"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m keyosk "$@"\n')
        program.chmod(0o755)
        self.name = name
        self.folder = folder
        self.environment = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            **environment,
        }

    def completed(self, line: str) -> str:
        """The words after ``keyosk`` once the Tab key was pressed at the end of them."""
        return self._offered(line) if self.name == "fish" else self._typed(line)

    def _offered(self, line: str) -> str:
        """What fish would make of it: its own command says what the key would offer."""
        script = f"keyosk completion fish | source; complete --do-complete 'keyosk {line}'"
        result = execute(
            ["fish", "--no-config", "-c", script], env=self.environment, cwd=self.folder
        )
        assert result.returncode == 0, result.stderr
        words = [each.split("\t")[0] for each in result.stdout.splitlines()]
        *before, last = line.split(" ")
        return " ".join([*before, words[0] if len(words) == 1 else last])

    def _typed(self, line: str) -> str:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            START[self.name],
            env={**self.environment, "PS1": "> "},
            cwd=self.folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        deadline = time.monotonic() + WAIT
        shown, is_ready, ran = b"", False, self.folder / "ran"
        try:
            os.write(ours, f"{SOURCE[self.name]}; {INSTEAD}; echo rea'dy'\n".encode())
            while not ran.exists() and time.monotonic() < deadline:
                if select.select([ours], [], [], 0.1)[0]:
                    shown += os.read(ours, 4096)
                if not is_ready and re.search(rb"ready\r?\n", shown):
                    is_ready = True
                    # What is typed after the key waits until the key was worked off.
                    os.write(ours, f"keyosk {line}\t\n".encode())
            assert ran.exists(), shown.decode(errors="replace")
            return ran.read_text().rstrip()
        finally:
            process.kill()
            process.wait()
            os.close(ours)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("kind", ["command", "option", "account", "scope"])
def test_a_shell_completes_what_was_begun(
    server: LiveServer, admin: Client, tmp_path: Path, shell: str, kind: str
) -> None:
    service = make_service(admin)
    name = f"{os.urandom(4).hex()}-{unique('person')}"  # no other begins like it
    ok(admin.post("/accounts", json={"username": name}), 201)
    begun, whole = {
        "command": ("signing-k", "signing-key"),
        "option": ("account create bob --disp", "account create bob --display-name"),
        "account": (f"account show {name[:8]}", f"account show {name}"),
        # A colon, at which bash begins another word.
        "scope": (f"grant add {name} {service}:re", f"grant add {name} {service}:read"),
    }[kind]
    database = {key: value for key, value in server.environment.items() if "KEYOSK_" in key}
    assert Shell(shell, tmp_path, database).completed(begun) == whole


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_names_from_a_server(
    server: LiveServer, admin: Client, tmp_path: Path, shell: str
) -> None:
    name = f"{os.urandom(4).hex()}-{unique('role')}"
    ok(admin.post("/roles", json={"name": name, "scopes": []}), 201)
    user = Terminal(tmp_path, server.url).logged_in()
    line = Shell(shell, tmp_path, user.variables).completed(f"role show {name[:8]}")
    assert line == f"role show {name}"


def complete(environment: dict[str, str], folder: Path, line: str) -> list[str]:
    """What bash is offered for a line, in this very process."""
    asking = {"_KEYOSK_COMPLETE": "bash_complete", "COMP_WORDS": line}
    result = keyosk({**environment, **asking}, folder)
    assert result.err == ""
    return [each.partition(",")[2] for each in result.out.splitlines() if each]


def test_a_variable_that_was_left_behind_is_named(tmp_path: Path) -> None:
    for shell in SHELLS:
        left = {"_KEYOSK_COMPLETE": f"{shell}_complete"}
        result = keyosk(left, tmp_path, "account", "list")
        assert result.err.startswith("keyosk: _KEYOSK_COMPLETE is for shells")
        assert "COMP_WORDS" in result.err


def test_names_are_those_of_their_place(server: LiveServer, admin: Client, tmp_path: Path) -> None:
    person = make_person(admin)
    service = make_service(admin)
    keys = {
        name: ok(admin.post(f"{person.path}/api-keys", json={"name": name}), 201)["id"]
        for name in ("laptop", "two words", "-y")
    }
    twins = [
        ok(admin.post(f"{person.path}/api-keys", json={"name": "twin"}), 201)["id"] for _ in "ab"
    ]
    offered = complete(server.environment, tmp_path, f"keyosk api-key show {person.username} ")
    assert offered == ["laptop", keys["two words"], keys["-y"], *twins]
    for line, wanted in {
        f"keyosk service show {service[:-1]}": service,
        f"keyosk role create new {service}:": f"{service}:read",
        "keyosk signing-key export ": ok(admin.get("/auth/jwks"))["keys"][0]["kid"],
    }.items():
        assert wanted in complete(server.environment, tmp_path, line), line
    assert complete(server.environment, tmp_path, "keyosk account create ad") == []
    assert complete(server.environment, tmp_path, "keyosk account show no-such-name") == []


def test_without_a_server_or_login_completion_is_silent(server: LiveServer, tmp_path: Path) -> None:
    for url in (f"http://127.0.0.1:{free_port()}", server.url, "nonsense", "http://example.com"):
        assert complete(Terminal(tmp_path, url).variables, tmp_path, "keyosk account show ad") == []
    assert complete({"KEYOSK_BIND": "nonsense"}, tmp_path, "keyosk account show ad") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.attack
def test_a_name_that_a_shell_takes_for_more_is_not_offered(admin: Client, tmp_path: Path) -> None:
    from keyosk.cli import names

    for name in ("$(id)", "`id`", "a b", "a\nb", "*", "a;b", "a'b", "\x1b[1m", "a,b", ""):
        assert names._NAME.fullmatch(name) is None, name


def test_a_mistyped_command_completes_nothing_and_says_nothing(tmp_path: Path) -> None:
    assert complete({"PATH": "/usr/bin"}, tmp_path, "keyosk rolee sh") == []
