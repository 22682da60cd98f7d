"""The work of ``keyosk verify-service``: serves a kit's key set and judges the responses."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener
from xml.etree import ElementTree as ET  # nosec B405  # it only writes

import click

from keyosk.cli.client import Client
from keyosk.cli.refusals import Refused
from keyosk.model import (
    COMMON_ALGORITHMS,
    SIGNING_ALGORITHMS,
    CredentialKind,
    Scope,
    Service,
    TokenPolicy,
)
from keyosk.tokens import conformance_kit
from keyosk.tokens.conformance_kit import Kit, Sample

_TIMEOUT = 10  # seconds
_PAUSE = 0.2  # seconds between two attempts
#: The path of a service's own key set. The kit has one set, for whatever name the verifier uses.
_SERVICE_KEYS = re.compile(r"/services/[^/]+/jwks")


def make_kit(
    client: Client, name: str, *, issuer: str | None, jku: str, scope: str | None = None
) -> Kit:
    """Return the kit for a service.

    ``issuer``: what it believes to be its issuer; ``scope``: what the endpoint requires.
    """
    service = _service(client.get("services", name).body)
    if scope is not None and scope not in [each.name for each in service.scopes]:
        raise Refused(f"The service has no scope {scope!r}.")
    algorithm = client.public_key(None).get("alg")
    if not {algorithm, service.policy.signing_algorithm} <= {*SIGNING_ALGORITHMS, None}:
        raise Refused("The server names a signing algorithm that is not known here.")
    return conformance_kit.make(
        service,
        issuer or client.issuer(),
        int(time.time()),
        algorithm=str(algorithm),
        jku=jku,
        scope=scope,
    )


def _service(shape: Mapping[str, Any]) -> Service:
    """Return the service for the kit, from the API's representation."""
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


class Verdict(StrEnum):
    """The judgement of a response."""

    RIGHT = "right"
    WRONG = "WRONG"
    NOT_POLLED = "not polled"
    NOT_CHECKED = "not checked"
    PROVES_NOTHING = "proves nothing"
    UNREACHABLE = "cannot be reached"


_JUDGED = (Verdict.RIGHT, Verdict.WRONG, Verdict.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one token; ``status``: of the response, ``none`` if there was none."""

    token: str
    answer: str
    verdict: Verdict
    flaw: str

    @property
    def is_bad(self) -> bool:
        """Whether the service failed the test."""
        return self.verdict in (Verdict.WRONG, Verdict.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a test; ``summary``: one line for people."""

    findings: tuple[Finding, ...]
    passed: bool
    summary: str


def check(url: str, kit: Kit, *, revocations: bool, scope: str | None, wait: float = 0) -> Report:
    """Send every token of a kit to a service and judge the responses.

    Args:
        url: The protected endpoint.
        kit: The kit, whose documents must be served already.
        revocations: The service polls revocations, of which it learns within ``wait`` seconds.
        scope: The scope that the endpoint requires. Without it, an endpoint that accepts a token
            without scopes is taken for one that requires none.
        wait: Seconds until the service must be reachable, and know the kit's revocations. One that
            fetches keys when it starts can only start while the kit is served.
    """
    good, *bad = kit.samples
    _wait_for(url, kit.issuer, wait)
    status = _ask(url, good)
    if status == "none":
        finding = Finding(good.name, status, Verdict.UNREACHABLE, good.flaw)
        return Report((finding,), False, f"Failed: {url} cannot be reached by HTTP.")
    is_accepted = status.startswith("2")
    findings = [Finding(good.name, status, _verdict(right=is_accepted), good.flaw)]
    for sample in bad:
        patience = wait if sample.polled and revocations and is_accepted else 0
        answer = _ask_until_refused(url, sample, patience)
        verdict = _verdict(right=answer.startswith(("3", "4")))
        if sample.polled and not revocations and answer.startswith("2"):
            verdict = Verdict.NOT_POLLED
        findings.append(Finding(sample.name, answer, verdict, sample.flaw))
    answers = [(sample, _ask(url, sample)) for sample in kit.scope_samples]
    requires_none = bool(answers) and scope is None and answers[0][1].startswith("2")
    for sample, answer in answers:
        verdict = _verdict(right=answer.startswith(("3", "4")))
        if requires_none and answer.startswith("2"):
            verdict = Verdict.NOT_CHECKED
        findings.append(Finding(sample.name, answer, verdict, sample.flaw))
    if not is_accepted:
        findings = [
            replace(finding, verdict=Verdict.PROVES_NOTHING)
            if finding.verdict is Verdict.RIGHT
            else finding
            for finding in findings
        ]
    return Report(
        tuple(findings), not any(finding.is_bad for finding in findings), _summary(findings, status)
    )


def _wait_for(url: str, issuer: str, seconds: float) -> None:
    """Wait until something listens at a URL, but not for ever."""
    deadline = time.monotonic() + seconds
    was_told = False
    while not _listens(url) and time.monotonic() < deadline:
        if not was_told:
            click.echo(f"keyosk: waiting for {url}: start it with the issuer {issuer}", err=True)
            was_told = True
        time.sleep(_PAUSE)


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_TIMEOUT).close()
    except OSError:
        return False
    return True


def _verdict(*, right: bool) -> Verdict:
    return Verdict.RIGHT if right else Verdict.WRONG


def _summary(findings: Sequence[Finding], status: str) -> str:
    wrong = [finding for finding in findings[1:] if finding.is_bad]
    names = ", ".join(finding.token for finding in wrong)
    if findings[0].is_bad:
        message = "Failed: the good token was refused, so a refusal of the others proves nothing"
        more = f" Wrong as well: {names}." if 0 < len(wrong) < len(findings) - 1 else ""
        return f"{message}. {_hint(status)}{more}"
    if wrong:
        return f"Failed: {_tokens(len(wrong))} accepted or answered with an error: {names}."
    kinds = {finding.verdict for finding in findings}
    right = sum(finding.verdict is Verdict.RIGHT for finding in findings[1:])
    message = f"Passed: the good token is accepted, {_tokens(right)} refused."
    if Verdict.NOT_CHECKED in kinds:
        message += " No scope is checked here: if one should be, name it with --scope."
    if Verdict.NOT_POLLED in kinds:
        message += " Revoked tokens are accepted: with --revocations, this is a failure."
    return message


def _tokens(number: int) -> str:
    return "1 bad token was" if number == 1 else f"{number} bad tokens were"


def _hint(status: str) -> str:
    if status in ("404", "405"):
        return f"It answered {status}: is the URL that of an endpoint which can be read by GET?"
    if status == "403":
        return "It answered 403: does the endpoint require a scope that this service does not have?"
    if status.startswith("3"):
        return "It redirects: this must be an endpoint that takes a Bearer token."
    if status.startswith("5"):
        return f"It answered {status}: its log may say why."
    return (
        "Does it expect this issuer (--issuer) and this audience, and does it get its keys from "
        "--jwks-bind? If it has cached other keys, restart it, or wait 30 seconds."
    )


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirect to a login page is a refusal."""


def _ask(url: str, sample: Sample) -> str:
    headers = {"Authorization": f"Bearer {sample.text}"}
    request = Request(url, headers=headers)  # noqa: S310  # the command looked at it
    try:
        with build_opener(_NoRedirects).open(request, timeout=_TIMEOUT) as answer:
            return str(answer.status)
    except HTTPError as error:
        error.close()
        return str(error.code)
    except (URLError, OSError, HTTPException):
        return "none"


def _ask_until_refused(url: str, sample: Sample, seconds: float) -> str:
    """Ask again while a token is accepted: a service that polls learns of the kit only then."""
    deadline = time.monotonic() + seconds
    answer = _ask(url, sample)
    if answer.startswith("2") and seconds:
        click.echo("keyosk: waiting until the service has fetched /auth/revocations", err=True)
    while answer.startswith("2") and time.monotonic() < deadline:
        time.sleep(_PAUSE)
        answer = _ask(url, sample)
    return answer


def junit(report: Report, url: str) -> str:
    """Return a report in the XML format of JUnit, which CI systems read."""
    skipped = [finding for finding in report.findings if finding.verdict not in _JUDGED]
    suite = ET.Element(
        "testsuite",
        name=f"keyosk verify-service {url}",
        tests=str(len(report.findings)),
        failures=str(sum(finding.is_bad for finding in report.findings)),
        skipped=str(len(skipped)),
    )
    for finding in report.findings:
        case = ET.SubElement(suite, "testcase", classname="keyosk", name=finding.token)
        message = f"{finding.flaw}; the answer was {finding.answer}"
        if finding.is_bad:
            ET.SubElement(case, "failure", message=message)
        elif finding in skipped:
            ET.SubElement(case, "skipped", message=finding.verdict)
    ET.SubElement(suite, "system-out").text = report.summary
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


@contextmanager
def served(kit: Kit, host: str, port: int, *, jku: str) -> Iterator[None]:
    """Serve the kit's documents at the paths where Keyosk has its own."""
    # What OpenID Connect Discovery requires, section 3: some libraries read no less.
    metadata = {
        "issuer": kit.issuer,
        "authorization_endpoint": f"{kit.issuer}/auth/authorize",
        "token_endpoint": f"{kit.issuer}/auth/token",
        "jwks_uri": f"{kit.issuer}/.well-known/jwks.json",
        "response_types_supported": ["none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": sorted(COMMON_ALGORITHMS),
    }
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
        raise click.ClickException(
            f"Cannot listen at {host}:{port}: {error.strerror}. If Keyosk listens there, stop it "
            "for this test; or name another address with --jwks-bind and start the service with it."
        ) from None
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
            path = self.path.partition("?")[0]
            document = documents.get("/auth/jwks" if _SERVICE_KEYS.fullmatch(path) else path)
            body = b"" if document is None else json.dumps(document).encode()
            self.send_response(404 if document is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log nothing; the table of results is enough."""

    return Handler
