"""keyosk-client: tokens for a program by what its platform signed for it."""

import asyncio
import json
import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

import platforms
from client_issuer import ISSUER, Issuer, issuer
from installed import Clock
from keyosk_client import AsyncTokenSource, LoginRefused, TokenSource, TokenUnavailable, workload
from processes import execute
from test_client_token_source import busy, forms, issued

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: Where a program may find that it runs on a platform.
_MARKS = (
    *("KEYOSK_ID_TOKEN", "KEYOSK_ID_TOKEN_FILE", "KEYOSK_CLIENT_ISSUER", "BUILDKITE", "K_SERVICE"),
    *("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GCE_METADATA_HOST"),
    *("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "SPIFFE_ENDPOINT_SOCKET"),
)

Response = tuple[int, str]


class Metadata:
    """A platform's address inside a job or a machine, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.answer: Callable[[], Response] = lambda: (200, json.dumps({"value": token(1)}))

    def start(self) -> None:
        metadata = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                metadata.asked.append((parts.path, dict(parse_qsl(parts.query)), headers))
                status, body = metadata.answer()
                platforms.send(self, body.encode(), status=status, headers={"Location": "/away"})

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def token(number: int) -> str:
    """What looks like a token: whether it is one is for Keyosk to say."""
    return f"e30.e30.signature{number}"


@pytest.fixture
def keyosk() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    fake = Metadata()
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of no platform."""
    for name in _MARKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(workload, "MOUNTED", tmp_path / "mounted")
    monkeypatch.setattr(workload, "_MAKER", tmp_path / "maker")


def assertions(keyosk: Issuer) -> list[str]:
    return [form["client_assertion"] for form in forms(keyosk)]


def shown_once(keyosk: Issuer) -> str:
    """The token that a source of the platform that is found shows."""
    keyosk.token_responses.append(issued(1))
    assert TokenSource.from_workload(ISSUER).token() == "t1"
    return assertions(keyosk)[-1]


def refusal(identity: workload.Identity) -> str:
    with pytest.raises(LoginRefused) as refused:
        identity(ISSUER)
    assert refused.value.error == "no_identity"
    return refused.value.description


# --- The login ------------------------------------------------------------------------------------


def test_each_login_shows_a_new_token_and_no_secret(keyosk: Issuer) -> None:
    given = iter(map(token, range(10)))
    keyosk.token_responses = [issued(1), issued(2)]
    source = TokenSource.from_workload(
        ISSUER, identity=lambda audience: f"{next(given)}-{audience}", audience="todo"
    )
    assert [source.token() for _ in range(3)] == ["t1"] * 3
    assert source.narrowed(scope="todo:read").token() == "t2"
    assert [request.headers.get("Authorization") for request in keyosk.requests] == [None] * 2
    assert forms(keyosk) == [
        {
            "audience": "todo",
            "client_assertion_type": JWT_BEARER,
            "client_assertion": f"{token(0)}-{ISSUER}",
        },
        {
            "scope": "todo:read",
            "client_assertion_type": JWT_BEARER,
            "client_assertion": f"{token(1)}-{ISSUER}",
        },
    ]
    assert repr(source) == f"TokenSource('{ISSUER}', 'a workload')"
    assert "signature" not in repr(source._login.__dict__)


def test_an_attempt_after_a_failure_shows_a_new_token(
    keyosk: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyosk_client.flows.time.sleep", lambda _: None)
    given = iter(map(token, range(10)))
    keyosk.token_responses = [busy(), issued(1)]
    source = TokenSource.from_workload(
        ISSUER, identity=lambda _: next(given), identity_audience="other"
    )
    assert source.token() == "t1"
    assert assertions(keyosk) == [token(0), token(1)]


def test_the_platforms_token_may_have_another_audience(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(1)]
    source = TokenSource.from_workload(
        ISSUER, identity=lambda audience: f"{token(1)}-{audience}", identity_audience="api://keyosk"
    )
    source.token()
    assert assertions(keyosk) == [f"{token(1)}-api://keyosk"]


def test_a_callers_token_is_exchanged_by_a_workload(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(1)]
    source = TokenSource.from_workload(ISSUER, identity=lambda _: token(1))
    assert source.on_behalf_of("callers", audience="billing").token() == "t1"
    assert forms(keyosk)[0] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "callers",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": "billing",
        "client_assertion_type": JWT_BEARER,
        "client_assertion": token(1),
    }


def test_a_platform_that_is_away_is_asked_again_and_then_told(
    keyosk: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(1_000.0)
    monkeypatch.setattr("keyosk_client.token_source.time.monotonic", clock)
    monkeypatch.setattr(
        "keyosk_client.flows.time.sleep", lambda s: setattr(clock, "now", clock.now + s)
    )
    asked = []

    def away(_: str) -> str:
        asked.append(clock.now)
        raise TokenUnavailable("The platform gives no token now: status 503.")

    with pytest.raises(TokenUnavailable, match="The platform gives"):
        TokenSource.from_workload(ISSUER, identity=away).token()
    assert len(asked) > 3
    assert keyosk.requests == []


def test_a_good_token_needs_no_platform(keyosk: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1_000.0)
    monkeypatch.setattr("keyosk_client.token_source.time.monotonic", clock)
    monkeypatch.setattr(
        "keyosk_client.flows.time.sleep", lambda s: setattr(clock, "now", clock.now + s)
    )
    is_there = [True]

    def identity(_: str) -> str:
        if is_there.pop(0) if is_there else False:
            return token(1)
        raise TokenUnavailable("away")

    keyosk.token_responses = [issued(1, 600)]
    source = TokenSource.from_workload(ISSUER, identity=identity)
    assert source.token() == "t1"
    clock.now += 545
    assert source.token() == "t1"
    clock.now += 60
    with pytest.raises(TokenUnavailable):
        source.token()


def test_other_tasks_go_on_while_a_platform_answers(keyosk: Issuer) -> None:
    keyosk.token_responses = [issued(1)]
    may_answer = threading.Event()

    def slowly(_: str) -> str:
        assert may_answer.wait(60)
        return token(1)

    async def ask() -> str:
        source = AsyncTokenSource.from_workload(ISSUER, identity=slowly)
        asking = asyncio.create_task(source.token())
        await asyncio.sleep(0)
        may_answer.set()
        return await asking

    assert asyncio.run(ask()) == "t1"


def test_a_refusal_of_the_platform_is_told_to_tasks_too(keyosk: Issuer) -> None:
    source = AsyncTokenSource.from_workload(ISSUER, identity=workload.variable("UNSET_HERE"))
    with pytest.raises(LoginRefused, match="no token in the variable UNSET_HERE"):
        asyncio.run(source.token())
    assert keyosk.requests == []


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="issuer is required"):
        TokenSource.from_workload(identity=lambda _: token(1))
    monkeypatch.setenv("KEYOSK_CLIENT_ISSUER", ISSUER)
    with pytest.raises(ValueError, match="id-token: write"):
        TokenSource.from_workload()
    assert ISSUER in repr(TokenSource.from_workload(identity=lambda _: token(1)))


# --- Platforms ------------------------------------------------------------------------------------


def test_github(keyosk: Issuer, metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"http://{metadata.place}/t?api-version=2.0")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of the job")
    responses = iter([json.dumps({"value": token(n), "count": 1}) for n in (1, 2)])
    metadata.answer = lambda: (200, next(responses))
    assert [shown_once(keyosk), shown_once(keyosk)] == [token(1), token(2)]
    path, query, headers = metadata.asked[0]
    assert (path, query) == ("/t", {"api-version": "2.0", "audience": ISSUER})
    assert headers["authorization"] == "Bearer of the job"


def test_a_job_of_github_without_the_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "id-token: write" in refusal(workload.github())
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:9/t")
    assert "id-token: write" in refusal(workload.github())


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ((403, "no"), "status 403"),
        ((302, ""), "status 302"),
        ((200, "no json"), "no token in the response"),
        ((200, "[]"), "no token in the response"),
        ((200, "{}"), "no token in the response"),
        ((200, '{"value": null}'), "no token in the response"),
        ((200, '{"value": "short"}'), "no token in the response"),
        ((200, '{"value": "\u00e4.b.c"}'), "no token in the response"),
    ],
)
def test_what_a_platform_may_answer_instead(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch, response: Response, said: str
) -> None:
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"http://{metadata.place}/t")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of the job")
    metadata.answer = lambda: response
    told = refusal(workload.github())
    assert said in told
    assert "of the job" not in told
    assert len(metadata.asked) == 1  # a redirect is not followed


@pytest.mark.parametrize(
    ("url", "said"), [("http://127.0.0.1:1/", "ConnectError"), ("http://a:x/", "InvalidURL")]
)
def test_an_unreachable_platform(monkeypatch: pytest.MonkeyPatch, url: str, said: str) -> None:
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", url)
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of the job")
    with pytest.raises(TokenUnavailable, match=f"GitHub Actions gives no token now: {said}"):
        workload.github()(ISSUER)


def test_a_platform_that_is_busy(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCE_METADATA_HOST", metadata.place)
    metadata.answer = lambda: (503, "")
    with pytest.raises(TokenUnavailable, match="Google Cloud gives no token now: status 503"):
        workload.google()(ISSUER)


def test_gitlab_ci(keyosk: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYOSK_ID_TOKEN", token(1))
    assert shown_once(keyosk) == token(1)
    monkeypatch.setenv("DEPLOY_TOKEN", token(2))
    assert workload.variable("DEPLOY_TOKEN")(ISSUER) == token(2)


def test_kubernetes(keyosk: Issuer, tmp_path: Path) -> None:
    workload.MOUNTED.write_text(token(1))
    source = TokenSource.from_workload(ISSUER)
    keyosk.token_responses = [issued(1), issued(2)]
    assert source.token() == "t1"
    workload.MOUNTED.write_text(f"\ufeff{token(2)}\n")  # the kubelet renewed it
    source._forget("t1")
    assert source.token() == "t2"
    assert assertions(keyosk) == [token(1), token(2)]


def test_a_file(keyosk: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "svid"
    monkeypatch.setenv("KEYOSK_ID_TOKEN_FILE", str(path))
    path.write_text(token(1))
    assert shown_once(keyosk) == token(1)
    path.write_bytes(b"\xff.\xff.")
    assert str(path) in refusal(workload.file(path))
    path.write_text("")
    assert "no token" in refusal(workload.file(path))
    path.unlink()
    assert "No such file" in refusal(workload.file(path))


def test_buildkite(keyosk: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tmp_path / "buildkite-agent"
    agent.write_text(f'#!/bin/sh\necho "$@" >"{tmp_path}/asked"\necho {token(1)}\n')
    agent.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("BUILDKITE", "true")
    assert shown_once(keyosk) == token(1)
    asked = f"oidc request-token --audience {ISSUER} --claim organization_id,pipeline_id\n"
    assert (tmp_path / "asked").read_text() == asked
    assert workload.buildkite("build_id")(ISSUER) == token(1)
    assert (tmp_path / "asked").read_text().endswith("--claim build_id\n")
    agent.write_text("#!/bin/sh\necho secret >&2\nexit 1\n")
    with pytest.raises(TokenUnavailable, match="buildkite-agent gives no token now") as told:
        workload.buildkite()(ISSUER)
    assert "secret" not in str(told.value)
    agent.unlink()
    assert "cannot be run" in refusal(workload.buildkite())


@pytest.mark.parametrize("mark", ["K_SERVICE", "maker"])
def test_google_cloud(
    keyosk: Issuer, metadata: Metadata, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    monkeypatch.setenv("GCE_METADATA_HOST", metadata.place)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # leads nowhere, and is not used
    metadata.answer = lambda: (200, token(1))
    if mark == "maker":
        workload._MAKER.write_text("Google\n")
    else:
        monkeypatch.setenv(mark, "shop")
    assert shown_once(keyosk) == token(1)
    path, query, headers = metadata.asked[0]
    assert path == "/computeMetadata/v1/instance/service-accounts/default/identity"
    assert query == {"audience": ISSUER, "format": "full"}
    assert headers["metadata-flavor"] == "Google"


def test_azure_app(keyosk: Issuer, metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://{metadata.place}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "of the site")
    metadata.answer = lambda: (200, json.dumps({"access_token": token(1)}))
    assert shown_once(keyosk) == token(1)
    path, query, headers = metadata.asked[0]
    assert (path, query) == ("/msi/token", {"api-version": "2019-08-01", "resource": ISSUER})
    assert headers["x-identity-header"] == "of the site"
    workload.azure("an id")("api://keyosk")
    assert metadata.asked[1][1]["client_id"] == "an id"
    assert metadata.asked[1][1]["resource"] == "api://keyosk"


def test_an_azure_vm(keyosk: Issuer, metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workload._AZURE_METADATA == "http://169.254.169.254/metadata/identity/oauth2/token"
    monkeypatch.setattr(workload, "_AZURE_METADATA", f"http://{metadata.place}/metadata")
    workload._MAKER.write_text("Microsoft Corporation\n")
    metadata.answer = lambda: (200, json.dumps({"access_token": token(1)}))
    assert shown_once(keyosk) == token(1)
    path, query, headers = metadata.asked[0]
    assert (path, query) == ("/metadata", {"api-version": "2018-02-01", "resource": ISSUER})
    assert headers["metadata"] == "true"


# --- SPIFFE ---------------------------------------------------------------------------------------

#: A Workload API, and a client of it; in a process of their own, as gRPC and forks do not go
#: together.
_SPIFFE = """
    import sys, time
    from concurrent.futures import ThreadPoolExecutor

    import grpc, jwt
    from keyosk_client import TokenUnavailable, workload
    from spiffe._proto import workload_pb2, workload_pb2_grpc

    socket = f"unix://{sys.argv[1]}"

    class WorkloadAPI(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
        def FetchJWTSVID(self, request, context):
            claims = {"sub": "spiffe://example.org/shop", "aud": list(request.audience)}
            claims["exp"] = int(time.time()) + 300
            text = jwt.encode(claims, "k" * 32, headers={"kid": "1", "typ": "JWT"})
            parts = text.split(".")
            parts[0] = jwt.utils.base64url_encode(
                b'{"alg": "ES256", "kid": "1", "typ": "JWT"}'
            ).decode()
            svid = workload_pb2.JWTSVID(spiffe_id=claims["sub"], svid=".".join(parts))
            return workload_pb2.JWTSVIDResponse(svids=[svid])

    try:
        workload.spiffe(socket)("https://login.example")
    except TokenUnavailable as error:
        print(error)
    server = grpc.server(ThreadPoolExecutor(1))
    workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(WorkloadAPI(), server)
    server.add_insecure_port(socket)
    server.start()
    text = workload.spiffe(socket)("https://login.example")
    print(jwt.decode(text, options={"verify_signature": False})["aud"])
    server.stop(None)
"""


@pytest.mark.slow
def test_spiffes_workload_api(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_SPIFFE), str(tmp_path / "agent.sock")]
    result = execute(command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "SPIFFE gives no token now: ArgumentError.",
        "['https://login.example']",
    ]


def test_spiffe_without_library_or_failing(keyosk: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spiffe", None)
    assert "Install the package spiffe" in refusal(workload.spiffe())

    class WorkloadApiClient:
        """As the library's; what it really does is tested above."""

        def __init__(self, socket: str | None, default_timeout: float) -> None:
            assert socket is None
            assert default_timeout
            if os.environ["SPIFFE_ENDPOINT_SOCKET"] == "tcp://away":
                raise RuntimeError("of gRPC")

        def __enter__(self) -> "WorkloadApiClient":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        @staticmethod
        def fetch_jwt_svid(audience: set[str]) -> SimpleNamespace:
            assert audience == {ISSUER}
            return SimpleNamespace(token=token(1))

    monkeypatch.setitem(sys.modules, "spiffe", SimpleNamespace(WorkloadApiClient=WorkloadApiClient))
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire/agent.sock")
    assert shown_once(keyosk) == token(1)
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "tcp://away")
    with pytest.raises(TokenUnavailable, match="SPIFFE gives no token now: RuntimeError"):
        workload.spiffe()(ISSUER)


def test_what_the_user_said_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pod in which a job runs, for example."""
    workload.MOUNTED.write_text(token(9))
    monkeypatch.setenv("BUILDKITE", "true")
    monkeypatch.setenv("KEYOSK_ID_TOKEN", token(2))
    assert workload.detect()(ISSUER) == token(2)
    path = tmp_path / "named"
    path.write_text(token(1))
    monkeypatch.setenv("KEYOSK_ID_TOKEN_FILE", str(path))
    assert workload.detect()(ISSUER) == token(1)
