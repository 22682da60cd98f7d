"""keyosk issuer and keyosk rule."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyosk import small_files, strict_json
from keyosk.cli import shared
from keyosk.cli.groups import Group
from keyosk.cli.refusals import Refused
from keyosk.model import FOREIGN_ALGORITHMS
from keyosk.workloads import claims as claims_of
from keyosk.workloads.presets import PRESETS

if TYPE_CHECKING:
    from keyosk.cli.client import Client

_ISSUER_COLUMNS = ("name", "issuer", "audience", "enabled", "preset")
_RULE_COLUMNS = ("name", "account", "claims", "enabled", "last_used_at")
_ISSUER_RESETS = ("description", "jwks_uri", "keys", "max_lifetime", "required_claims")
_RULE_RESETS = ("description", "scopes", "expires_at")

#: The fields that a manifest may have.
_ISSUER_FIELDS = (
    *("name", "preset", "description", "issuer", "audience", "jwks_uri", "keys", "algorithms"),
    *("max_lifetime", "required_claims", "prefix_claims", "allow_private", "enabled"),
)
_RULE_FIELDS = (
    *("name", "description", "claims", "account", "scopes", "once", "enabled", "expires_at"),
)

_claims = click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="NAME=TEXT",
    help="What the token must say; repeatable, also for several values of one claim. NAME:=JSON "
    "for true, false and numbers.",
)
_keys = click.option(
    "--keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JWK set, for an issuer that Keyosk cannot reach.",
)


@click.group(cls=Group)
def issuer() -> None:
    """Trust other platforms, whose tokens log workloads in without a secret."""


@issuer.command("list")
@shared.as_json
def list_issuers(*, as_json: bool) -> None:
    """List all issuers, oldest first."""
    with shared.client() as client:
        issuers = list(client.items("issuers"))
    shared.show_list(issuers, _ISSUER_COLUMNS, as_json=as_json)


@issuer.command("show")
@click.argument("name")
@shared.as_json
def show_issuer(name: str, *, as_json: bool) -> None:
    """Show one issuer."""
    with shared.client() as client:
        body = client.get("issuers", name).body
    shared.show_object(body, as_json=as_json)


@issuer.command("create")
@click.argument("name")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Fill in what is known of it.")
@click.option("--issuer", metavar="ISS", help="The iss of its tokens, exactly.")
@click.option("--audience", help="What aud must contain; by default the URL of this Keyosk.")
@click.option("--jwks-uri", metavar="URL", help="Where its keys are, if not in its metadata.")
@_keys
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    type=click.Choice(FOREIGN_ALGORITHMS),
    help="Repeatable.",
)
@click.option("--max-lifetime", type=int, metavar="SECONDS", help="The longest life of a token.")
@click.option(
    "--allow-private", is_flag=True, default=None, help="Its keys may be at a private address."
)
@click.option("--description")
@shared.as_json
def create_issuer(
    name: str,
    *,
    preset: str | None,
    keys: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Trust an issuer. Nobody logs in before there is a rule."""
    body = shared.given(name=name, preset=preset, keys=_read_keys(keys), **options)
    with shared.client() as client:
        created = client.post("issuers", body=body).body
    shared.show_object(created, as_json=as_json)
    if preset is not None and not as_json:
        click.echo(PRESETS[preset].note, err=True)


@issuer.command("set")
@click.argument("name")
@click.option("--issuer", metavar="ISS")
@click.option("--audience", help="What aud must contain.")
@click.option("--jwks-uri", metavar="URL", help="Where its keys are, if not in its metadata.")
@_keys
@click.option("--algorithm", "algorithms", multiple=True, type=click.Choice(FOREIGN_ALGORITHMS))
@click.option("--max-lifetime", type=int, metavar="SECONDS", help="The longest life of a token.")
@click.option(
    "--allow-private/--public-only",
    default=None,
    help="Whether its keys may be at a private address.",
)
@click.option("--enabled/--disabled", default=None)
@click.option("--description")
@click.option("--reset", multiple=True, type=click.Choice(_ISSUER_RESETS), help="Repeatable.")
@shared.as_json
def set_issuer(
    name: str, reset: tuple[str, ...], *, keys: Path | None, as_json: bool, **options: Any
) -> None:
    """Change the given settings of the issuer; the others stay as they are."""
    patch = shared.patched(reset, **options, keys=_read_keys(keys))
    with shared.client() as client:
        changed = client.patch("issuers", name, body=patch).body
    shared.show_object(changed, as_json=as_json)


@issuer.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Delete its rules too.")
def delete_issuer(name: str, *, force: bool) -> None:
    """Trust the issuer no longer; tokens that came by its rules are revoked."""
    with shared.client() as client:
        client.delete("issuers", name, **shared.forced(force))


@issuer.command("export")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def export_issuers(names: tuple[str, ...]) -> None:
    """Print issuers and their rules as a manifest for keyosk apply; all of them without a NAME."""
    with shared.client() as client:
        chosen = [client.get("issuers", name).body for name in names]
        issuers = chosen or list(client.items("issuers"))
        rules = [
            {"issuer": each["name"], **_in_manifest(rule, _RULE_FIELDS)}
            for each in issuers
            for rule in client.items("issuers", str(each["name"]), "rules")
        ]
    # JSON, which YAML 1.2 includes: no text in it can be taken for a number.
    shared.show_json(
        {"issuers": [_in_manifest(each, _ISSUER_FIELDS) for each in issuers], "rules": rules}
    )


def _in_manifest(shape: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    unset = {"preset"} if shape.get("preset") is None else set()
    return {name: shape.get(name) for name in names if name not in unset}


@issuer.command("test")
@click.argument("name", required=False)
@shared.as_json
def test_token(name: str | None, *, as_json: bool) -> None:
    """Read a token from standard input and tell what would happen if a workload showed it.

    Nothing is issued. Exits 1 if the token would not log in. NAME: the issuer, if the iss of the
    token does not say which one is meant.
    """
    token = shared.read_line().strip()
    with shared.client() as client:
        chosen = name or _issuer_of(client, token)
        report = client.post("issuers", chosen, "test", body={"assertion": token}).body
    if as_json:
        shared.show_json(report)
    else:
        _show_report(chosen, report)
    if report.get("error_description"):
        raise click.exceptions.Exit(1)


@click.group(cls=Group)
def rule() -> None:
    """Say which tokens of an issuer log in as which account."""


@rule.command("list")
@click.argument("issuer_name", metavar="ISSUER")
@shared.as_json
def list_rules(issuer_name: str, *, as_json: bool) -> None:
    """List the rules of an issuer, oldest first."""
    with shared.client() as client:
        rules = list(client.items("issuers", issuer_name, "rules"))
    shared.show_list(rules, _RULE_COLUMNS, as_json=as_json)


@rule.command("show")
@click.argument("issuer_name", metavar="ISSUER")
@click.argument("name")
@shared.as_json
def show_rule(issuer_name: str, name: str, *, as_json: bool) -> None:
    """Show one rule."""
    with shared.client() as client:
        body = client.get("issuers", issuer_name, "rules", name).body
    shared.show_object(body, as_json=as_json)


@rule.command("create")
@click.argument("issuer_name", metavar="ISSUER")
@click.argument("name")
@click.option("--account", required=True, metavar="USERNAME", help="A machine account.")
@_claims
@click.option("--scope", "scopes", multiple=True, help="Limit logins to it; repeatable.")
@click.option("--once", is_flag=True, help="Each token logs in once only.")
@shared.time_option("--expires-at", help_="When the rule expires")
@click.option("--description")
@shared.as_json
def create_rule(
    issuer_name: str,
    name: str,
    *,
    claims: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Let tokens with these claims log in as the account."""
    body = shared.given(name=name, **options) | {"claims": _read_claims(claims)}
    with shared.client() as client:
        created = client.post("issuers", issuer_name, "rules", body=body).body
    shared.show_object(created, as_json=as_json)


@rule.command("set")
@click.argument("issuer_name", metavar="ISSUER")
@click.argument("name")
@click.option("--account", metavar="USERNAME", help="A machine account.")
@_claims
@click.option("--without-claim", multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--scope", "scopes", multiple=True, help="Replaces all; repeatable.")
@click.option("--once/--again", default=None, help="Whether each token logs in once only.")
@click.option("--enabled/--disabled", default=None)
@shared.time_option("--expires-at", help_="When the rule expires")
@click.option("--description")
@click.option("--reset", multiple=True, type=click.Choice(_RULE_RESETS), help="Repeatable.")
@shared.as_json
def set_rule(
    issuer_name: str,
    name: str,
    *,
    claims: tuple[str, ...],
    without_claim: tuple[str, ...],
    reset: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Change the given settings of the rule; the others stay as they are."""
    changed_claims = dict.fromkeys(without_claim) | _read_claims(claims)
    patch = shared.patched(reset, **options, claims=changed_claims or None)
    with shared.client() as client:
        changed = client.patch("issuers", issuer_name, "rules", name, body=patch).body
    shared.show_object(changed, as_json=as_json)


@rule.command("delete")
@click.argument("issuer_name", metavar="ISSUER")
@click.argument("name")
def delete_rule(issuer_name: str, name: str) -> None:
    """Delete the rule; tokens that came by it are revoked."""
    with shared.client() as client:
        client.delete("issuers", issuer_name, "rules", name)


def _read_claims(texts: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``--claim`` says: one value, or a list where a claim is given again."""
    try:
        return claims_of.parse(texts)
    except ValueError as error:
        raise click.UsageError(f"--claim {error}") from None


def _read_keys(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return strict_json.parse(small_files.read(path).decode("utf-8-sig"))
    except ValueError:
        raise Refused(f"{path} is not a JWK set (JSON).") from None


def _issuer_of(client: "Client", token: str) -> str:
    """Return the name of the issuer that a token names. Raises ``Refused``."""
    claims = _unverified(token)
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    named = [
        issuer for issuer in client.items("issuers") if issuer.get("issuer") == claims.get("iss")
    ]
    fitting = [issuer for issuer in named if issuer.get("audience") in audiences] or named
    if not fitting:
        raise Refused(f"No issuer here has the iss {claims.get('iss')!r}.")
    return str(fitting[0]["name"])


def _unverified(token: str) -> Mapping[str, Any]:
    """Return what a token says, without a look at its signature."""
    part = token.partition(".")[2].partition(".")[0]
    try:
        claims = strict_json.parse(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode())
    except ValueError:
        claims = None
    if not isinstance(claims, dict):
        raise Refused("This is not a JWT.")
    return claims


def _show_report(name: str, report: Mapping[str, Any]) -> None:
    click.echo(f"issuer {name}: the token is {'' if report.get('verified') else 'not '}verified")
    for match in report.get("rules", ()):
        state = "fits" if match.get("fits") else "does not fit"
        off = "" if match.get("enabled") else " (disabled)"
        line = f"rule {match.get('name')} for {match.get('account')}: {state}{off}"
        click.echo(shared.printable(line))
        for miss in match.get("misses", ()):
            accepted = " or ".join(json.dumps(value) for value in miss.get("wanted", ()))
            line = f"  {miss.get('claim')} is {json.dumps(miss.get('found'))}, not {accepted}"
            click.echo(shared.printable(line))
    if report.get("error_description"):
        click.echo(shared.printable(str(report["error_description"])))
    else:
        line = f"It would log in as {report.get('account')} by the rule {report.get('rule')}."
        click.echo(shared.printable(line))
