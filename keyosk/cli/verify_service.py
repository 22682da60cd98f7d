"""keyosk token bad, keyosk verify-service: tests whether a service verifies its tokens."""

import json
import re
import sys
from dataclasses import asdict
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyosk.cli import outputs, shared
from keyosk.cli.refusals import Refused

if TYPE_CHECKING:
    from keyosk.cli.client import Client
    from keyosk.cli.service_check import Report
    from keyosk.tokens.conformance_kit import Kit

_JKU = "/keys-of-an-attacker.json"
_service = click.option("--service", required=True, help="The service's name or id.")


@click.command("bad")
@_service
@click.option("--issuer", help="The issuer that the service expects; this installation by default.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write jwks.json, revocations.json and tokens.json into this new folder.",
)
def bad_token_kit(service: str, issuer: str | None, out: Path | None) -> None:
    """Create a test key set, a good token, and many that a service must refuse.

    No installation accepts any of them: the keys are made for this and kept nowhere.
    """
    from keyosk.cli import service_check  # noqa: PLC0415 - cryptography costs more than the rest

    with shared.client() as client:
        kit = service_check.make_kit(
            client, service, issuer=issuer, jku=f"https://attacker.invalid{_JKU}"
        )
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
    metavar="HOST:PORT",
    help="Where to serve the test key set; the service must use this in place of Keyosk. Where "
    "Keyosk itself listens by default: stop it for the test.",
)
@click.option("--issuer", help="The issuer that the service expects; http://HOST:PORT by default.")
@click.option(
    "--revocations",
    is_flag=True,
    help="The service polls revocations and must refuse revoked tokens.",
)
@click.option(
    "--scope",
    help="The scope that URL requires. Without this, a URL that accepts a token without any scope "
    "is taken for one that requires none.",
)
@click.option(
    "--wait",
    type=click.IntRange(0, 600),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a URL that cannot be reached yet, and for a service that polls "
    "revocations to fetch those of the test.",
)
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the result into this file, in the XML format of JUnit.",
)
@shared.as_json
def verify_service(
    url: str,
    service: str,
    jwks_bind: str | None,
    *,
    issuer: str | None,
    revocations: bool,
    scope: str | None,
    wait: int,
    junit: Path | None,
    as_json: bool,
) -> None:
    """Send good and bad tokens to URL, a protected endpoint; print which it accepts.

    Stop Keyosk for this test, and start the service anew; or start it with http://HOST:PORT in the
    place of Keyosk. One that fetches keys at its start must start after this command.

    The last line says what was found; Keyosk keeps it, if you may change services. Exits 1 if it
    accepted a bad token, refused the good one, or failed.
    """
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("must be an http or https URL", param_hint="URL")
    if jwks_bind is not None:
        _loopback(jwks_bind)  # before anything is asked
    from keyosk.cli import service_check  # noqa: PLC0415 - cryptography costs more than the rest

    with shared.client() as client:
        base = f"http://{jwks_bind}" if jwks_bind else _own_issuer(client)
        host, port = _loopback(base.removeprefix("http://"))
        kit = service_check.make_kit(
            client, service, issuer=issuer or base, jku=base + _JKU, scope=scope
        )
        with service_check.served(kit, host, port, jku=_JKU):
            report = service_check.check(url, kit, revocations=revocations, scope=scope, wait=wait)
        _keep(client, service, url, report)
    rows = [asdict(finding) for finding in report.findings]
    if junit is not None:
        with outputs.written(junit) as write:
            write(service_check.junit(report, url))
    if as_json:
        shared.show_json(
            {"items": rows, "next": None, "passed": report.passed, "verdict": report.summary}
        )
    else:
        shared.show_list(rows, ("token", "answer", "verdict", "flaw"), as_json=False)
        click.echo(f"\n{report.summary}")
    sys.exit(not report.passed)


def _keep(client: "Client", service: str, url: str, report: "Report") -> None:
    """Report the result to Keyosk; if the caller may not, print a warning."""
    body = {
        # SECURITY: a login or token in the URL is only for the service.
        "url": re.sub("//[^/?#]*@", "//", re.split("[?#]", url)[0]),
        "passed": report.passed,
        "verdict": report.summary.replace(url, "the URL")[:2_000],
        "failed": [finding.token for finding in report.findings if finding.is_bad][:100],
    }
    try:
        client.put("services", service, "verification", body=body)
    except Refused as refused:
        click.echo(f"keyosk: Keyosk does not keep the result: {refused}", err=True)


def _own_issuer(client: "Client") -> str:
    """Return Keyosk's issuer, if this machine may listen there while Keyosk is stopped."""
    issuer = client.issuer()
    if re.fullmatch(r"http://(127[.0-9]+|localhost):\d+", issuer, re.ASCII) is None:
        raise click.UsageError(
            f"--jwks-bind is required, as the issuer {issuer} is no address of this machine alone."
        )
    return issuer


def _loopback(bind: str) -> tuple[str, int]:
    host, _, port = bind.replace("localhost:", "127.0.0.1:").rpartition(":")
    try:
        is_loopback = IPv4Address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not (is_loopback and port.isascii() and port.isdecimal() and int(port) < 65_536):
        raise click.BadParameter(
            "must be a loopback address such as 127.0.0.1:9080", param_hint="--jwks-bind"
        )
    return host, int(port)


def _shapes(kit: "Kit") -> list[dict[str, Any]]:
    return [
        {"name": sample.name, "good": sample.good, "flaw": sample.flaw, "token": sample.text}
        for sample in kit.samples
    ]
