"""The README of keyosk-client is tried as it stands."""

import inspect
import re
import sys
from pathlib import Path
from typing import Final, get_args

import pytest

import keyosk_client
from keyosk_client import challenges, errors
from keyosk_client.verifier import VerifierCore
from processes import execute

pytestmark = pytest.mark.slow

README: Final = (Path(keyosk_client.__file__).parent.parent / "README.md").read_text()
BLOCKS: Final = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
#: Before those that need Django.
_SETTINGS: Final = """
import django, django.conf
django.conf.settings.configure(
    KEYOSK={"ISSUER": "http://127.0.0.1:8080", "AUDIENCE": "todo"},
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["keyosk_client.rest_framework.KeyoskAuthentication"],
        "UNAUTHENTICATED_USER": None,
    },
)
django.setup()
"""
_FAKE: Final = """
from keyosk_client.testing import FakeKeyosk
keyosk_ = FakeKeyosk("http://127.0.0.1:8080", "todo", outside_tests=True).__enter__()
good = keyosk_.header(keyosk_.token(scopes=["todo:read"]))
bad = keyosk_.header(keyosk_.token(scopes=["todo:reader"]))
"""
_BY_ASGI: Final = """
import asyncio, httpx
async def ask(headers):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        return (await client.get("/todos", headers=headers)).status_code
found = [asyncio.run(ask(headers)) for headers in (good, bad, {})]
"""
_BY_DJANGO: Final = """
from django.test import RequestFactory
found = [view(RequestFactory().get("/todos", headers=each)).status_code for each in (good, bad, {})]
"""
_BY_AIOHTTP: Final = """
import asyncio
from aiohttp.test_utils import TestClient, TestServer
async def ask():
    app = web.Application()
    app.add_routes(routes)
    async with TestClient(TestServer(app)) as client:
        return [(await client.get("/todos", headers=each)).status for each in (good, bad, {})]
found = asyncio.run(ask())
"""
_BY_SOURCE: Final = """
todo._transport = httpx.MockTransport(
    lambda request: httpx.Response(200 if "Bearer ey" in request.headers["Authorization"] else 401)
)
found = todo.get("/todos").status_code
"""
_OF_FLASK: Final = """
client = app.test_client()
found = [client.get("/todos", headers=headers).status_code for headers in (good, bad, {})]
"""
_OF_A_VERIFIER: Final = """
found = [subject(headers.get("Authorization")) for headers in (good, bad, {})]
"""
#: What is told of each block by a part of its text: what comes before it, how it is asked for the
#: good token, the bad one and none, and what it says.
ASKED: Final = {
    "keyosk_client.fastapi": ("", _BY_ASGI, "[200, 403, 401]"),
    "keyosk_client.flask": ("", _OF_FLASK, "[200, 403, 401]"),
    "keyosk_client.django": (_SETTINGS, "view = list_todos" + _BY_DJANGO, "[200, 403, 401]"),
    "keyosk_client.rest_framework": (
        _SETTINGS,
        "view = Todos.as_view()" + _BY_DJANGO,
        "[200, 403, 401]",
    ),
    "keyosk_client.aiohttp": ("", _BY_AIOHTTP, "[200, 403, 401]"),
    # It has no routes: who is let through finds nothing.
    "keyosk_client.asgi": ("", _BY_ASGI, "[404, 403, 401]"),
    "def subject": ("", _OF_A_VERIFIER, "['00000000-0000-7000-8000-000000000001', None, None]"),
    "secret_file": (
        "",
        "found = [str(client.auth)]",
        "[\"TokenSource('http://127.0.0.1:8080', 'backend')\"]",
    ),
    "from_workload": (
        "import os; os.environ['KEYOSK_ID_TOKEN'] = 'e30.e30.c2ln'",
        _BY_SOURCE,
        "200",
    ),
    "FakeKeyosk": ("import pytest", "found = test_a_reader_may_read()", "None"),
}


def test_every_program_of_the_readme_is_tried() -> None:
    assert len(BLOCKS) == len(ASKED)
    assert all(sum(name in block for block in BLOCKS) == 1 for name in ASKED)


@pytest.mark.parametrize("name", ASKED)
def test_a_program_of_the_readme_works(name: str) -> None:
    (block,) = [each for each in BLOCKS if name in each]
    before, asking, said = ASKED[name]
    fake = "" if name in ("FakeKeyosk", "secret_file") else _FAKE
    program = "\n".join([before, block, fake, asking, "print(found)"])
    result = execute([sys.executable, "-c", program])
    assert (result.returncode, result.stdout.strip()) == (0, said), result.stderr


def rows(heading: str) -> list[list[str]]:
    section = re.split(rf"^## {heading}$", README, flags=re.MULTILINE)[1].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [line.split(" | ") for line in lines[2:]]


def test_the_table_of_options_is_complete_and_true() -> None:
    parameters = inspect.signature(VerifierCore).parameters.values()
    keywords = [each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    stated = {row[0].strip("`"): row[1].strip("`") for row in rows("Options")}
    assert list(stated) == [each.name for each in keywords]
    for each in keywords:
        if each.default is not None:
            assert stated[each.name].replace("_", "").strip('"') == str(each.default), each.name
    for mode in get_args(keyosk_client.issuer.Revocations):
        assert f'`"{mode}"`' in README


def test_the_table_of_errors_is_complete_and_true() -> None:
    examples = {
        "InsufficientScope": errors.InsufficientScope("todo:read"),
        "LoginRefused": errors.LoginRefused("invalid_client", "No."),
    }
    kinds = {name for name in keyosk_client.__all__ if name in vars(errors)}
    stated = {name: row for row in rows("Errors") for name in re.findall(r"`(\w+)`", row[0])}
    assert set(stated) == kinds - {"KeyoskError", "Unavailable"}
    for name, (_, status, code) in stated.items():
        error = examples.get(name) or vars(errors)[name]("No.")
        if name == "LoginRefused":
            with pytest.raises(errors.LoginRefused):
                challenges.refusal(error, realm="todo")
            continue
        response = challenges.refusal(error, realm="todo")
        assert status.startswith(str(response.status))
        assert ("Retry-After" in status) == ("Retry-After" in response.headers)
        match = re.search(r'error="(\w+)"', response.headers.get("WWW-Authenticate", ""))
        assert (f"`{match[1]}`" in code) if match else "`" not in code
