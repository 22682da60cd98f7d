"""What the requests of ``make bench`` cost in figures that are the same on every machine.

Each request has a limit for the statements that it waits for, the Python functions that it calls,
and the KiB that its process writes (mostly to SQLite's log of changes). A change that makes a
request slower exceeds one of them. A change that makes one faster should lower its limits.
"""

import json
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final
from urllib.parse import urlencode

import psutil
import pytest
from werkzeug.test import create_environ

from installed import installed, statements
from keyosk import app
from keyosk.model import OPERATOR, Grant, Scope
from live import ADMIN_PASSWORD
from processes import execute

PASSWORD = "a password for counting"
_TRIES: Final = 5


@dataclass(frozen=True)
class Cost:
    """What one request took; bytes in KiB, as a page more or less is chance."""

    statements: int
    calls: int
    kib: int


#: The most that each may cost on SQLite, with Python 3.11; later ones make fewer calls.
LIMITS: Final = {
    "token by API key": Cost(1, 279, 1),
    "token by password": Cost(4, 465, 20),
    "JWK set": Cost(1, 168, 0),
    "JWK set not modified": Cost(1, 187, 0),
    "account by Bearer": Cost(2, 346, 2),
    "introspection": Cost(2, 337, 3),
    "forward-auth by Bearer": Cost(1, 307, 2),
    "refresh": Cost(2, 407, 7),
    "PATCH of an account": Cost(4, 1344, 24),
}


class _Calls:
    """Counts the calls of Python functions in this thread."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "_Calls":
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _seen(self, _frame: FrameType, event: str, _argument: object) -> None:
        self.count += event == "call"


@dataclass
class Caller:
    """Sends requests to an application in this process, without a client's own calls."""

    application: Any
    headers: dict[str, str] = field(default_factory=dict)

    def prepare(
        self, method: str, path: str, *, login: str = "", body: object = None, **more: str
    ) -> Callable[[], bytes]:
        """What sends the request and waits for all of its response."""
        headers = {"Authorization": login} if login else {}
        form = (
            {"content_type": "application/x-www-form-urlencoded"} if isinstance(body, str) else {}
        )
        content: dict[str, Any] = {"data": body} if isinstance(body, str) else {"json": body}
        environ = create_environ(path, method=method, headers=headers, **form, **content) | more
        statuses: list[str] = []

        def send() -> bytes:
            response = self.application(environ, self._start(statuses))
            received = b"".join(response)
            self._last = response
            return received

        def checked() -> bytes:
            received = send()
            assert re.match("2|304", statuses[-1]), (statuses, received)
            return received

        return checked

    def close(self) -> None:
        """Do what is done after the response."""
        self._last.close()

    def send(self, method: str, path: str, **options: Any) -> Any:
        """Send one and return its JSON."""
        received = self.prepare(method, path, **options)()
        self.close()
        return json.loads(received)

    def _start(self, statuses: list[str]) -> Callable[..., object]:
        def start(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            statuses.append(status)
            self.headers = dict(headers)

        return start


def _basic(username: str, secret: str) -> str:
    return f"Basic {b64encode(f'{username}:{secret}'.encode()).decode()}"


@pytest.fixture
def prepared(prepared_url: str) -> Iterator[tuple[Caller, dict[str, Callable[[int], Any]]]]:
    """An application, and what prepares the nth request of each row."""
    with installed(prepared_url) as keyosk:
        scopes = [Scope("todo:read"), Scope("todo:write")]
        keyosk.services.create(OPERATOR, name="todo", scopes=scopes, refresh_allowed=True)
        grants = [Grant(scope.name) for scope in scopes]
        keyosk.grants.create_account(OPERATOR, grants, username="alice", password=PASSWORD)
        keyosk.services.change(OPERATOR, "todo", {"account": "alice"})
        key = _basic("alice", keyosk.api_keys.create(OPERATOR, "alice", name="job").secret)
        password = _basic("alice", PASSWORD)
        caller = Caller(app.create_app(keyosk).wsgi_app)

        def token(login: str, **form: str) -> Any:
            return caller.send("POST", "/auth/token", login=login, body=urlencode(form))

        admin = token(_basic("admin", ADMIN_PASSWORD), audience="keyosk")["access_token"]
        admin = f"Bearer {admin}"
        bearer = token(key)["access_token"]
        caller.send("GET", "/auth/jwks")
        known = {"HTTP_IF_NONE_MATCH": caller.headers["ETag"]}
        chain = [token(password, scope="todo:read offline_access")["refresh_token"]]

        def refresh(_: int) -> Callable[[], bytes]:
            form = {"grant_type": "refresh_token", "refresh_token": chain[-1]}
            send = caller.prepare("POST", "/auth/token", body=urlencode(form))

            def sent() -> bytes:
                received = send()
                chain.append(json.loads(received)["refresh_token"])
                return received

            return sent

        prepare = caller.prepare
        form = urlencode({"token": bearer})
        yield (
            caller,
            {
                "token by API key": lambda _: prepare("POST", "/auth/token", login=key),
                "token by password": lambda _: prepare("POST", "/auth/token", login=password),
                "JWK set": lambda _: prepare("GET", "/auth/jwks"),
                "JWK set not modified": lambda _: prepare("GET", "/auth/jwks", **known),
                "account by Bearer": lambda _: prepare("GET", "/accounts/alice", login=admin),
                "introspection": lambda _: prepare(
                    "POST", "/auth/introspect", login=key, body=form
                ),
                "forward-auth by Bearer": lambda _: prepare(
                    "GET", "/auth/forward?service=todo", login=f"Bearer {bearer}"
                ),
                "refresh": refresh,
                "PATCH of an account": lambda number: prepare(
                    "PATCH",
                    "/accounts/alice",
                    login=admin,
                    body={"display_name": f"Alice {number}"},
                ),
            },
        )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process wrote")
def test_a_request_costs_no_more_than_is_stated(
    prepared: tuple[Caller, dict[str, Callable[[int], Any]]],
) -> None:
    caller, rows = prepared
    process = psutil.Process()
    costs = {}
    for name, prepare in rows.items():
        measured = []
        for number in range(_TRIES + 2):
            send = prepare(number)
            with statements() as texts:
                written = process.io_counters().write_chars
                with _Calls() as calls:
                    send()
                written = process.io_counters().write_chars - written
            # peewee's own log costs calls: what is counted is without it.
            count = len(texts)
            caller.close()
            send = prepare(number + 100)
            with _Calls() as calls:
                send()
            caller.close()
            measured.append(Cost(count, calls.count, round(written / 1024)))
        settled = measured[2:]  # the first ones fill caches, and note that a credential was used
        costs[name] = Cost(
            min(each.statements for each in settled),
            min(each.calls for each in settled),
            min(each.kib for each in settled),
        )
    exceeded = {
        name: (cost, LIMITS[name])
        for name, cost in costs.items()
        if cost.statements > LIMITS[name].statements
        or cost.calls > LIMITS[name].calls
        or cost.kib > LIMITS[name].kib
    }
    assert exceeded == {}


@pytest.mark.slow
def test_the_profile_is_one_of_this_code() -> None:
    tool = Path(__file__).parents[1] / "tools" / "breakdown.py"
    result = execute([sys.executable, str(tool), "--help"])
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_what_measures_growth_fills_databases_of_this_code(tmp_path: Path) -> None:
    """Nothing else runs it, and it inserts rows by itself."""
    tool = Path(__file__).parents[1] / "tools" / "growth"
    code = (
        "import sys; from subject import Subject\n"
        "subject = Subject(sys.argv[1]); subject.fill(20); subject.add_audit_rows(30)\n"
        "assert subject.by_admin('GET', '/audit?actor=admin&action=account.change')"
    )
    result = execute([sys.executable, "-c", code, f"sqlite:///{tmp_path}/growth.db"], cwd=tool)
    assert result.returncode == 0, result.stderr
