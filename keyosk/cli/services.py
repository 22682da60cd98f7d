"""keyosk service."""

from typing import Any, cast

import click

from keyosk.cli import shared
from keyosk.keys import material
from keyosk.model import (
    OPERATOR,
    TOKEN_TYPES,
    CredentialKind,
    Exchange,
    Scope,
    Service,
    ServiceChanges,
)
from keyosk.permissions.verifier_presets import PRESETS
from keyosk.web.service_schemas import ServiceSchema

_COLUMNS = ("name", "audience", "enabled", "title", "id")

#: Of what a service accepts: what --accepts may say.
_KINDS = {
    "both": frozenset(CredentialKind),
    **{str(kind): frozenset({kind}) for kind in CredentialKind},
}
_RESETTABLE = (
    *("title", "description", "contact", "token_lifetime", "signing_algorithm", "typ", "claims"),
    *("refresh_lifetime", "account", "audiences", "registry_version"),
)

_for = click.option(
    "--for",
    "verifier",
    type=click.Choice(list(PRESETS)),
    help="Set what this verifier needs, such as typ, and print its own lines.",
)
_preflight = click.option(
    "--cors-preflight/--no-cors-preflight",
    default=None,
    help="Whether CORS preflights pass forward authentication without a login.",
)
_force = click.option("--force", is_flag=True, help="Also when grants or roles use its scopes.")


def _show_lines(made: Service, verifier: str | None, issuer: str) -> None:
    """Print the lines for the verifier's own configuration, apart from the service itself."""
    if verifier is None:
        return
    preset = PRESETS[verifier]
    audience = made.policy.audience
    for line in preset.lines_for(issuer=issuer, service=made.name, audience=audience):
        click.echo(line, err=True)


@click.group()
def service() -> None:
    """Make, see, change and delete services and their scopes."""


@service.command("list")
@shared.as_json
def list_services(*, as_json: bool) -> None:
    """List all services, oldest first."""
    with shared.installation() as installation:
        found = shared.all_pages(installation.services.page)
    shared.show_list([ServiceSchema().dump(item) for item in found], _COLUMNS, as_json=as_json)


@service.command("show")
@click.argument("name")
@shared.as_json
def show_service(name: str, *, as_json: bool) -> None:
    """Show one service with its scopes."""
    with shared.installation() as installation:
        found = installation.services.get(name)
    shared.show_object(ServiceSchema().dump(found), as_json=as_json)


@service.command("create")
@click.argument("name")
@click.option("--audience", help="The aud of its tokens; the name unless given.")
@click.option("--other-audience", "audiences", multiple=True, help="Another spelling; repeatable.")
@click.option("--title", default="")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Repeatable.")
@click.option("--on-request-only/--by-default", default=None)
@_preflight
@_for
@shared.as_json
def create_service(
    name: str,
    audience: str | None,
    audiences: tuple[str, ...],
    title: str,
    scopes: tuple[str, ...],
    *,
    on_request_only: bool | None,
    cors_preflight: bool | None,
    verifier: str | None,
    as_json: bool,
) -> None:
    """Make a service."""
    values: dict[str, Any] = {} if verifier is None else dict(PRESETS[verifier].fields)
    if on_request_only is not None:
        values["on_request_only"] = on_request_only
    if cors_preflight is not None:
        values["cors_preflight"] = cors_preflight
    with shared.installation() as installation:
        made = installation.services.create(
            OPERATOR,
            name=name,
            audience=name if audience is None else audience,
            audiences=audiences,
            title=title,
            scopes=[Scope(scope) for scope in scopes],
            **values,
        )
    shared.show_object(ServiceSchema().dump(made), as_json=as_json)
    _show_lines(made, verifier, installation.issuer)


@service.command("set")
@click.argument("name")
@click.option("--title")
@click.option("--description")
@click.option("--contact")
@click.option("--audience")
@click.option("--other-audience", "audiences", multiple=True, help="All of them; repeatable.")
@click.option("--enabled/--disabled", default=None)
@click.option("--on-request-only/--by-default", default=None)
@_preflight
@click.option("--accepts", type=click.Choice(list(_KINDS)))
@click.option("--token-lifetime", type=int, metavar="SECONDS")
@click.option(
    "--signing-algorithm",
    type=click.Choice((*material.ALGORITHMS, *material.OWN_SET_ALGORITHMS)),
)
@click.option("--typ", type=click.Choice(TOKEN_TYPES))
@click.option("--claim", "claims", multiple=True, metavar="NAME", help="All of them; repeatable.")
@click.option("--refresh-allowed/--refresh-refused", default=None)
@click.option("--refresh-lifetime", type=int, metavar="SECONDS")
@click.option("--account", metavar="USERNAME", help="Who acts for it.")
@_for
@click.option("--reset", multiple=True, type=click.Choice(_RESETTABLE), help="Repeatable.")
@shared.as_json
def set_service(
    name: str, reset: tuple[str, ...], *, verifier: str | None, as_json: bool, **given: Any
) -> None:
    """Change what the service says of itself and its tokens; what is not named stays."""
    patch = {field: value for field, value in given.items() if value not in (None, ())}
    if "accepts" in patch:
        patch["accepts"] = _KINDS[patch["accepts"]]
    with shared.installation() as installation:
        preset = {} if verifier is None else PRESETS[verifier].fields
        wanted = dict.fromkeys(reset) | preset | patch
        changed = installation.services.change(OPERATOR, name, cast(ServiceChanges, wanted))
    shared.show_object(ServiceSchema().dump(changed), as_json=as_json)
    _show_lines(changed, verifier, installation.issuer)


@service.command("scopes")
@click.argument("name")
@click.argument("scopes", nargs=-1, required=True)
@_force
@shared.as_json
def set_scopes(name: str, scopes: tuple[str, ...], *, force: bool, as_json: bool) -> None:
    """Make SCOPES the scopes of the service; those that stay keep description and grants."""
    with shared.installation() as installation:
        known = {scope.name: scope for scope in installation.services.get(name).scopes}
        wanted = [known.get(scope, Scope(scope)) for scope in scopes]
        changed = installation.services.change(OPERATOR, name, {"scopes": wanted}, force=force)
    shared.show_object(ServiceSchema().dump(changed), as_json=as_json)


@service.command("exchange")
@click.argument("name")
@click.argument("target")
@click.option("--scope", "scopes", multiple=True, help="What it may add; repeatable.")
@click.option("--forbid", is_flag=True, help="Take the permission away.")
@shared.as_json
def set_exchange(
    name: str, target: str, scopes: tuple[str, ...], *, forbid: bool, as_json: bool
) -> None:
    """Let tokens for the service be exchanged for tokens for TARGET (RFC 8693)."""
    with shared.installation() as installation:
        kept = [e for e in installation.services.get(name).exchanges if e.service != target]
        wanted = kept if forbid else [*kept, Exchange(target, scopes)]
        changed = installation.services.change(OPERATOR, name, {"exchanges": tuple(wanted)})
    shared.show_object(ServiceSchema().dump(changed), as_json=as_json)


@service.command("delete")
@click.argument("name")
@_force
def delete_service(name: str, *, force: bool) -> None:
    """Delete the service, its scopes and their grants."""
    with shared.installation() as installation:
        installation.services.remove(OPERATOR, name, force=force)
