"""Services of Node.js from the documentation, which tests extract, start and attack."""

import contextlib
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import node_modules
import waiting
from live import Client, LiveServer, free_port
from people import ok
from processes import execute

ROOT = Path(__file__).resolve().parent.parent
#: tools/faults.py names a copy that has a fault.
CLIENT = Path(os.environ.get("CLIENT_NODE", ROOT / "client-node"))
#: Where the packages are that the package, its tests and its users need.
_BUILD = ROOT / "build" / "client-node"
KEYOSK, BIND = "http://127.0.0.1:8080", 8081
#: A program, or a line that introduces one.
_LINES = re.compile(r"^```js\n(.*?)^```$|^(#+ [^\n]+|[A-Z][^\n]*:)$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """A program in a document, by the nearest headline or line before it."""

    title: str
    text: str

    @property
    def is_service(self) -> bool:
        return str(BIND) in self.text and ("listen(" in self.text or "serve(" in self.text)

    @property
    def is_test(self) -> bool:
        return "node:test" in self.text

    @property
    def is_ours(self) -> bool:
        return "@keyosk/client" in self.text


def snippets(document: Path) -> list[Snippet]:
    found, title = [], ""
    for text, line in _LINES.findall(document.read_text()):
        title = line.strip("# :") or title
        if text:
            found.append(Snippet(title, text))
    return found


def pack(folder: Path) -> Path:
    """What ``npm pack`` makes, in a folder."""
    packed = execute(
        ["npm", "pack", "--silent", "--pack-destination", str(folder)], cwd=CLIENT, check=True
    )
    return folder / packed.stdout.strip()


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """An empty folder below which everything is found that the package and its tests need."""
    node_modules.install(CLIENT, _BUILD)
    with tempfile.TemporaryDirectory(dir=_BUILD) as folder:
        yield Path(folder)


@contextlib.contextmanager
def user_folder() -> Iterator[Path]:
    """A folder of a user who installed the package and the frameworks."""
    with workspace() as folder:
        there = folder / "node_modules" / "@keyosk"
        there.mkdir(parents=True)
        with tarfile.open(pack(folder)) as archive:
            archive.extractall(there, filter="data")
        (there / "package").rename(there / "client")
        (folder / "package.json").write_text(json.dumps({"type": "module", "private": True}))
        yield folder


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Node.js, or another program of it, with nothing of this environment that it may heed."""
    return execute(arguments, cwd=folder, env=clean(**environment))


def clean(**more: str) -> dict[str, str]:
    """The environment without Keyosk's and Node's own variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEYOSK_", "NODE_"))}
    return {**kept, **more}


@contextlib.contextmanager
def running(folder: Path, snippet: Snippet, issuer: str) -> Iterator[str]:
    """A service as a process of its own; its address."""
    port = free_port()
    text = snippet.text.replace(KEYOSK, issuer)
    assert issuer in text
    file = folder / f"service-{port}.js"
    file.write_text(text.replace(str(BIND), str(port)))
    log = folder / f"service-{port}.log"
    with waiting.running(["node", file.name], log, port=port, cwd=folder, env=clean()):
        yield f"http://127.0.0.1:{port}/todos"


def make_todo(admin: Client) -> None:
    """The service that the documents protect."""
    if admin.get("/services/todo").status_code == 404:
        body = {"name": "todo", "scopes": ["todo:read", "todo:write"]}
        ok(admin.post("/services", json=body), 201)


def verdicts(server: LiveServer, folder: Path, snippet: Snippet, *more: str) -> dict[str, str]:
    """What ``keyosk verify-service`` says of a service, by token."""
    bind = f"127.0.0.1:{free_port()}"
    with running(folder, snippet, f"http://{bind}") as address:
        result = server.run(
            *("verify-service", address, "--service", "todo", "--scope", "todo:read"),
            *("--jwks-bind", bind, "--json", *more),
        )
    assert result.returncode in (0, 1), result.stderr
    return {each["token"]: each["verdict"] for each in json.loads(result.stdout)["items"]}
