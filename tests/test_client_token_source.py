"""keyosk-client: tokens for a program that calls services."""

import asyncio
import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import requests

from client_issuer import ISSUER, Issuer, issuer
from installed import Clock
from keyosk_client import (
    AsyncTokenSource,
    LoginRefused,
    Token,
    TokenSource,
    TokenUnavailable,
    http,
    token_source,
)

SECRET = "kysk_secret"


@pytest.fixture
def keyosk() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The sources' clock; whoever waits only moves it."""
    clock = Clock(1_000.0)

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr("keyosk_client.token_source.time.monotonic", clock)
    monkeypatch.setattr(
        "keyosk_client.flows.time.sleep", lambda s: setattr(clock, "now", clock.now + s)
    )
    monkeypatch.setattr("keyosk_client.flows.asyncio.sleep", sleep)
    return clock


def issued(number: int = 1, expires_in: Any = 900) -> httpx.Response:
    return httpx.Response(
        200, json={"access_token": f"t{number}", "token_type": "Bearer", "expires_in": expires_in}
    )


def busy(status: int = 503, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"error": "temporarily_unavailable"}, headers=named)


def source(**options: Any) -> TokenSource:
    return TokenSource(ISSUER, "backend", **{"secret": SECRET, **options})


def forms(keyosk: Issuer) -> list[dict[str, str]]:
    return [dict(httpx.QueryParams(request.content.decode())) for request in keyosk.requests]


def test_a_token_is_requested_by_basic_and_kept(keyosk: Issuer, clock: Clock) -> None:
    keyosk.token_responses = [issued(1), issued(2)]
    tokens = source(audience="todo", scope="todo:read")
    assert [tokens.token() for _ in range(3)] == ["t1"] * 3
    (request,) = keyosk.requests
    assert request.method == "POST"
    assert (
        request.headers["Authorization"]
        == "Basic " + base64.b64encode(f"backend:{SECRET}".encode()).decode()
    )
    assert forms(keyosk) == [{"audience": "todo", "scope": "todo:read"}]
    clock.now += 839
    assert tokens.token() == "t1"
    clock.now += 1  # a minute before its end
    assert tokens.token() == "t2"
    assert SECRET not in repr(tokens) + repr(tokens.__dict__)


def test_a_short_token_is_replaced_after_most_of_its_life(keyosk: Issuer, clock: Clock) -> None:
    keyosk.token_responses = [issued(1, 60), issued(2, 60)]
    tokens = source()
    assert tokens.token() == "t1"
    clock.now += 47
    assert tokens.token() == "t1"
    clock.now += 1
    assert tokens.token() == "t2"


def test_of_many_threads_one_requests(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(1)]
    tokens = source()
    with ThreadPoolExecutor(30) as pool:
        assert set(pool.map(lambda _: tokens.token(), range(200))) == {"t1"}
    assert len(keyosk.requests) == 1


def test_who_has_a_good_token_does_not_wait_for_the_next(
    keyosk: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyosk.token_responses = [issued(1), issued(2)]
    asked, may_go_on = threading.Event(), threading.Event()

    def slowly(request: httpx.Request) -> httpx.Response:
        if keyosk.requests:
            asked.set()
            assert may_go_on.wait(60)
        return keyosk.respond(request)

    monkeypatch.setitem(http.transports, ISSUER, httpx.MockTransport(slowly))
    tokens = source()
    assert tokens.token() == "t1"
    clock.now += 850
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(tokens.token)
        assert asked.wait(60)
        assert tokens.token() == "t1"
        may_go_on.set()
        assert slow.result() == "t2"
    assert tokens.token() == "t2"


def test_it_waits_as_long_as_keyosk_says_and_some_more(keyosk: Issuer, clock: Clock) -> None:
    keyosk.token_responses = [busy(Retry_After="4"), busy(429, Retry_After="3"), issued(1)]
    began = clock.now
    assert source().token() == "t1"
    assert 7 <= clock.now - began <= 7 * 1.3


def test_it_gives_up_after_half_a_minute(keyosk: Issuer, clock: Clock) -> None:
    keyosk.token_responses = [busy() for _ in range(50)]
    began = clock.now
    with pytest.raises(TokenUnavailable) as refused:
        source().token()
    assert clock.now - began <= 30
    assert refused.value.retry_after >= 1
    keyosk.token_responses = [busy(429, Retry_After="300")]
    with pytest.raises(TokenUnavailable) as refused:
        source().token()
    assert refused.value.retry_after == 301
    assert keyosk.token_responses == []


@pytest.mark.parametrize("value", ["", "-1", "x", "1.5", "\u0661", "99999999", "Fri, 31 Dec 1999"])
def test_a_strange_retry_after_is_none(keyosk: Issuer, clock: Clock, value: str) -> None:
    headers = [(b"Retry-After", value.encode())]
    keyosk.token_responses = [httpx.Response(503, headers=headers), issued(1)]
    assert source().token() == "t1"


def test_a_lost_connection_is_tried_again_and_then_told(keyosk: Issuer, clock: Clock) -> None:
    keyosk.away = {"/auth/token"}
    with pytest.raises(TokenUnavailable, match=r"issues no token now: ConnectError: away\.$"):
        source().token()
    assert len(keyosk.requests) > 3


def test_a_good_token_is_used_while_keyosk_is_away(keyosk: Issuer, clock: Clock) -> None:
    keyosk.token_responses = [issued(1)]
    tokens = source()
    assert tokens.token() == "t1"
    keyosk.away = {"/auth/token"}
    clock.now += 850
    assert tokens.token() == "t1"
    clock.now += 50
    with pytest.raises(TokenUnavailable):
        tokens.token()


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (httpx.Response(401, json={"error": "invalid_client"}), "invalid_client"),
        (
            httpx.Response(400, json={"error": "invalid_scope", "error_description": "No."}),
            "invalid_scope",
        ),
        (httpx.Response(404, text="nginx"), "invalid_response"),
        (httpx.Response(200, json=[]), "invalid_response"),
        (httpx.Response(200, json={"access_token": "t"}), "invalid_response"),
        (issued(1, 0), "invalid_response"),
        (issued(1, "soon"), "invalid_response"),
        *(
            (httpx.Response(200, text=f'{{"access_token": {token}, "expires_in": {seconds}}}'), bad)
            for bad in ["invalid_response"]
            for token, seconds in [
                ('"t"', "NaN"),
                ('"t"', "1e999"),
                ("null", "900"),
                ("5", "900"),
                ('"t\\r\\nX-Evil: 1"', "900"),
                ('""', "900"),
            ]
        ),
        (httpx.Response(302, headers={"Location": "https://attacker.example"}), "invalid_response"),
    ],
)
def test_a_refusal_is_told_at_once(
    keyosk: Issuer, clock: Clock, response: httpx.Response, error: str
) -> None:
    keyosk.token_responses = [response]
    with pytest.raises(LoginRefused) as refused:
        source().token()
    assert refused.value.error == error
    if error == "invalid_response":  # perhaps something else is at this URL
        assert f"{ISSUER}/auth/token did not answer as Keyosk" in refused.value.description
    assert len(keyosk.requests) == 1
    assert SECRET not in str(refused.value)


def test_narrowed_sources_share_the_login_and_no_token(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(number) for number in range(1, 5)]
    tokens = source()
    todo, billing = tokens.narrowed(audience="todo"), tokens.narrowed(audience="billing")
    assert [tokens.token(), todo.token(), billing.token(), todo.token()] == ["t1", "t2", "t3", "t2"]
    assert tokens.narrowed(audience="todo").token() == "t2"
    assert todo.narrowed(scope="todo:read").token() == "t4"
    assert forms(keyosk)[1:] == [
        {"audience": "todo"},
        {"audience": "billing"},
        {"scope": "todo:read"},
    ]


def test_a_callers_token_is_exchanged(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(1), issued(2)]
    tokens = source()
    caller = Token("alice", frozenset(), {}, "callers")
    assert tokens.on_behalf_of(caller, audience="billing").token() == "t1"
    assert tokens.on_behalf_of("callers", audience="billing").token() == "t1"
    assert tokens.on_behalf_of("others", audience="billing", scope="b:read").token() == "t2"
    assert forms(keyosk)[0] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "callers",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": "billing",
    }
    assert "callers" not in repr(tokens._login.__dict__)


def test_a_closed_source_begins_anew(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(number) for number in range(1, 5)]
    tokens, others = source(), tasks()
    for number in (1, 2):
        assert tokens.token() == f"t{number}"
        tokens.close()

    async def ask() -> list[str]:
        texts = [await others.token()]
        await others.aclose()
        texts.append(await others.token())
        await others.aclose()
        return texts

    assert asyncio.run(ask()) == ["t3", "t4"]


def test_of_two_refusals_of_one_token_the_second_does_no_harm(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(1), issued(2)]
    tokens = source()
    tokens._forget(tokens.token())
    assert tokens.token() == "t2"
    tokens._forget("t1")
    assert tokens.token() == "t2"


def test_no_more_than_a_thousand_tokens_are_kept(keyosk: Issuer) -> None:
    tokens = source()
    for number in range(1_100):
        keyosk.token_responses = [issued(number)]
        tokens.on_behalf_of(f"caller-{number}", audience="billing").token()
    assert len(tokens._login._places) == 1_000


def test_the_login_may_come_from_the_environment_or_a_file(
    keyosk: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_text("\ufeff from-file \r\n")
    monkeypatch.setenv("KEYOSK_CLIENT_ISSUER", ISSUER)
    monkeypatch.setenv("KEYOSK_CLIENT_USERNAME", "backend")
    monkeypatch.setenv("KEYOSK_CLIENT_SECRET", "from-environment")
    keyosk.token_responses = [issued() for _ in range(4)]
    TokenSource().token()
    TokenSource(secret_file=file).token()
    monkeypatch.delenv("KEYOSK_CLIENT_SECRET")
    monkeypatch.setenv("KEYOSK_CLIENT_SECRET_FILE", str(file))
    TokenSource().token()
    tokens = TokenSource()
    file.write_text("replaced")
    tokens.token()
    sent = [base64.b64decode(r.headers["Authorization"][6:]).decode() for r in keyosk.requests]
    assert sent == [
        "backend:from-environment",
        "backend:from-file",
        "backend:from-file",
        "backend:replaced",
    ]


@pytest.mark.parametrize("content", [None, b"", b" \r\n", b"\xff\xfe"])
def test_a_file_without_a_secret_is_a_refusal_at_once(
    keyosk: Issuer, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LoginRefused, match="no_secret"):
        TokenSource(ISSUER, "backend", secret_file=file).token()
    assert not keyosk.requests


def test_nobody_with_a_good_token_waits_for_keyosk(keyosk: Issuer, clock: Clock) -> None:
    keyosk.token_responses = [issued(1), issued(2)]
    threads = source()
    tasks = AsyncTokenSource(ISSUER, "backend", secret=SECRET)
    ways: list[Callable[[], str]] = [threads.token, lambda: asyncio.run(tasks.token())]
    first = [token() for token in ways]
    clock.now += 850
    for token, before in zip(ways, first, strict=True):
        now, sent = clock.now, len(keyosk.requests)
        keyosk.token_responses = [busy(503, Retry_After="20")]
        assert [token(), token()] == [before, before]
        assert (clock.now, len(keyosk.requests)) == (now, sent + 1)
    clock.now += 19  # as long as Keyosk said
    assert [token() for token in ways] == first
    clock.now += 3
    keyosk.token_responses = [issued(3), issued(4)]
    assert [token() for token in ways] == ["t3", "t4"]


def test_a_file_that_is_not_there_for_a_moment_costs_nobody_a_good_token(
    keyosk: Issuer, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret")
    keyosk.token_responses = [issued(number) for number in range(4)]
    source = TokenSource(ISSUER, "backend", secret_file=file)
    other = AsyncTokenSource(ISSUER, "backend", secret_file=file)

    def tokens() -> tuple[str, str]:
        return source.token(), asyncio.run(other.token())

    first = tokens()
    file.unlink()
    clock.now += 850
    assert tokens() == first
    file.write_text("a secret")
    assert tokens() == first  # nobody tries again for a moment
    clock.now += 10
    assert not set(tokens()) & set(first)
    file.unlink()
    clock.now += 900
    for token in (source.token, lambda: asyncio.run(other.token())):
        with pytest.raises(LoginRefused):
            token()


@pytest.mark.parametrize(
    "options",
    [
        {"issuer": None},
        {"username": None},
        {"secret": None},
        {"secret": ""},
        {"secret_file": "secret"},
    ],
)
def test_what_is_missing_is_told(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KEYOSK_CLIENT_")]:
        monkeypatch.delenv(name)
    given = {"issuer": ISSUER, "username": "backend", "secret": SECRET, **options}
    with pytest.raises(ValueError, match="required"):
        TokenSource(given.pop("issuer"), given.pop("username"), **given)


# --- As the auth of HTTP libraries ----------------------------------------------------------------


class Service:
    """A service that accepts one token, for clients of httpx or of httpx2."""

    def __init__(self, good: str, library: Any) -> None:
        self.good = f"Bearer {good}"
        self.library = library
        self.calls = 0

    def transport(self) -> Any:
        """Return what stands in for the network."""

        # Not the library's MockTransport, which reads bodies, so that they could be sent again.
        class Transport(self.library.BaseTransport, self.library.AsyncBaseTransport):  # type: ignore[name-defined, misc]
            def handle_request(_, request: Any) -> Any:  # noqa: N805
                return self._respond(request)

            async def handle_async_request(_, request: Any) -> Any:  # noqa: N805
                return self._respond(request)

        return Transport()

    def _respond(self, request: Any) -> Any:
        self.calls += 1
        assert self.calls < 10
        is_good = request.headers["Authorization"] == self.good
        return self.library.Response(200 if is_good else 401)


of_each_library = pytest.mark.parametrize(
    "library", [httpx, httpx2], ids=lambda library: library.__name__
)


@of_each_library
def test_it_is_the_auth_of_httpx(keyosk: Issuer, library: Any) -> None:
    keyosk.token_responses = [issued(1), issued(2)]
    service = Service("t1", library)
    with library.Client(auth=source(), transport=service.transport()) as client:
        assert client.get("https://todo.example/").status_code == 200
        assert client.post("https://todo.example/", json={"a": 1}).status_code == 200
        service.good = "Bearer t2"  # the first one was revoked
        assert client.post("https://todo.example/", json={"a": 1}).status_code == 200
    assert len(keyosk.requests) == 2


@of_each_library
def test_a_token_that_stays_refused_is_replaced_once(keyosk: Issuer, library: Any) -> None:
    keyosk.token_responses = [issued(1), issued(2)]
    service = Service("never", library)
    with library.Client(auth=source(), transport=service.transport()) as client:
        assert client.get("https://todo.example/").status_code == 401
        assert service.calls == 2
        # A body that is gone cannot be sent again.
        keyosk.token_responses = [issued(3)]
        assert client.post("https://todo.example/", content=iter([b"x"])).status_code == 401
    assert service.calls == 3


def test_it_is_the_auth_of_requests(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(1)]
    request = requests.Request("GET", "https://todo.example/", auth=source()).prepare()
    assert request.headers["Authorization"] == "Bearer t1"


# --- asyncio --------------------------------------------------------------------------------------


def tasks(**options: Any) -> AsyncTokenSource:
    return AsyncTokenSource(ISSUER, "backend", **{"secret": SECRET, **options})


def test_of_many_tasks_one_requests(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(1), issued(2)]
    tokens = tasks()

    async def ask() -> set[str]:
        return set(await asyncio.gather(*(tokens.token() for _ in range(100))))

    assert asyncio.run(ask()) == {"t1"}
    assert asyncio.run(ask()) == {"t1"}  # in another event loop
    assert asyncio.run(tokens.narrowed(audience="todo").token()) == "t2"


def test_a_task_with_a_good_token_does_not_wait(
    keyosk: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyosk.token_responses = [issued(1), issued(2)]

    async def ask() -> None:
        asked, may_go_on = asyncio.Event(), asyncio.Event()

        async def slowly(request: httpx.Request) -> httpx.Response:
            if keyosk.requests:
                asked.set()
                await may_go_on.wait()
            return keyosk.respond(request)

        monkeypatch.setitem(http.transports, ISSUER, httpx.MockTransport(slowly))
        tokens = tasks()
        assert await tokens.token() == "t1"
        clock.now += 850
        slow = asyncio.create_task(tokens.token())
        await asked.wait()
        assert await tokens.token() == "t1"
        may_go_on.set()
        assert await slow == "t2"

    asyncio.run(ask())


def test_tasks_use_a_good_token_while_keyosk_is_away(keyosk: Issuer, clock: Clock) -> None:
    keyosk.token_responses = [busy(Retry_After="1"), issued(1)]
    tokens = tasks()
    assert asyncio.run(tokens.token()) == "t1"
    keyosk.away = {"/auth/token"}
    clock.now += 850
    assert asyncio.run(tokens.token()) == "t1"
    clock.now += 50
    with pytest.raises(TokenUnavailable):
        asyncio.run(tokens.token())


@of_each_library
def test_it_is_the_auth_of_httpx_for_asyncio(keyosk: Issuer, library: Any) -> None:
    keyosk.token_responses = [issued(1), issued(2), issued(3)]
    service = Service("t1", library)

    async def ask() -> None:
        async with library.AsyncClient(auth=tasks(), transport=service.transport()) as client:
            assert (await client.get("https://todo.example/")).status_code == 200
            service.good = "Bearer t2"
            assert (await client.get("https://todo.example/")).status_code == 200
            service.good = "never"

            async def body() -> Any:
                yield b"x"

            response = await client.post("https://todo.example/", content=body())
            assert response.status_code == 401

    asyncio.run(ask())
    assert service.calls == 4


def test_who_waited_takes_what_another_got(keyosk: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    keyosk.token_responses = [issued(1)]
    tokens = source()
    place = tokens._login.place(tokens._form)
    waiting = threading.Event()
    fresh = place.fresh

    def seen() -> str | None:
        token = fresh()
        waiting.set()
        return token

    monkeypatch.setattr(place, "fresh", seen)
    with ThreadPoolExecutor(1) as pool:
        with place.lock:
            second = pool.submit(tokens.token)
            assert waiting.wait(60)
            place.token = token_source._issued(issued(7), time.monotonic())
        assert second.result() == "t7"
    assert keyosk.requests == []

    async def ask() -> str:
        others = tasks()
        place = others._login.place(others._form)
        async with place.lock_of_loop():
            waiting = asyncio.create_task(others.token())
            await asyncio.sleep(0)
            place.token = token_source._issued(issued(8), time.monotonic())
        return await waiting

    assert asyncio.run(ask()) == "t8"
    assert keyosk.requests == []


def test_a_fork_or_a_reset_forgets_the_tokens(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(number) for number in range(1, 4)]
    ours, others = source(), TokenSource("https://other.example", "backend", secret=SECRET)
    place = others._login.place(others._form)
    assert ours.token() == "t1"
    token_source.reset(ISSUER)
    assert ours.token() == "t2"
    assert others._login.place(others._form) is place
    token_source._after_fork()
    assert ours.token() == "t3"
    assert others._login.place(others._form) is not place


def test_after_a_fork_nothing_is_shared(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(1), issued(2)]
    tokens = source()
    assert tokens.token() == "t1"
    tokens._login._lock.acquire()  # another thread holds it
    try:
        child = os.fork()
        if child == 0:
            os._exit(7 if tokens.token() == "t2" else 1)
    finally:
        tokens._login._lock.release()
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 7


def test_it_works_where_httpx2_stands_in_for_httpx() -> None:
    """As a program that calls httpx2.alias_httpx() asks for."""
    program = (
        "import httpx2; httpx2.alias_httpx();"
        "from keyosk_client import TokenSource;"
        "assert isinstance(TokenSource('https://x', 'me', secret='s'), httpx2.Auth)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
