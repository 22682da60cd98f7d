"""keyosk token bad and keyosk verify-service: does a service refuse what it must."""

import http.client
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from keyosk import bad_tokens
from keyosk.bad_tokens import REVOKED, Kit, Probe
from keyosk.cli import session
from keyosk.errors import Unavailable

_TIMEOUT: Final = 10.0  # seconds
_JKU: Final = "/keys-of-an-attacker.json"
_NOWHERE: Final = f"https://attacker.invalid{_JKU}"
_REVOCATIONS: Final = "/auth/revocations"
_COLUMNS: Final = ("token", "status", "verdict", "about")


@click.command("bad")
@click.option("--service", "name", required=True, metavar="SERVICE")
@click.option("--issuer", help="The iss that the service expects.  [default: this Keyosk's]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@session.as_json
def bad(name: str, issuer: str | None, out: Path | None, *, as_json: bool) -> None:
    """Print a good token and many bad ones, under a key that only their own key set has."""
    kit = _kit(name, issuer, _NOWHERE)
    if out is not None:
        _write(kit, out)
        return
    if as_json:
        tokens = [{"name": p.name, "about": p.about, "token": p.text} for p in kit.probes]
        documents = {"key_set": kit.key_set, "revocations": kit.revocations}
        session.show_json({"issuer": kit.issuer, **documents, "tokens": tokens})
        return
    for probe in kit.probes:
        click.echo(f"{probe.name} {probe.text}")


def _bind(_: click.Context, __: click.Parameter, text: str) -> tuple[str, int]:
    host, _colon, port = text.rpartition(":")
    try:
        is_loopback = IPv4Address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not (is_loopback and port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        raise click.BadParameter("must be an address of this machine, such as 127.0.0.1:9000")
    return host, int(port)


def _url(_: click.Context, __: click.Parameter, text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter("must begin with http:// or https://")
    return text


@click.command("verify-service")
@click.argument("url", callback=_url)
@click.option("--service", "name", required=True, metavar="SERVICE")
@click.option(
    "--jwks-bind",
    "bind",
    required=True,
    callback=_bind,
    metavar="HOST:PORT",
    help="Where the service fetches the keys meanwhile: a loopback address.",
)
@click.option("--issuer", help="The iss that the service expects.  [default: http:// + jwks-bind]")
@click.option("--method", default="GET", show_default=True)
@click.option(
    "--polls-within",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="It asks for revocations so often: wait for that, and count on it.",
)
@session.as_json
@click.pass_context
def verify_service(
    context: click.Context,
    url: str,
    name: str,
    bind: tuple[str, int],
    issuer: str | None,
    method: str,
    polls_within: float,
    *,
    as_json: bool,
) -> None:
    """Send a good token and many bad ones to URL, and tell which ones it accepted.

    Exits 1 if it accepted a bad one or refused the good one.
    """
    host, port = bind
    base = f"http://{host}:{port}"
    kit = _kit(name, issuer or base, base + _JKU)
    with _serving(kit, host, port, base) as asked_for_revocations:
        results = []
        for probe in kit.probes:
            if probe.name == REVOKED and polls_within:
                asked_for_revocations.wait(polls_within)
            results.append(_Result(probe, _status(url, method.upper(), probe.text)))
        counts = polls_within > 0 or asked_for_revocations.is_set()
    rows = [
        {
            "token": result.probe.name,
            "status": result.status,
            "verdict": result.verdict(revocations_count=counts),
            "about": result.probe.about,
        }
        for result in results
    ]
    session.show_list(rows, _COLUMNS, as_json=as_json)
    if any(row["verdict"] in ("ACCEPTED", "REFUSED") for row in rows):
        context.exit(1)


@dataclass(frozen=True, slots=True)
class _Result:
    probe: Probe
    status: int

    def verdict(self, *, revocations_count: bool) -> str:
        """Small letters if it is as it must be."""
        accepted = 200 <= self.status < 300
        if self.probe.good:
            return "accepted" if accepted else "REFUSED"
        if not accepted:
            return "refused"
        if self.probe.name == REVOKED and not revocations_count:
            return "accepted, as it asks for no revocations"
        return "ACCEPTED"


def _kit(name: str, issuer: str | None, jku: str) -> Kit:
    with session.installation() as installation:
        return bad_tokens.make(
            installation.services.get(name),
            issuer=issuer or installation.issuer,
            algorithm=installation.signing_keys.algorithm,
            jku=jku,
            now=int(installation.clock()),
        )


def _write(kit: Kit, folder: Path) -> None:
    files = {f"{probe.name}.jwt": f"{probe.text}\n" for probe in kit.probes}
    files["jwks.json"] = json.dumps(kit.key_set, indent=1) + "\n"
    files["revocations.json"] = json.dumps(kit.revocations, indent=1) + "\n"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in files.items():
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        with os.fdopen(os.open(folder / name, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)


def _status(url: str, method: str, token: str) -> int:
    """What the service answers to a request with the token. Raises ``Unavailable``."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT)
    try:
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"The service does not answer: {type(error).__name__}.") from None
    finally:
        connection.close()


@contextmanager
def _serving(kit: Kit, host: str, port: int, base: str) -> Iterator[threading.Event]:
    """Serve what a service fetches from a Keyosk; the event: it asked for revocations."""
    asked = threading.Event()
    metadata = {
        "issuer": kit.issuer,
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "token_endpoint": f"{base}/auth/token",
        "revocations_endpoint": base + _REVOCATIONS,
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [key["alg"] for key in kit.key_set["keys"]],
    }
    documents: Mapping[str, Any] = {
        "/.well-known/jwks.json": kit.key_set,
        "/auth/jwks": kit.key_set,
        "/.well-known/openid-configuration": metadata,
        "/.well-known/oauth-authorization-server": metadata,
        _REVOCATIONS: kit.revocations,
        _JKU: kit.foreign_key_set,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            document = documents.get(path)
            body = json.dumps(document).encode()
            self.send_response(404 if document is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            if path == _REVOCATIONS:
                asked.set()

        def log_message(self, *_: Any) -> None:
            """Nothing: the table is what this command prints."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise Unavailable(f"Nothing can be served at {base}: {error.strerror}.") from None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
