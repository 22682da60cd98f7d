"""keyosk-client in the frameworks: one contract, and what each adds to it."""

import asyncio
import inspect
import types
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any

import django.conf
import django.http
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from fastapi import Depends, FastAPI, HTTPException, Security, WebSocket
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import keyosk_client.aiohttp
import keyosk_client.asgi
import keyosk_client.django
import keyosk_client.fastapi
import keyosk_client.flask
import keyosk_client.wsgi
from client_issuer import AUDIENCE, ISSUER
from keyosk_client import LoginRefused, Token
from keyosk_client.testing import FakeKeyosk
from keyosk_client.verifier import VerifierCore, VerifierOptions

SETTINGS = {"ISSUER": ISSUER, "AUDIENCE": AUDIENCE}
urls = types.ModuleType("urls_of_the_tests")
urls.urlpatterns = []  # type: ignore[attr-defined]
django.conf.settings.configure(
    ALLOWED_HOSTS=["*"],
    KEYOSK=SETTINGS,
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",  # looks at every response
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["keyosk_client.rest_framework.KeyoskAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "UNAUTHENTICATED_USER": None,
    },
    ROOT_URLCONF=urls,
    SECRET_KEY="of this test only",
)
django.setup()

# It reads its settings when it is imported.
from rest_framework.authentication import BaseAuthentication  # noqa: E402
from rest_framework.response import Response as RestResponse  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

import keyosk_client.rest_framework  # noqa: E402
from tables import table  # noqa: E402

Get = Callable[..., httpx.Response]
"""Sends a request: a path, an ``Authorization`` header or ``None``, a method."""


@pytest.fixture
def fake() -> Iterator[FakeKeyosk]:
    with FakeKeyosk(ISSUER, AUDIENCE) as entered:
        yield entered


# --- The same service in each of them -------------------------------------------------------------
#
# /todos needs todo:read, /both needs todo:write too; /any needs a token and asks for todo:write
# inside. Each answers with the subject.


@contextmanager
def over(transport: httpx.BaseTransport) -> Iterator[Get]:
    with httpx.Client(transport=transport, base_url="http://todo.example") as client:

        def get(path: str, authorization: str | None = None, method: str = "GET") -> httpx.Response:
            headers = {} if authorization is None else {"Authorization": authorization}
            return client.request(method, path, headers=headers)

        yield get


@contextmanager
def over_asgi(app: Any) -> Iterator[Get]:
    transport = httpx.ASGITransport(app)
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=transport, base_url="http://todo.example")

        def get(path: str, authorization: str | None = None, method: str = "GET") -> httpx.Response:
            headers = {} if authorization is None else {"Authorization": authorization}
            return runner.run(client.request(method, path, headers=headers))

        yield get


def asynchronous(view: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    @wraps(view)
    async def called(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return called


def with_fastapi(*, sync: bool) -> Any:
    keyosk = keyosk_client.fastapi.Keyosk(ISSUER, AUDIENCE)
    app = FastAPI()
    Read = Annotated[Token, Depends(keyosk.require("todo:read"))]  # noqa: N806 - types
    Both = Annotated[Token, Depends(keyosk.require("todo:read", "todo:write"))]  # noqa: N806
    Any_ = Annotated[Token, Depends(keyosk.require())]  # noqa: N806

    def todos(token: Read) -> dict[str, str]:
        return {"subject": token.subject}

    def both(token: Both) -> dict[str, str]:
        return {"subject": token.subject}

    def asking(token: Any_) -> dict[str, str]:
        token.require("todo:write")
        return {"subject": token.subject}

    for url, endpoint in (("/todos", todos), ("/both", both), ("/any", asking)):
        app.get(url)(endpoint if sync else asynchronous(endpoint))
    return over_asgi(app)


def with_starlette() -> Any:
    keyosk = keyosk_client.asgi.Keyosk(ISSUER, AUDIENCE)

    async def todos(request: Request) -> JSONResponse:
        return JSONResponse({"subject": request.scope["keyosk_token"].subject})

    def needing(*scopes: str) -> list[Middleware]:
        return [Middleware(keyosk.require(*scopes))]

    routes = [
        Route("/todos", todos, middleware=needing("todo:read")),
        Route("/both", todos, middleware=needing("todo:read", "todo:write")),
    ]
    return over_asgi(Starlette(routes=routes))


def with_flask(*, sync: bool) -> Any:
    keyosk = keyosk_client.flask.Keyosk(ISSUER, AUDIENCE)
    app = Flask("todo")

    def todos() -> Any:
        return {"subject": keyosk.token.subject}

    def asking() -> Any:
        keyosk.token.require("todo:write")
        return {"subject": keyosk.token.subject}

    if not sync:
        todos, asking = asynchronous(todos), asynchronous(asking)
    app.add_url_rule("/todos", "todos", keyosk.require("todo:read")(todos))
    app.add_url_rule("/both", "both", keyosk.require("todo:read", "todo:write")(todos))
    app.add_url_rule("/any", "any", keyosk.require()(asking))
    return over(httpx.WSGITransport(app))


def with_wsgi() -> Any:
    keyosk = keyosk_client.wsgi.Keyosk(ISSUER, AUDIENCE)

    def todos(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b'{"subject": "%s"}' % environ["keyosk.token"].subject.encode()]

    protected = {
        "/todos": keyosk.require("todo:read")(todos),
        "/both": keyosk.require("todo:read", "todo:write")(todos),
    }

    def route(environ: dict[str, Any], start_response: Any) -> Any:
        return protected[environ["PATH_INFO"].rstrip("/")](environ, start_response)

    return over(httpx.WSGITransport(route))


def with_aiohttp(*, views: bool) -> Any:
    keyosk = keyosk_client.aiohttp.Keyosk(ISSUER, AUDIENCE)

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"subject": keyosk.token(request).subject})

    async def asking(request: web.Request) -> web.Response:
        keyosk.token(request).require("todo:write")
        return await answer(request)

    class Todos(web.View):
        @keyosk.require("todo:read")
        async def get(self) -> web.Response:
            return await answer(self.request)

    app = web.Application()
    app.router.add_get("/todos", Todos if views else keyosk.require("todo:read")(answer))
    app.router.add_get("/both", keyosk.require("todo:read", "todo:write")(answer))
    app.router.add_get("/any", keyosk.require()(asking))
    return over_aiohttp(app)


@contextmanager
def over_aiohttp(app: web.Application) -> Iterator[Get]:
    with asyncio.Runner() as runner:
        client: TestClient[web.Request, web.Application] = runner.run(_client(app))

        async def send(method: str, path: str, headers: Mapping[str, str]) -> httpx.Response:
            async with client.request(method, path, headers=headers) as response:
                body = await response.read()
                return httpx.Response(
                    response.status, headers=list(response.headers.items()), content=body
                )

        def get(path: str, authorization: str | None = None, method: str = "GET") -> httpx.Response:
            headers = {} if authorization is None else {"Authorization": authorization}
            return runner.run(send(method, path, headers))

        yield get
        runner.run(client.close())


async def _client(app: web.Application) -> TestClient[web.Request, web.Application]:
    client = TestClient(TestServer(app))
    await client.start_server()
    return client


def _subject(request: Any) -> Any:
    return django.http.JsonResponse({"subject": request.keyosk_token.subject})


def _asking(request: Any) -> Any:
    request.keyosk_token.require("todo:write")
    return _subject(request)


@contextmanager
def over_django(handler: type, **views: Any) -> Iterator[Get]:
    urls.urlpatterns = [path(f"{name}/", view) for name, view in views.items()]  # type: ignore[attr-defined]
    django.urls.clear_url_caches()
    made = handler()
    served = over(httpx.WSGITransport(made)) if handler is WSGIHandler else over_asgi(made)
    with served as get:
        yield lambda path, *more, **options: get(f"{path.rstrip('/')}/", *more, **options)


def with_django(*, handler: type, sync: bool) -> Any:
    keyosk = keyosk_client.django.Keyosk(ISSUER, AUDIENCE)
    subject, asking = (_subject, _asking)
    if not sync:
        subject, asking = asynchronous(subject), asynchronous(asking)
    return over_django(
        handler,
        todos=keyosk_client.django.require("todo:read")(subject),
        both=keyosk.require("todo:read", "todo:write")(subject),
        any=keyosk_client.django.require()(asking),
    )


def with_django_classes() -> Any:
    @method_decorator(keyosk_client.django.require("todo:read"), name="dispatch")
    class Todos(View):
        def get(self, request: Any) -> Any:
            return _subject(request)

        def post(self, request: Any) -> Any:
            return _subject(request)

    @method_decorator(keyosk_client.django.require("todo:read", "todo:write"), name="dispatch")
    class Both(Todos):
        pass

    return over_django(WSGIHandler, todos=Todos.as_view(), both=Both.as_view())


def with_rest_framework() -> Any:
    require = keyosk_client.rest_framework.require

    class Todos(APIView):
        permission_classes = (require("todo:read"),)

        def get(self, request: Any) -> RestResponse:
            assert request.user.pk == request.auth.subject
            return RestResponse({"subject": request.auth.subject})

        post = get

    class Both(Todos):
        permission_classes = (require("todo:read", "todo:write"),)

    return over_django(WSGIHandler, todos=Todos.as_view(), both=Both.as_view())


INTEGRATIONS: dict[str, Callable[[], Any]] = {
    "fastapi": lambda: with_fastapi(sync=False),
    "fastapi-sync": lambda: with_fastapi(sync=True),
    "flask": lambda: with_flask(sync=True),
    "flask-async": lambda: with_flask(sync=False),
    "starlette": with_starlette,
    "wsgi": with_wsgi,
    "aiohttp": lambda: with_aiohttp(views=False),
    "aiohttp-views": lambda: with_aiohttp(views=True),
    "django": lambda: with_django(handler=WSGIHandler, sync=True),
    "django-classes": with_django_classes,
    "django-async": lambda: with_django(handler=ASGIHandler, sync=False),
    "django-async-under-wsgi": lambda: with_django(handler=WSGIHandler, sync=False),
    "django-sync-under-asgi": lambda: with_django(handler=ASGIHandler, sync=True),
    "rest-framework": with_rest_framework,
}
#: Where a view may ask for more scopes itself.
ASKING = [
    name for name in INTEGRATIONS if name.startswith(("fastapi", "flask", "aiohttp", "django"))
]
ASKING.remove("django-classes")


@pytest.fixture(params=INTEGRATIONS)
def get(request: pytest.FixtureRequest, fake: FakeKeyosk) -> Iterator[Get]:
    with INTEGRATIONS[request.param]() as entered:
        yield entered


# --- The contract ---------------------------------------------------------------------------------


def refused(response: httpx.Response, status: int, error: str, challenge: str | None) -> None:
    content = response.json()
    assert (response.status_code, content.get("detail", content)["error"]) == (status, error)
    assert response.headers.get("WWW-Authenticate") == challenge
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers.get_list("Content-Type") == ["application/json"]


@table("authorization", [None, "", "Bearer", "Basic YWxpY2U6eA==", "Bearer "])
def test_without_a_token_it_says_what_is_needed(get: Get, authorization: str | None) -> None:
    challenge = 'Bearer realm="todo"'
    refused(get("/todos", authorization), 401, "token_required", challenge)


def test_a_bad_token_is_refused(get: Get, fake: FakeKeyosk) -> None:
    good = fake.token(scopes=["todo:read"])
    foreign = FakeKeyosk(ISSUER, AUDIENCE).token(scopes=["todo:read"])
    bad = [
        "nonsense",
        good[:-2],
        f"{good} {good}",
        f"{good}, Bearer {good}",
        foreign,
        fake.token(scopes=["todo:read"], aud="billing"),
        fake.token(scopes=["todo:read"], iss="https://other.example"),
        fake.token(scopes=["todo:read"], lifetime=-60),
    ]
    for text in bad:
        challenge = 'Bearer realm="todo", error="invalid_token"'
        refused(get("/todos", f"Bearer {text}"), 401, "invalid_token", challenge)


@table(
    "scope",
    [
        *("", " ", "todo:reader", "todo:rea", "todo", "Todo:read", "TODO:READ", "billing:read"),
        *("todo:read,todo:write", "xtodo:read", "todo:write", "todo:*", "todo:read\t"),
    ],
)
def test_a_scope_is_a_whole_word(get: Get, fake: FakeKeyosk, scope: str) -> None:
    response = get("/todos", f"Bearer {fake.token(scope=scope)}")
    challenge = 'Bearer realm="todo", error="insufficient_scope", scope="todo:read"'
    refused(response, 403, "insufficient_scope", challenge)


def test_all_scopes_are_needed(get: Get, fake: FakeKeyosk) -> None:
    challenge = 'Bearer realm="todo", error="insufficient_scope", scope="todo:read todo:write"'
    for scope in ("todo:read", "todo:write"):
        response = get("/both", f"Bearer {fake.token(scopes=[scope])}")
        refused(response, 403, "insufficient_scope", challenge)
    both = fake.token(scopes=["todo:write", "x", "todo:read"])
    assert get("/both", f"Bearer {both}").status_code == 200


def test_a_good_token_passes_and_the_view_knows_it(get: Get, fake: FakeKeyosk) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        token = fake.token(scopes=["todo:read"], subject="s1")
        response = get("/todos", f"{scheme} {token}")
        assert (response.status_code, response.json()) == (200, {"subject": "s1"})


def test_while_keyosk_is_away_it_is_503_and_then_right_again(get: Get, fake: FakeKeyosk) -> None:
    fake.available = False
    response = get("/todos", f"Bearer {fake.token(scopes=['todo:read'])}")
    refused(response, 503, "temporarily_unavailable", None)
    assert response.headers["Retry-After"] == "5"
    # Without a token nobody needs Keyosk.
    refused(get("/todos"), 401, "token_required", 'Bearer realm="todo"')


def test_what_is_known_is_enough_while_keyosk_is_away(get: Get, fake: FakeKeyosk) -> None:
    authorization = f"Bearer {fake.token(scopes=['todo:read'])}"
    assert get("/todos", authorization).status_code == 200
    fake.available = False
    assert get("/todos", authorization).status_code == 200


def test_a_revoked_token_is_refused(get: Get, fake: FakeKeyosk) -> None:
    kept, taken = (f"Bearer {fake.token(scopes=['todo:read'])}" for _ in range(2))
    assert get("/todos", taken).status_code == 200
    fake.revoke(taken.removeprefix("Bearer "))
    challenge = 'Bearer realm="todo", error="invalid_token"'
    refused(get("/todos", taken), 401, "invalid_token", challenge)
    assert get("/todos", kept).status_code == 200


@pytest.mark.parametrize("name", ASKING)
def test_a_view_may_ask_for_more(name: str, fake: FakeKeyosk) -> None:
    with INTEGRATIONS[name]() as get:
        refused(get("/any"), 401, "token_required", 'Bearer realm="todo"')
        response = get("/any", f"Bearer {fake.token(scopes=['todo:read'])}")
        challenge = 'Bearer realm="todo", error="insufficient_scope", scope="todo:write"'
        refused(response, 403, "insufficient_scope", challenge)
        assert get("/any", f"Bearer {fake.token(scopes=['todo:write'])}").status_code == 200


# --- Options --------------------------------------------------------------------------------------

MODULES = ["fastapi", "flask", "asgi", "wsgi", "aiohttp", "django"]


def test_the_options_are_those_of_the_verifier() -> None:
    taken = inspect.signature(VerifierCore).parameters
    assert {"issuer", "audience", *VerifierOptions.__annotations__} == set(taken)


@pytest.mark.parametrize("module", MODULES)
def test_every_option_is_passed_on(module: str, fake: FakeKeyosk) -> None:
    make: Any = getattr(keyosk_client, module).Keyosk
    with pytest.raises(ValueError, match="revocations must be"):
        make(ISSUER, AUDIENCE, revocations="never")
    with pytest.raises(ValueError, match="audience"):
        make(ISSUER, [])
    with pytest.raises(TypeError, match="pol_interval"):
        make(ISSUER, AUDIENCE, pol_interval=5)
    options = {"poll_interval": 5, "leeway": 1, "max_stale": 60, "typ": "JWT", "service": "x"}
    extension = make(ISSUER, ["todo", "todos"], revocations="off", tls=None, **options)
    assert extension.verifier.audience == "todo"
    # The tokens here are of another type than it was told.
    with pytest.raises(keyosk_client.InvalidToken, match="type"):
        asyncio.run(extension.verifier.verify(fake.token()))


REQUIRING: dict[str, Callable[..., Any]] = {
    "fastapi": keyosk_client.fastapi.Keyosk(ISSUER, AUDIENCE).require,
    "flask": keyosk_client.flask.Keyosk(ISSUER, AUDIENCE).require,
    "flask-all": keyosk_client.flask.Keyosk(ISSUER, AUDIENCE).before_request,
    "asgi": keyosk_client.asgi.Keyosk(ISSUER, AUDIENCE).require,
    "wsgi": keyosk_client.wsgi.Keyosk(ISSUER, AUDIENCE).require,
    "aiohttp": keyosk_client.aiohttp.Keyosk(ISSUER, AUDIENCE).require,
    "aiohttp-all": keyosk_client.aiohttp.Keyosk(ISSUER, AUDIENCE).middleware,
    "django": keyosk_client.django.Keyosk(ISSUER, AUDIENCE).require,
    "django-settings": keyosk_client.django.require,
    "rest-framework": keyosk_client.rest_framework.require,
}


@pytest.mark.parametrize("name", REQUIRING)
def test_a_slip_is_told_where_the_view_is_protected(name: str) -> None:
    require = REQUIRING[name]

    def view() -> None: ...

    for slip in (view, ["todo:read"], b"todo:read", None):
        with pytest.raises(TypeError, match="takes scopes"):
            require(slip)
    for scope in ("todo:read todo:write", "", "todo:read ", "todo:ré", 'todo:"read"'):
        with pytest.raises(ValueError, match="is not one scope"):
            require("todo:read", scope)


def test_parentheses_that_were_forgotten_let_nobody_in(fake: FakeKeyosk) -> None:
    keyosk = keyosk_client.fastapi.Keyosk(ISSUER, AUDIENCE)
    app = FastAPI()

    @app.get("/todos", dependencies=[Depends(keyosk.require)])
    def todos() -> None:
        raise AssertionError("not reached")

    with over_asgi(app) as get:
        assert get("/todos").status_code == 422
        with pytest.raises(TypeError):
            get("/todos?scopes=todo:read", f"Bearer {fake.token(scopes=['todo:read'])}")


# --- Flask ----------------------------------------------------------------------------------------


def test_a_preflight_passes_before_request_but_runs_no_view(fake: FakeKeyosk) -> None:
    keyosk = keyosk_client.flask.Keyosk(ISSUER, AUDIENCE)
    app = Flask("todo")
    app.before_request(keyosk.before_request("todo:read"))
    app.add_url_rule("/todos", "todos", lambda: "todos")
    app.add_url_rule("/own", "own", lambda: "own", methods=["OPTIONS"])
    preflight = {"Access-Control-Request-Method": "GET"}
    client = app.test_client()
    assert client.options("/todos", headers=preflight).status_code == 200
    assert client.options("/own", headers=preflight).status_code == 401
    good = fake.header(fake.token(scopes=["todo:read"]))
    assert client.options("/own", headers={**preflight, **good}).text == "own"


# --- FastAPI --------------------------------------------------------------------------------------


def test_the_scheme_and_the_scopes_are_in_the_openapi_document() -> None:
    keyosk = keyosk_client.fastapi.Keyosk(ISSUER, AUDIENCE)
    app = FastAPI()

    @app.get("/todos", dependencies=[Depends(keyosk.require("todo:read"))])
    def todos() -> None: ...

    @app.post("/todos")
    def add(
        token: Annotated[Token, Depends(keyosk.require("todo:read", "todo:write"))],
    ) -> None: ...

    @app.get("/open")
    def open_() -> None: ...

    document = app.openapi()
    flow = {
        "tokenUrl": f"{ISSUER}/auth/token",
        "scopes": {"todo:read": "", "todo:write": ""},
    }
    schemes = {"Keyosk": {"type": "oauth2", "flows": {"clientCredentials": flow}}}
    assert document["components"]["securitySchemes"] == schemes
    assert document["paths"]["/todos"]["get"]["security"] == [{"Keyosk": ["todo:read"]}]
    assert document["paths"]["/todos"]["post"]["security"] == [
        {"Keyosk": ["todo:read", "todo:write"]}
    ]
    assert "security" not in document["paths"]["/open"]["get"]
    # What an operation takes besides is its own.
    assert "parameters" not in document["paths"]["/todos"]["post"]
    assert "requestBody" not in document["paths"]["/todos"]["post"]


def test_it_is_a_security_scheme_of_fastapi_itself(fake: FakeKeyosk) -> None:
    keyosk = keyosk_client.fastapi.Keyosk(ISSUER, AUDIENCE)
    app = FastAPI(dependencies=[Depends(keyosk.require())])

    @app.get("/todos")
    def todos(token: Annotated[Token, Security(keyosk, scopes=["todo:read"])]) -> str:
        return token.subject

    with over_asgi(app) as get:
        assert get("/todos").status_code == 401
        assert get("/todos", f"Bearer {fake.token(scopes=['todo:reader'])}").status_code == 403
        assert get("/todos", f"Bearer {fake.token(scopes=['todo:read'])}").status_code == 200


def test_errors_of_the_operation_itself_stay_what_they_are(fake: FakeKeyosk) -> None:
    keyosk = keyosk_client.fastapi.Keyosk(ISSUER, AUDIENCE)
    app = FastAPI()

    @app.get("/missing", dependencies=[Depends(keyosk.require())])
    def missing() -> None:
        raise HTTPException(404)

    @app.get("/login", dependencies=[Depends(keyosk.require())])
    def login() -> None:
        raise LoginRefused("invalid_client", "This service's own login is wrong.")

    with over_asgi(app) as get:
        authorization = f"Bearer {fake.token()}"
        assert get("/missing", authorization).status_code == 404
        # Not the caller's fault, so it is no 401.
        with pytest.raises(LoginRefused):
            get("/login", authorization)


# --- WebSockets -----------------------------------------------------------------------------------


def handshake(app: Any, authorization: str | None, **more: Any) -> list[dict[str, Any]]:
    """What an application sends for a WebSocket; the client leaves as soon as it is in."""
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    sent = []
    received = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/ws", "headers": headers, "query_string": b""}
    asyncio.run(app({**scope, "subprotocols": [], "scheme": "ws", **more}, receive, send))
    return sent


async def accept(scope: Any, receive: Any, send: Any) -> None:
    assert scope["keyosk_token"].scopes
    await send({"type": "websocket.accept"})


def websocket_with_fastapi() -> Any:
    keyosk = keyosk_client.fastapi.Keyosk(ISSUER, AUDIENCE)
    app = FastAPI()

    @app.websocket("/ws")
    async def ws(
        socket: WebSocket, token: Annotated[Token, Depends(keyosk.require("todo:read"))]
    ) -> None:
        await socket.accept()

    return app


def websocket_with_asgi() -> Any:
    return keyosk_client.asgi.Keyosk(ISSUER, AUDIENCE).require("todo:read")(accept)


@pytest.mark.parametrize("make", [websocket_with_fastapi, websocket_with_asgi])
def test_a_websocket_needs_a_token_too(make: Callable[[], Any], fake: FakeKeyosk) -> None:
    app = make()
    denial: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}
    good = fake.token(scopes=["todo:read"])
    assert handshake(app, f"Bearer {good}", **denial)[0]["type"] == "websocket.accept"
    for authorization, status in [(None, 401), ("Bearer x", 401), (f"Bearer {fake.token()}", 403)]:
        start, body = handshake(app, authorization, **denial)
        assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
        assert b"www-authenticate" in dict(start["headers"])
        assert body["type"] == "websocket.http.response.body"


def test_a_server_without_denial_responses_closes_the_websocket(fake: FakeKeyosk) -> None:
    app = websocket_with_asgi()
    without: list[dict[str, Any]] = [{}, {"extensions": None}, {"extensions": {"tls": {}}}]
    for more in without:
        (message,) = handshake(app, None, **more)
        assert (message["type"], message["code"]) == ("websocket.close", 1008)


def test_the_lifespan_of_an_application_needs_no_token() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    protected = keyosk_client.asgi.Keyosk(ISSUER, AUDIENCE).require("todo:read")(app)

    async def nothing(*_: Any) -> Any: ...

    async def run() -> None:
        await protected({"type": "lifespan"}, nothing, nothing)

    asyncio.run(run())
    assert seen == ["lifespan"]


def test_several_logins_are_none(fake: FakeKeyosk) -> None:
    good = f"Bearer {fake.token(scopes=['todo:read'])}".encode()
    protected = keyosk_client.asgi.Keyosk(ISSUER, AUDIENCE).require("todo:read")(accept)
    headers = [(b"Authorization", good), (b"authorization", good)]
    assert handshake(protected, None, headers=headers[:1])[0]["type"] == "websocket.accept"
    assert handshake(protected, None, headers=headers)[0]["type"] == "websocket.close"


# --- aiohttp --------------------------------------------------------------------------------------


def test_the_middleware_of_aiohttp_protects_every_handler(fake: FakeKeyosk) -> None:
    keyosk = keyosk_client.aiohttp.Keyosk(ISSUER, AUDIENCE)

    async def todos(request: web.Request) -> web.Response:
        return web.Response(text=keyosk.token(request).subject)

    app = web.Application(middlewares=[keyosk.middleware("todo:read")])
    app.router.add_get("/todos", todos)
    with over_aiohttp(app) as get:
        for path in ("/todos", "/nothing-here"):
            assert get(path).status_code == 401
            assert get(path, f"Bearer {fake.token(scope='todo:reader')}").status_code == 403
        good = f"Bearer {fake.token(scopes=['todo:read'])}"
        assert [get(path, good).status_code for path in ("/todos", "/nothing-here")] == [200, 404]


def test_a_view_that_is_not_protected_has_no_token() -> None:
    app = Flask("todo")
    keyosk = keyosk_client.flask.Keyosk(ISSUER, AUDIENCE)
    with app.test_request_context(), pytest.raises(RuntimeError, match="no token"):
        keyosk.token  # noqa: B018 - it raises
    with pytest.raises(RuntimeError, match="no token"):
        keyosk_client.aiohttp.Keyosk.token(make_mocked_request("GET", "/"))


# --- Django ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [WSGIHandler, ASGIHandler])
@pytest.mark.parametrize("sync", [True, False])
def test_middleware_of_django_protects_views(handler: type, sync: bool, fake: FakeKeyosk) -> None:
    middleware = [*django.conf.settings.MIDDLEWARE, "keyosk_client.django.KeyoskMiddleware"]
    subject = _subject if sync else asynchronous(_subject)

    def hello(request: Any) -> Any:
        return django.http.HttpResponse(b"hello")

    with override_settings(MIDDLEWARE=middleware):
        views = {"todos": subject, "hello": keyosk_client.django.public(hello)}
        with over_django(handler, **views) as get:
            assert get("/hello").status_code == 200
            refused(get("/todos"), 401, "token_required", 'Bearer realm="todo"')
            assert get("/todos", "Bearer x").status_code == 401
            assert get("/todos", f"Bearer {fake.token()}").status_code == 200
            fake.available = False
            keyosk_client.verifier.reset(ISSUER)
            assert get("/todos", f"Bearer {fake.token()}").status_code == 503


def test_a_protected_view_needs_no_csrf_token(fake: FakeKeyosk) -> None:
    authorization = f"Bearer {fake.token(scopes=['todo:read'])}"
    with over_django(
        WSGIHandler, todos=keyosk_client.django.require("todo:read")(_subject), open=_subject
    ) as get:
        assert get("/todos", authorization, "POST").status_code == 200
        assert get("/todos", None, "POST").status_code == 401
        assert get("/open", authorization, "POST").status_code == 403  # Django's own
    with with_django_classes() as get:
        assert get("/todos", authorization, "POST").status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        [],
        {"ISSUER": ISSUER},
        {"AUDIENCE": AUDIENCE},
        {"ISSUER": "login.example", "AUDIENCE": AUDIENCE},
        {**SETTINGS, "POL_INTERVAL": 5},
        {**SETTINGS, "REVOCATIONS": "never"},
        {**SETTINGS, "revocations": "never"},
        {1: 2},
    ],
)
def test_settings_that_are_not_valid_are_named(given: Any) -> None:
    with (
        override_settings(KEYOSK=given),
        pytest.raises(ImproperlyConfigured, match="The setting KEYOSK is not valid"),
    ):
        keyosk_client.django.keyosk()


def test_settings_are_read_again_when_a_test_changes_them() -> None:
    before = keyosk_client.django.keyosk()
    with override_settings(DEBUG=True):
        assert keyosk_client.django.keyosk() is before
    with override_settings(KEYOSK={**SETTINGS, "AUDIENCE": "other", "REVOCATIONS": "required"}):
        assert keyosk_client.django.keyosk().verifier.audience == "other"
    assert keyosk_client.django.keyosk().verifier.audience == AUDIENCE


# --- Django REST framework ------------------------------------------------------------------------


def test_a_login_is_enough_where_no_scope_is_named(fake: FakeKeyosk) -> None:
    class Everything(APIView):
        def get(self, request: Any) -> RestResponse:
            assert not request.user.is_anonymous
            return RestResponse({"username": request.user.username})

    with over_django(WSGIHandler, todos=Everything.as_view()) as get:
        response = get("/todos")
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (
            401,
            'Bearer realm="todo"',
        )
        assert get("/todos", f"Bearer {fake.token()}").json() == {"username": "alice"}


def test_a_permission_without_its_authentication_lets_nobody_in(fake: FakeKeyosk) -> None:
    class Other(BaseAuthentication):
        def authenticate(self, _: Any) -> Any:
            return object(), "a token of another kind"

    class Mistaken(APIView):
        authentication_classes = (Other,)
        permission_classes = (keyosk_client.rest_framework.require("todo:read"),)

        def get(self, _: Any) -> RestResponse:
            raise AssertionError("not reached")

    good = fake.token(scopes=["todo:read"])
    with over_django(WSGIHandler, todos=Mistaken.as_view()) as get:
        refused(get("/todos", f"Bearer {good}"), 401, "token_required", 'Bearer realm="todo"')
