"""keyosk grant."""

from collections.abc import Sequence

import click

from keyosk.cli import shared
from keyosk.model import OPERATOR, CredentialKind, Grant
from keyosk.web.fields import rfc3339
from keyosk.web.schemas import shape_of_grants

_role = click.option("--role", "as_role", is_flag=True, help="The names are roles, not scopes.")


@click.group()
def grant() -> None:
    """See, give and take scopes and roles."""


@grant.command("list")
@click.argument("username")
@shared.as_json
def list_grants(username: str, *, as_json: bool) -> None:
    """List what the account was granted."""
    with shared.installation() as installation:
        _, granted = installation.grants.of(username)
    _show(granted, as_json=as_json)


@grant.command("add")
@click.argument("username")
@click.argument("names", nargs=-1, required=True)
@_role
@click.option(
    "--with",
    "credential",
    type=click.Choice([kind.value for kind in CredentialKind]),
    help="Only for logins of this kind.",
)
@click.option("--until", callback=shared.parse_time, metavar="TIME")
@shared.as_json
def add_grants(
    username: str,
    names: tuple[str, ...],
    credential: str | None,
    until: int | None,
    *,
    as_role: bool,
    as_json: bool,
) -> None:
    """Give the account the scopes (or roles) NAMES."""
    kind = CredentialKind(credential) if credential else None
    with shared.installation() as installation:
        _, granted = installation.grants.change(
            OPERATOR, username, add=_grants(names, kind, until, as_role=as_role)
        )
    _show(granted, as_json=as_json)


@grant.command("remove")
@click.argument("username")
@click.argument("names", nargs=-1, required=True)
@_role
@shared.as_json
def remove_grants(username: str, names: tuple[str, ...], *, as_role: bool, as_json: bool) -> None:
    """Take the scopes (or roles) NAMES away from the account."""
    with shared.installation() as installation:
        _, granted = installation.grants.change(
            OPERATOR, username, remove=_grants(names, None, None, as_role=as_role)
        )
    _show(granted, as_json=as_json)


def _grants(
    names: Sequence[str], kind: CredentialKind | None, until: int | None, *, as_role: bool
) -> list[Grant]:
    return [
        Grant(
            scope=None if as_role else name,
            role=name if as_role else None,
            credential=kind,
            until=until,
        )
        for name in names
    ]


def _show(granted: Sequence[Grant], *, as_json: bool) -> None:
    if as_json:
        shared.show_json(shape_of_grants(granted))
        return
    shapes = [
        {
            "scope": item.scope,
            "role": item.role,
            "with": item.credential,
            "until": None if item.until is None else rfc3339(item.until),
        }
        for item in granted
    ]
    shared.show_list(shapes, ("scope", "role", "with", "until"), as_json=as_json)
