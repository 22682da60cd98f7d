"""The work of ``keyosk verify-service``: the kit, its key set on a port, a service's answers."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import click

from keyosk.cli.client import Client
from keyosk.cli.refusals import Refused
from keyosk.model import SIGNING_ALGORITHMS, CredentialKind, Scope, Service, TokenPolicy
from keyosk.tokens import conformance_kit
from keyosk.tokens.conformance_kit import Kit, Sample

_TIMEOUT = 10  # seconds


def make_kit(client: Client, name: str, *, issuer: str | None, jku: str) -> Kit:
    """Return the kit for a service; ``issuer``: what it believes to be its issuer."""
    service = _service(client.get("services", name).body)
    algorithm = client.public_key(None).get("alg")
    if not {algorithm, service.policy.signing_algorithm} <= {*SIGNING_ALGORITHMS, None}:
        raise Refused("The server names a signing algorithm that is not known here.")
    return conformance_kit.make(
        service,
        issuer or client.issuer(),
        int(time.time()),
        algorithm=str(algorithm),
        jku=jku,
    )


def _service(shape: Mapping[str, Any]) -> Service:
    """Of a service as the API shows it what the kit needs."""
    policy = TokenPolicy(
        name=str(shape.get("name")),
        audience=str(shape.get("audience")),
        enabled=True,
        on_request_only=False,
        accepts=frozenset(CredentialKind),
        token_lifetime=None,
        signing_algorithm=shape.get("signing_algorithm"),
        typ=shape.get("typ"),
        refresh_allowed=False,
        refresh_lifetime=None,
        claims=(),
    )
    return Service(
        id=str(shape.get("id")),
        policy=policy,
        title="",
        description="",
        contact="",
        scopes=tuple(Scope(str(scope.get("name"))) for scope in shape.get("scopes", ())),
        created_at=0,
        updated_at=0,
        version=1,
    )


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirect to a login page is a refusal."""


def try_sample(url: str, sample: Sample, *, revocations: bool) -> dict[str, Any]:
    """Send one token to a service and judge what it answers."""
    headers = {"Authorization": f"Bearer {sample.text}"}
    request = Request(url, headers=headers)  # noqa: S310  # the command looked at it
    try:
        with build_opener(_NoRedirects).open(request, timeout=_TIMEOUT) as answer:
            status = str(answer.status)
    except HTTPError as error:
        status = str(error.code)
        error.close()
    except (URLError, OSError, HTTPException):
        status = "none"
    if sample.good:
        right = status.startswith("2")
    else:
        right = status.startswith(("3", "4"))
    known = right or (sample.polled and not revocations and status.startswith("2"))
    verdict = "right" if right else "not polled" if known else "WRONG"
    return {"token": sample.name, "answer": status, "verdict": verdict, "flaw": sample.flaw}


@contextmanager
def served(kit: Kit, host: str, port: int, *, jku: str) -> Iterator[None]:
    """The kit's documents at the addresses where Keyosk has its own."""
    keys = f"{kit.issuer}/.well-known/jwks.json"
    metadata = {"issuer": kit.issuer, "jwks_uri": keys, "response_types_supported": []}
    documents = {
        "/auth/jwks": kit.key_set,
        "/.well-known/jwks.json": kit.key_set,
        "/auth/revocations": kit.revocations,
        jku: kit.foreign_key_set,
        "/.well-known/oauth-authorization-server": metadata,
        "/.well-known/openid-configuration": metadata,
    }
    try:
        server = ThreadingHTTPServer((host, port), _handler(documents))
    except OSError as error:
        raise click.ClickException(f"Cannot listen at {host}:{port}: {error.strerror}.") from None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _handler(documents: Mapping[str, Any]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = documents.get(self.path.partition("?")[0])
            body = b"" if document is None else json.dumps(document).encode()
            self.send_response(404 if document is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: the table says it all."""

    return Handler
