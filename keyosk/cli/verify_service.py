"""keyosk token bad, keyosk verify-service: whether a service checks its tokens."""

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import click

from keyosk.cli import outputs, shared
from keyosk.tokens import conformance_kit
from keyosk.tokens.conformance_kit import Kit, Sample

_TIMEOUT = 10  # seconds
_JKU = "/keys-of-an-attacker.json"
_service = click.option("--service", required=True, help="The service's name or id.")


@click.command("bad")
@_service
@click.option("--issuer", help="What the service believes its issuer to be; this installation.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write jwks.json, revocations.json and tokens.json into this new folder.",
)
def bad_token_kit(service: str, issuer: str | None, out: Path | None) -> None:
    """Make a test key set, a good token, and many that a service must refuse.

    No installation accepts any of them: the keys are made for this and kept nowhere.
    """
    kit = _kit(service, issuer, jku=f"https://attacker.invalid{_JKU}")
    files = {"jwks": kit.key_set, "revocations": kit.revocations, "tokens": _shapes(kit)}
    if out is None:
        shared.show_json(files)
        return
    with outputs.new_folder(out):
        for name, content in files.items():
            text = json.dumps(content, indent=2) + "\n"
            (out / f"{name}.json").write_text(text, encoding="utf-8")


@click.command("verify-service")
@click.argument("url")
@_service
@click.option(
    "--jwks-bind",
    required=True,
    metavar="HOST:PORT",
    help="Where to serve the test key set; the service under test must take this for Keyosk.",
)
@click.option("--issuer", help="What the service believes its issuer to be; http://HOST:PORT.")
@click.option(
    "--revocations", is_flag=True, help="The service polls, and must know what is revoked."
)
@shared.as_json
def verify_service(
    url: str, service: str, jwks_bind: str, issuer: str | None, *, revocations: bool, as_json: bool
) -> None:
    """Send good and bad tokens to URL, a protected address of a service; tell what it accepts.

    The service must be started for this test, with http://HOST:PORT in the place of Keyosk. Exits 1
    if it accepted a bad token, refused the good one, or failed.
    """
    host, port = _loopback(jwks_bind)
    base = f"http://{jwks_bind}"
    kit = _kit(service, issuer or base, jku=base + _JKU)
    with _served(kit, host, port):
        found = [_tried(url, sample, revocations=revocations) for sample in kit.samples]
    shared.show_list(found, ("token", "answer", "verdict", "flaw"), as_json=as_json)
    sys.exit(any(each["verdict"] == "WRONG" for each in found))


def _loopback(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    try:
        is_loopback = IPv4Address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not (is_loopback and port.isascii() and port.isdecimal() and int(port) < 65_536):
        raise click.BadParameter(
            "must be a loopback address such as 127.0.0.1:9080", param_hint="--jwks-bind"
        )
    return host, int(port)


def _kit(service: str, issuer: str | None, *, jku: str) -> Kit:
    with shared.installation() as installation:
        found = installation.services.get(service)
        return conformance_kit.make(
            found,
            issuer or installation.issuer,
            int(time.time()),
            algorithm=installation.signing_keys.algorithm,
            jku=jku,
        )


def _shapes(kit: Kit) -> list[dict[str, Any]]:
    return [
        {"name": each.name, "good": each.good, "flaw": each.flaw, "token": each.text}
        for each in kit.samples
    ]


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirect to a login page is a refusal."""


def _tried(url: str, sample: Sample, *, revocations: bool) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("must be an http or https URL", param_hint="URL")
    headers = {"Authorization": f"Bearer {sample.text}"}
    request = Request(url, headers=headers)  # noqa: S310  # looked at above
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
def _served(kit: Kit, host: str, port: int) -> Iterator[None]:
    """The kit's documents at the addresses where Keyosk has its own."""
    keys = f"{kit.issuer}/.well-known/jwks.json"
    metadata = {"issuer": kit.issuer, "jwks_uri": keys, "response_types_supported": []}
    documents = {
        "/auth/jwks": kit.key_set,
        "/.well-known/jwks.json": kit.key_set,
        "/auth/revocations": kit.revocations,
        _JKU: kit.foreign_key_set,
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
