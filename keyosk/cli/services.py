"""keyosk service."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from keyosk.cli import names, shared
from keyosk.cli.groups import Group
from keyosk.model import SIGNING_ALGORITHMS, TOKEN_TYPES, CredentialKind
from keyosk.permissions.verifier_presets import PRESETS

if TYPE_CHECKING:
    from keyosk.cli.client import Client

_COLUMNS = ("name", "audience", "enabled", "title", "id")

#: The values of --accepts.
_KINDS = ("both", "any", *(str(kind) for kind in CredentialKind))
_RESETTABLE = (
    *("title", "description", "contact", "token_lifetime", "signing_algorithm", "typ", "claims"),
    *("refresh_lifetime", "account", "audiences", "registry_version"),
)

_for = click.option(
    "--for",
    "verifier",
    type=click.Choice(list(PRESETS)),
    help="Set what this verifier needs, such as typ, and print its configuration.",
)
_preflight = click.option(
    "--cors-preflight/--no-cors-preflight",
    default=None,
    help="Let CORS preflights pass forward authentication without a login.",
)
_on_request_only = click.option(
    "--on-request-only/--by-default",
    default=None,
    help="Whether a token is for this service only if the request names it.",
)
_accepts = click.option(
    "--accepts",
    type=click.Choice(_KINDS),
    help="The logins that get its tokens; both: by password and by API key.",
)
_token_lifetime = click.option(
    "--token-lifetime", type=int, metavar="SECONDS", help="How long its tokens are valid."
)
_signing_algorithm = click.option(
    "--signing-algorithm",
    type=click.Choice(SIGNING_ALGORITHMS),
    help="What its tokens are signed with, if not as all others.",
)
_typ = click.option(
    "--typ", type=click.Choice(TOKEN_TYPES), help="The typ header of its tokens; usually at+jwt."
)
_force = click.option("--force", is_flag=True, help="Do it even if grants or roles use the scopes.")


def _show_lines(client: "Client", service: Mapping[str, Any], verifier: str | None) -> None:
    """Print the lines for the verifier's own configuration, apart from the service itself."""
    if verifier is None:
        return
    issuer = client.issuer()
    name, audience = str(service.get("name")), str(service.get("audience"))
    for line in PRESETS[verifier].lines_for(issuer=issuer, service=name, audience=audience):
        click.echo(shared.printable(line), err=True)


@click.group(cls=Group)
def service() -> None:
    """Create, list, change and delete services and their scopes."""


@service.command("list")
@shared.enabled
@shared.sort
@shared.limit
@shared.quiet("names")
@shared.as_json
def list_services(*, limit: int | None, as_json: bool, **filters: Any) -> None:
    """List services, oldest first."""
    with shared.client() as client:
        services = list(client.items("services", most=limit, **shared.filters(**filters)))
    shared.show_list(services, _COLUMNS, as_json=as_json, key="name")


@service.command("show")
@click.argument("name", shell_complete=names.services)
@shared.as_json
def show_service(name: str, *, as_json: bool) -> None:
    """Show one service with its scopes."""
    with shared.client() as client:
        body = client.get("services", name).body
    shared.show_object(body, as_json=as_json)


@service.command("create")
@click.argument("name")
@click.option("--audience", help="The aud of its tokens; the name by default.")
@click.option("--other-audience", "audiences", multiple=True, help="Another spelling; repeatable.")
@click.option("--title", default="")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Repeatable.")
@_on_request_only
@_preflight
@_accepts
@_token_lifetime
@_signing_algorithm
@_typ
@_for
@shared.as_json
def create_service(name: str, *, verifier: str | None, as_json: bool, **options: Any) -> None:
    """Create a service."""
    preset = {} if verifier is None else PRESETS[verifier].fields
    values = {"name": name, **preset, **shared.given(**options)}
    with shared.client() as client:
        created = client.post("services", body=values).body
        shared.show_object(created, as_json=as_json)
        _show_lines(client, created, verifier)


@service.command("set")
@click.argument("name", shell_complete=names.services)
@click.option("--title")
@click.option("--description")
@click.option("--contact")
@click.option("--audience", help="The aud of its tokens.")
@click.option("--other-audience", "audiences", multiple=True, help="Replaces all; repeatable.")
@click.option("--enabled/--disabled", default=None)
@_on_request_only
@_preflight
@_accepts
@_token_lifetime
@_signing_algorithm
@_typ
@click.option("--claim", "claims", multiple=True, metavar="NAME", help="Replaces all; repeatable.")
@click.option(
    "--refresh-allowed/--refresh-refused",
    default=None,
    help="Whether refresh tokens may be issued for it.",
)
@click.option(
    "--refresh-lifetime",
    type=int,
    metavar="SECONDS",
    help="How long an unused refresh token works.",
)
@click.option("--account", metavar="USERNAME", help="The account that acts for the service.")
@_for
@click.option(
    "--reset", multiple=True, type=click.Choice(_RESETTABLE), help="Set to the default; repeatable."
)
@shared.as_json
def set_service(
    name: str, reset: tuple[str, ...], *, verifier: str | None, as_json: bool, **options: Any
) -> None:
    """Change the given settings of the service; the others stay as they are."""
    given = {field: value for field, value in options.items() if value not in (None, ())}
    preset = {} if verifier is None else PRESETS[verifier].fields
    patch = shared.patched(reset, **preset | given)
    with shared.client() as client:
        changed = client.patch("services", name, body=patch).body
        shared.show_object(changed, as_json=as_json)
        _show_lines(client, changed, verifier)


@service.command("scopes")
@click.argument("name", shell_complete=names.services)
@click.argument("scopes", nargs=-1, required=True, shell_complete=names.scopes)
@_force
@shared.as_json
def set_scopes(name: str, scopes: tuple[str, ...], *, force: bool, as_json: bool) -> None:
    """Replace the scopes of the service with SCOPES; those that stay keep their grants."""
    with shared.client() as client:
        current = client.get("services", name)
        current_scopes = {scope.get("name"): scope for scope in current.body.get("scopes", ())}
        body_scopes = [current_scopes.get(scope, scope) for scope in scopes]
        changed = client.patch(
            "services",
            name,
            body={"scopes": body_scopes},
            etag=current.etag,
            **shared.forced(force),
        ).body
    shared.show_object(changed, as_json=as_json)


@service.command("exchange")
@click.argument("name", shell_complete=names.services)
@click.argument("target", shell_complete=names.services)
@click.option(
    "--scope", "scopes", multiple=True, help="A scope that the exchange may add; repeatable."
)
@click.option("--forbid", is_flag=True, help="Forbid the exchange.")
@shared.as_json
def set_exchange(
    name: str, target: str, scopes: tuple[str, ...], *, forbid: bool, as_json: bool
) -> None:
    """Allow the exchange of tokens for the service for tokens for TARGET (RFC 8693)."""
    with shared.client() as client:
        current = client.get("services", name)
        kept = [
            exchange
            for exchange in current.body.get("exchanges", ())
            if exchange.get("service") != target
        ]
        exchanges = kept if forbid else [*kept, {"service": target, "scopes": scopes}]
        changed = client.patch(
            "services", name, body={"exchanges": exchanges}, etag=current.etag
        ).body
    shared.show_object(changed, as_json=as_json)


@service.command("delete")
@click.argument("name", shell_complete=names.services)
@_force
@shared.yes
def delete_service(name: str, *, force: bool, yes: bool) -> None:
    """Delete the service, its scopes and their grants."""
    shared.confirm(f"Delete the service {name} with its scopes?", yes=yes)
    with shared.client() as client:
        client.delete("services", name, **shared.forced(force))
