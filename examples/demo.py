"""Plays the story of the README with real programs, and checks every answer.

``make demo`` runs it: it starts Keyosk and examples/todo_service.py on free ports, with all data in
a temporary folder, types each curl line as a person would, and stops both at the end, whatever
happens. It ends with 0 if all went as told, with 1 at the first surprise.
"""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

TODO_SERVICE = Path(__file__).with_name("todo_service.py")
START = 30  # seconds that a program may take to answer for the first time
STOP = 10  # seconds that it may take to end when asked
JSON = "-H 'Content-Type: application/json'"


class Surprise(Exception):
    """Something is not as the story tells it."""


def main() -> int:
    """Play the story; answers the exit code."""
    # Whoever stops the demo with SIGTERM gets its programs stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if shutil.which("curl") is None:
        print("The demo types curl lines, and there is no curl here: please install it.")
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="keyosk-demo-") as folder, ExitStack() as programs:
            play(Path(folder), programs)
    except Surprise as surprise:
        print(f"\nSurprise: {surprise}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\nAll went as told.")
    return 0


def play(folder: Path, programs: ExitStack) -> None:
    """The story, step by step."""
    keyosk, todo = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    shell = Shell({"KEYOSK": keyosk, "TODO": todo})

    title("1. Start Keyosk, and be its admin")
    print(f"$ keyosk serve        # KEYOSK_BIND={address(keyosk)}, in a temporary folder")
    serving = programs.enter_context(ExitStack())
    serving.enter_context(
        program(keyosk_command("serve"), folder, {"KEYOSK_BIND": address(keyosk)}, name="Keyosk")
    )
    wait_for(f"{keyosk}/health/ready", folder, "Keyosk")
    greeting = (folder / "Keyosk.out").read_text()
    found = re.search(r"shown only now.*?^ +(\S+)$", greeting, re.DOTALL | re.MULTILINE)
    expect(found is not None, "it prints the admin's password")
    assert found is not None
    shell["ADMIN_PASSWORD"] = found[1]
    print(shell.hidden(greeting.rstrip()))
    shell["ADMIN"] = shell.curl(
        '-u "admin:$ADMIN_PASSWORD" "$KEYOSK/auth/token" -d audience=keyosk -d format=header',
        keep="ADMIN",
    )

    title("2. A service with two scopes")
    made = shell.json(
        f'-H "$ADMIN" {JSON} "$KEYOSK/services"'
        """ -d '{"name": "todo", "scopes": ["todo:read", "todo:write"]}'""",
        status=201,
    )
    expect(made["audience"] == "todo", "the audience is the name")

    title("3. An account with a password")
    shell["ALICE_PASSWORD"] = secrets.token_urlsafe(18)
    print("$ ALICE_PASSWORD=...")
    made = shell.json(
        f'-H "$ADMIN" {JSON} "$KEYOSK/accounts"'
        r' -d "{\"username\": \"alice\", \"password\": \"$ALICE_PASSWORD\"}"',
        status=201,
    )
    expect(made["has_password"] is True, "alice has a password")

    title("4. An API key for her, limited to reading")
    made = shell.json(
        f'-H "$ADMIN" {JSON} "$KEYOSK/accounts/alice/api-keys"'
        """ -d '{"name": "reader", "scopes": ["todo:read"]}'""",
        status=201,
    )
    expect(str(made["secret"]).startswith("kysk_"), "the key is shown, this one time")
    shell["ALICE_KEY"] = made["secret"]

    title("5. A grant")
    granted = shell.json(
        f'-H "$ADMIN" {JSON} -X PATCH "$KEYOSK/accounts/alice/grants"'
        """ -d '{"add": {"scopes": ["todo:read", "todo:write"]}}'"""
    )
    expect(granted["scopes"] == ["todo:read", "todo:write"], "alice holds both scopes")

    title("6. Alice uses the service")
    issued = shell.json('-u "alice:$ALICE_PASSWORD" -X POST "$KEYOSK/auth/token"')
    expect(issued["scope"] == "todo:read todo:write", "her password gives her both scopes")
    shell["ALICE"] = f"Authorization: Bearer {issued['access_token']}"
    issued = shell.json('-u "alice:$ALICE_KEY" -X POST "$KEYOSK/auth/token"')
    expect(issued["scope"] == "todo:read", "the key gives the one that it is limited to")
    shell["SCRIPT"] = f"Authorization: Bearer {issued['access_token']}"

    print(f"\n$ python examples/todo_service.py        # TODO_BIND={address(todo)}")
    programs.enter_context(
        program(
            [sys.executable, str(TODO_SERVICE)],
            folder,
            {"TODO_BIND": address(todo), "KEYOSK_URL": keyosk},
            name="todo",
        )
    )
    wait_for(f"{todo}/todos", folder, "todo")
    plants = {"todos": ["water the plants"]}
    print("\nBy password she may write and read:")
    added = shell.json(
        f"""-H "$ALICE" {JSON} "$TODO/todos" -d '{{"text": "water the plants"}}'""", status=201
    )
    expect(added == plants, "it is on her list")
    expect(shell.json('-H "$ALICE" "$TODO/todos"') == plants, "she reads it back")
    print("\nThe script may read and not write:")
    expect(shell.json('-H "$SCRIPT" "$TODO/todos"') == plants, "the script reads the same list")
    refused = shell.json(
        f"""-H "$SCRIPT" {JSON} "$TODO/todos" -d '{{"text": "one more thing"}}'""", status=403
    )
    expect(refused["error"] == "insufficient_scope", "its scope is not enough")
    print("\nNo token, a wrong audience, a changed token:")
    refused = shell.json('"$TODO/todos"', status=401)
    expect(refused["error"] == "token_required", "without a token there is nothing to see")
    refused = shell.json('-H "$ADMIN" "$TODO/todos"', status=401)
    expect(refused["error"] == "invalid_token", "a token for another audience is refused")
    shell["CHANGED"] = changed(shell["ALICE"])
    refused = shell.json('-H "$CHANGED" "$TODO/todos"', status=401)
    expect(refused["error"] == "invalid_token", "a token with one bit changed is refused")

    title("And Keyosk is not asked")
    print("(Keyosk is stopped.)")
    serving.close()
    expect(shell.json('-H "$ALICE" "$TODO/todos"') == plants, "the service decides alone")


class Shell:
    """Types curl lines: prints each with its variables, runs it with their values.

    What is typed is what is run, but for one thing: the line goes to curl by standard input, as
    arguments are there for every user of the machine to see.
    """

    _OPTIONS: Mapping[str, str] = {"-u": "user", "-H": "header", "-d": "data", "-X": "request"}

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = dict(variables)
        for name, value in variables.items():
            print(f"$ {name}={value}")

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._variables[name] = value

    def json(self, line: str, *, status: int = 200) -> dict[str, Any]:
        """Run ``curl LINE``; answers the JSON object that came with this ``status``."""
        answer = json.loads(self.curl(line, status=status))
        if not isinstance(answer, dict):
            raise Surprise("the answer is no JSON object")
        return answer

    def curl(self, line: str, *, status: int = 200, keep: str = "") -> str:
        """Run ``curl LINE``; answers what came, or keeps it quiet where it goes into ``keep``."""
        print(f"\n$ {keep}=$(curl -sS {line})" if keep else f"\n$ curl -sS {line}")
        # -q: nobody's own curl settings. A blank line ends the answer, then comes its status.
        ran = subprocess.run(
            ["curl", "-q", "-sS", "--max-time", "20", "-w", r"\n%{http_code}", "-K", "-"],
            input=self._as_config(line),
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            raise Surprise(f"curl failed: {ran.stderr.strip()}")
        answer, _, code = ran.stdout.rpartition("\n")
        answer = answer.rstrip("\n")
        if not keep:
            print(self.hidden(answer))
        expect(code == str(status), f"the status is {status} (it is {code}: {self.hidden(answer)})")
        return answer

    def hidden(self, text: str) -> str:
        """The text with tokens and API keys cut short, so that a screen does not show them."""
        text = re.sub(r"eyJ[\w-]{5}[\w.-]+", lambda token: f"{token[0][:8]}...", text)
        text = re.sub(r"kysk_\w{38}", lambda key: f"{key[0][:12]}...", text)
        password = self._variables.get("ADMIN_PASSWORD")
        return text.replace(password, f"{password[:5]}...") if password else text

    def _as_config(self, line: str) -> str:
        """The same line as curl reads it from a file."""
        words = iter(shlex.split(line))
        config = ['noproxy = "*"']
        for word in words:
            name, value = (self._OPTIONS[word], next(words)) if word[0] == "-" else ("url", word)
            value = re.sub(r"\$([A-Z_]+)", lambda found: self._variables[found[1]], value)
            quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            config.append(f'{name} = "{quoted}"')
        return "\n".join(config)


@contextmanager
def program(
    command: list[str], folder: Path, settings: Mapping[str, str], *, name: str
) -> Iterator[None]:
    """Run a program in ``folder`` as long as the block lasts; its output goes to files there."""
    # Settings of another Keyosk on this machine are none of this one.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KEYOSK_")}
    with (folder / f"{name}.out").open("w") as out, (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**kept, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **settings},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops this one itself
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(STOP)


def keyosk_command(*arguments: str) -> list[str]:
    """The keyosk command of the environment that runs this, whatever PATH says.

    Not the script beside the interpreter: its first line breaks where the path has a space.
    """
    return [sys.executable, "-c", "from keyosk.cli import main; main()", *arguments]


def wait_for(url: str, folder: Path, name: str) -> None:
    """Wait until something answers at ``url``, be it a refusal."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            opener.open(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    said = (folder / f"{name}.log").read_text()[-2000:]
    raise Surprise(f"{name} does not answer. It says:\n{said}")


def free_ports(number: int) -> list[int]:
    """So many different ports that nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def address(url: str) -> str:
    """The host and port of a URL."""
    return url.removeprefix("http://")


def changed(header: str) -> str:
    """The header with one letter in the middle of the token's signature replaced."""
    place = len(header) - 20
    return header[:place] + ("A" if header[place] != "A" else "B") + header[place + 1 :]


def title(text: str) -> None:
    """Begin a step."""
    print(f"\n{text}\n{'-' * len(text)}")


def expect(right: bool, what: str) -> None:
    """Go on if this is so, else stop the story."""
    if not right:
        raise Surprise(f"this should be so and is not: {what}")


if __name__ == "__main__":
    sys.exit(main())
