"""The README is tried as it stands: its story is pasted into bash, every response compared."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from live import LiveServer, free_port
from processes import execute
from test_welcome import END, ESCAPES, terminal
from waiting import running

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
# What the README types into terminals of their own: the tests start it themselves, on free ports.
STARTS = ["make run", "make demo", ".venv/bin/python examples/todo_service.py"]
KEYOSK, TODO = "http://127.0.0.1:8080", "http://127.0.0.1:8081"


@dataclass(frozen=True)
class Block:
    """A fenced block of the README."""

    language: str
    text: str


def blocks() -> list[Block]:
    matches = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [Block(language, text) for language, text in matches]


def matches(stated: str, answered: str) -> bool:
    """Whether a response is the stated one, in which ``...`` stands for what differs each time."""
    pattern = r"[^\s\"]+".join(re.escape(part) for part in stated.strip().split("..."))
    return re.fullmatch(pattern, answered.strip(), re.DOTALL) is not None


@pytest.fixture
def keyosk(tmp_path: Path) -> Iterator[LiveServer]:
    """A Keyosk with nothing set but its port, as ``make run`` starts it."""
    server = LiveServer("", tmp_path)
    for name in ("DATABASE_URL", "SECRET_KEY", "ADMIN_PASSWORD"):
        del server.environment[f"KEYOSK_{name}"]
    with server:
        yield server


@contextlib.contextmanager
def todo_service(keyosk_url: str, folder: Path) -> Iterator[str]:
    """examples/todo_service.py as a process of its own; gives its address."""
    bind = f"127.0.0.1:{free_port()}"
    # PYTHONPATH is how a test run may find keyosk; this program has no use for it.
    environment = {**os.environ, "TODO_BIND": bind, "KEYOSK_URL": keyosk_url, "PYTHONPATH": ""}
    program = [sys.executable, str(ROOT / "examples" / "todo_service.py")]
    port = int(bind.rpartition(":")[2])
    with running(program, folder / "todo.log", port=port, cwd=folder, env=environment):
        yield f"http://{bind}"


def run_story(keyosk: LiveServer, todo: str) -> list[tuple[Block, str]]:
    """Paste all ``sh`` blocks into one bash; return each with what it printed."""
    typed = [block for block in blocks() if block.language == "sh"]
    script = "".join(f"{block.text}\nprintf '\\036'\n" for block in typed)
    script = script.replace(KEYOSK, keyosk.url).replace(TODO, todo)
    password = re.search(
        r"shown only now.*?^ +(\S+)$", keyosk.log.read_text(), re.DOTALL | re.MULTILINE
    )
    assert password is not None
    result = execute(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=keyosk.folder,
        env={**os.environ, "no_proxy": "127.0.0.1"},
        input=f"{password[1]}\n",
    )
    assert (result.returncode, result.stderr) == (0, "")
    return list(zip(typed, result.stdout.split("\036"), strict=False))


@pytest.mark.slow
def test_the_story_of_the_readme_happens_as_it_is_told(keyosk: LiveServer, tmp_path: Path) -> None:
    with todo_service(keyosk.url, tmp_path) as todo:
        told = run_story(keyosk, todo)

    everything = blocks()
    compared = 0
    for block, answered in told:
        following = everything[everything.index(block) + 1]
        if following.language == "json":
            stated, compared = following.text, compared + 1
        else:
            stated = ""
        assert matches(stated, answered), f"{block.text}answered\n{answered}\nnot\n{stated}"
    assert compared == sum(block.language == "json" for block in everything), "a response is alone"


@pytest.mark.slow
def test_the_start_prints_what_the_readme_says_and_curl_gets_a_token(tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with terminal(tmp_path, "serve", bind=bind, metrics_bind="off") as shown:
        greeting = ESCAPES.sub("", shown.read_until(END)).replace(f"http://{bind}", KEYOSK)
        (stated,) = [block.text for block in blocks() if block.language == "text"]
        printed = greeting[greeting.index("Keyosk is at") :]
        printed = printed[: printed.index("audience=keyosk") + len("audience=keyosk")]
        assert matches(stated, printed)

        (line,) = re.findall(r"^ +(curl .*)$", printed, re.MULTILINE)
        line = line.replace(KEYOSK, f"http://{bind}")
        retried = ["--retry", "60", "--retry-delay", "1", "--retry-all-errors"]
        result = execute(
            ["bash", "-c", " ".join([line, *retried])], env={**os.environ, "no_proxy": "127.0.0.1"}
        )
    assert '"access_token":' in result.stdout


def test_what_the_readme_starts_in_other_terminals_is_there() -> None:
    assert [block.text.strip() for block in blocks() if block.language == "console"] == STARTS
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)`", README)) <= set(targets)


def test_no_secret_stands_in_a_url() -> None:
    for block in blocks():
        assert not re.search(r"https?://\S*@|\?\S*(password|secret|token=|key=)", block.text)


@pytest.mark.slow
def test_the_snippet_of_a_service_takes_alices_token_and_refuses_the_admins(
    keyosk: LiveServer, tmp_path: Path
) -> None:
    with todo_service(keyosk.url, tmp_path) as todo:
        run_story(keyosk, todo)
    (snippet,) = [block.text for block in blocks() if block.language == "python"]
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(snippet.replace(KEYOSK, keyosk.url), names)  # noqa: S102  # it is what readers will run
    service = names["app"].test_client()

    key = keyosk.run("api-key", "create", "alice", "test", "--json").stdout
    secret = re.search(r"kysk_\w{38}", key)
    assert secret is not None
    alice = keyosk.client("alice", secret[0])

    def ask(token: str) -> Any:
        return service.get("/todos", headers={"Authorization": f"Bearer {token}"})

    issued = alice.post("/auth/token", data={"format": "token"}).text.strip()
    assert ask(issued).get_json() == {"todos": [], "of": "alice"}
    other = alice.post("/auth/token", data={"audience": "keyosk", "format": "token"}).text.strip()
    forged = issued[:-10] + ("AAAAAAAAAA" if issued[-10:] != "AAAAAAAAAA" else "BBBBBBBBBA")
    for bad in (other, forged):
        refused = ask(bad)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == 'Bearer realm="todo", error="invalid_token"'
    names["keyosk"].verifier.close()


@pytest.mark.slow
def test_the_demo_goes_as_told_and_shows_no_secret() -> None:
    result = execute([sys.executable, str(ROOT / "examples" / "demo.py")])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "All went as told." in result.stdout
    assert not re.search(r"kysk_\w{38}|eyJ[\w-]+\.[\w-]+\.", result.stdout + result.stderr)


@pytest.mark.slow
def test_the_demo_fails_and_leaves_nothing_running_when_something_is_off(tmp_path: Path) -> None:
    broken = tmp_path / "demo.py"
    broken.write_text(
        (ROOT / "examples" / "demo.py").read_text().replace('"token_required"', '"something else"')
    )
    (tmp_path / "todo_service.py").write_text((ROOT / "examples" / "todo_service.py").read_text())
    result = execute([sys.executable, str(broken)])
    assert result.returncode == 1
    assert "Surprise: this should be so and is not" in result.stderr
    for port in re.findall(r"http://127\.0\.0\.1:(\d+)", result.stdout):
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{port}/", timeout=60)
