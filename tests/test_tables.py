"""Lists and objects as people see them on a terminal, and as scripts read them."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from itertools import pairwise

import pytest

from live import Client, LiveServer, command, unique
from people import ok
from terminal import Done, keyosk

BOLD = "\x1b[1m"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Draw = Callable[..., Done]


@pytest.fixture
def draw(server: LiveServer) -> Draw:
    """Runs a command on a terminal of a width."""
    return lambda *arguments, width=100, **variables: keyosk(
        {**server.environment, "COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "", **variables},
        server.folder,
        *arguments,
        screen=True,
    )


def read_terminal(server: LiveServer, *arguments: str, columns: int, **variables: str) -> str:
    """What a real terminal of this width gets."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {
        name: value
        for name, value in server.environment.items()
        if name not in {"COLUMNS", "NO_COLOR"}
    }
    process = subprocess.Popen(
        command(*arguments),
        cwd=server.folder,
        env={**inherited, "TERM": "xterm-256color", **variables},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end was closed
                break
            if not piece:
                break
            shown += piece
        assert process.wait(60) == 0, shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_a_list_is_as_wide_as_a_real_terminal(server: LiveServer, admin: Client) -> None:
    name = unique("wide")
    ok(admin.post("/accounts", json={"username": name}), 201)
    listing = ("account", "list", "--query", name)
    wide = read_terminal(server, *listing, columns=140)
    assert BOLD in wide
    assert [len(line.split()) for line in ESCAPES.sub("", wide).splitlines()] == [6, 6]
    narrow = read_terminal(server, *listing, columns=85, TERM="dumb")
    assert "\x1b" not in narrow
    assert narrow.splitlines()[0].split()[-1] == "last_login_at"
    assert not ID.search(narrow)


def test_a_list_that_is_too_wide_is_a_block_for_each_object(draw: Draw, admin: Client) -> None:
    stem = unique("block")
    for each in "ab":
        ok(admin.post("/accounts", json={"username": f"{stem}-{each}"}), 201)
    shown = ESCAPES.sub("", draw("account", "list", "--query", stem, width=40).out)
    blocks = [
        dict(line.split(None, 1) for line in each.splitlines()) for each in shown.split("\n\n")
    ]
    assert [each["username"] for each in blocks] == [f"{stem}-a", f"{stem}-b"]
    assert all(ID.fullmatch(each["id"]) for each in blocks)


def test_cells_break_between_words_and_never_within_one(draw: Draw, admin: Client) -> None:
    service = unique("words")
    scopes = [f"{service}:{each}" for each in ("read", "write", "share")]
    body = {"name": service, "scopes": [{"name": each} for each in scopes]}
    ok(admin.post("/services", json=body), 201)
    role = unique("role")
    ok(admin.post("/roles", json={"name": role, "scopes": scopes}), 201)
    width = 2 * len(role) + 60
    shown = [ESCAPES.sub("", draw("role", "list", width=each).out) for each in (width, 400)]
    for text in shown:
        assert set(scopes) <= set(text.split())
    narrow, wide = (text.splitlines() for text in shown)
    assert len(narrow) > len(wide)
    assert all(len(line) <= width for line in narrow)


def test_an_object_is_shown_with_values_that_can_be_copied_whole(draw: Draw, admin: Client) -> None:
    name = unique("object")
    text = " ".join(["violet lamps"] * 15)
    ok(admin.post("/accounts", json={"username": name, "display_name": text}), 201)
    lines = draw("account", "show", name, width=40).out.splitlines()
    assert any(line.startswith(BOLD) and line.endswith(text) for line in lines)


@pytest.mark.parametrize(
    "text", ["[red]now[/red]", "[/]", "[link=https://evil.example]x[/link]", ":smile:", "\\[b]"]
)
def test_markup_in_a_name_is_text(draw: Draw, admin: Client, text: str) -> None:
    name = unique("markup")
    ok(admin.post("/accounts", json={"username": name, "display_name": text}), 201)
    ok(admin.post(f"/accounts/{name}/api-keys", json={"name": text}), 201)
    for drawn in (
        draw("account", "show", name),
        draw("api-key", "list", name, width=300),
        draw("api-key", "list", name, width=40),
    ):
        assert drawn.code == 0, drawn.err
        assert text in ESCAPES.sub("", drawn.out)
        # What rich could have made of it: a link, a colour.
        assert set(ESCAPES.findall(drawn.out)) <= {BOLD, "\x1b[2m", "\x1b[0m"}
        assert "\x1b]" not in drawn.out


def test_what_steers_a_terminal_is_drawn_as_escapes(draw: Draw, admin: Client) -> None:
    name = unique("steer")
    text = "a\x1b[2Jb\x1b]0;title\x07c\u202ed\x9be"
    response = admin.post("/accounts", json={"username": name, "metadata": {"note": text}})
    ok(response, 201)
    shown = ESCAPES.sub("", draw("account", "show", name).out)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert "u001b[2Jb" in shown


def test_wide_characters_keep_the_columns_in_line(draw: Draw, admin: Client) -> None:
    name = unique("cells")
    ok(admin.post("/accounts", json={"username": name}), 201)
    for each in ("日本語のかぎ", "plain"):
        ok(admin.post(f"/accounts/{name}/api-keys", json={"name": each}), 201)
    lines = ESCAPES.sub("", draw("api-key", "list", name, width=300).out).splitlines()
    # Each of those characters fills two cells.
    first, second = (
        line.index("kysk_") + sum(not each.isascii() for each in line) for line in lines[1:]
    )
    assert first == second, lines


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_nobody_gets_colours_who_wants_none(draw: Draw, variables: dict[str, str]) -> None:
    for words in (("account", "list"), ("account", "show", "admin")):
        shown = draw(*words, **variables)
        assert "admin" in shown.out
        assert "\x1b" not in shown.out


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_what_programs_read_is_the_same_on_a_terminal(
    server: LiveServer, draw: Draw, option: str
) -> None:
    words = ("account", "list", "--limit", "3", option)
    assert draw(*words).out == keyosk(server.environment, server.folder, *words).out


def test_a_pipe_gets_plain_lines_in_any_environment(server: LiveServer, admin: Client) -> None:
    """As scripts have read them ever since: as wide as the longest cell, two spaces between."""
    name = unique("pipe")
    account = ok(admin.post("/accounts", json={"username": name, "display_name": "[red]"}), 201)
    environment = {
        **server.environment,
        "COLUMNS": "20",
        "FORCE_COLOR": "1",
        "TTY_COMPATIBLE": "1",
        "CLICOLOR_FORCE": "1",
    }
    listed = keyosk(environment, server.folder, "account", "list", "--query", name).out
    assert listed.splitlines() == [
        f"{'username':<{len(name)}}  kind    enabled  has_password  last_login_at  id",
        f"{name}  person  yes      no            -              {account['id']}",
    ]
    shown = keyosk(environment, server.folder, "account", "show", name).out.splitlines()
    assert "display_name   [red]" in shown


@pytest.mark.slow
def test_a_very_long_list_is_not_drawn(draw: Draw, server: LiveServer, admin: Client) -> None:
    stem = unique("many")
    lines = "".join(f'{{"username": "{stem}-{number:04}"}}\n' for number in range(1001))
    imported = keyosk(server.environment, server.folder, "account", "import", "-", text=lines)
    assert imported.code == 0, imported.err
    assert BOLD in draw("account", "list", "--query", stem, "--limit", "1000").out
    plain = draw("account", "list", "--query", stem).out
    assert "\x1b" not in plain
    rows = [line.split()[0] for line in plain.splitlines()[1:]]
    assert len(rows) == 1001
    assert all(first < second for first, second in pairwise(rows))
