"""keyosk grant."""

from collections.abc import Mapping
from typing import Any

import click

from keyosk.cli import names as complete
from keyosk.cli import shared
from keyosk.model import CredentialKind

_role = click.option("--role", "as_role", is_flag=True, help="NAMES are roles, not scopes.")


@click.group()
def grant() -> None:
    """List, add and remove grants of scopes and roles."""


@grant.command("list")
@click.argument("username", shell_complete=complete.accounts)
@shared.quiet("the names of scopes and roles")
@shared.as_json
def list_grants(username: str, *, as_json: bool) -> None:
    """List the scopes and roles that were granted to the account."""
    with shared.client() as client:
        granted = client.get("accounts", username, "grants").body
    _show(granted, as_json=as_json)


@grant.command("add")
@click.argument("username", shell_complete=complete.accounts)
@click.argument("names", nargs=-1, required=True, shell_complete=complete.grants)
@_role
@click.option(
    "--with",
    "credential",
    type=click.Choice([kind.value for kind in CredentialKind]),
    help="Valid only for logins of this kind.",
)
@click.option("--until", callback=shared.parse_time, metavar="TIME")
@shared.as_json
def add_grants(
    username: str,
    names: tuple[str, ...],
    credential: str | None,
    until: str | None,
    *,
    as_role: bool,
    as_json: bool,
) -> None:
    """Grant the scopes (or roles) NAMES to the account."""
    conditions = shared.given(**{"with": credential, "until": until})
    added = [{"name": name, **conditions} for name in names]
    with shared.client() as client:
        granted = client.patch(
            "accounts", username, "grants", body={"add": {_member(as_role): added}}
        ).body
    _show(granted, as_json=as_json)


@grant.command("remove")
@click.argument("username", shell_complete=complete.accounts)
@click.argument("names", nargs=-1, required=True, shell_complete=complete.grants)
@_role
@shared.as_json
def remove_grants(username: str, names: tuple[str, ...], *, as_role: bool, as_json: bool) -> None:
    """Remove the scopes (or roles) NAMES from the account."""
    with shared.client() as client:
        granted = client.patch(
            "accounts", username, "grants", body={"remove": {_member(as_role): names}}
        ).body
    _show(granted, as_json=as_json)


def _member(as_role: bool) -> str:
    return "roles" if as_role else "scopes"


def _show(granted: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        shared.show_json(granted)
        return
    rows = [
        {member.removesuffix("s"): item} if isinstance(item, str) else _row(member, item)
        for member in ("scopes", "roles")
        for item in granted.get(member, ())
    ]
    named = [{**row, "name": row.get("scope", row.get("role"))} for row in rows]
    shared.show_list(named, ("scope", "role", "with", "until"), as_json=as_json, key="name")


def _row(member: str, item: Mapping[str, Any]) -> dict[str, Any]:
    return {**item, member.removesuffix("s"): item.get("name")}
