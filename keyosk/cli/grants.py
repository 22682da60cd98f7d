"""keyosk grant."""

from collections.abc import Mapping
from typing import Any, Final

import click

from keyosk.cli import names as complete
from keyosk.cli import shared
from keyosk.cli.groups import Group
from keyosk.model import CredentialKind

_USES: Final = ("service", "roles", "held_since", "last_issued_on", "last_named_on")
_role = click.option("--role", "as_role", is_flag=True, help="NAMES are roles, not scopes.")


@click.group(cls=Group)
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


@grant.command("uses")
@click.argument("username", shell_complete=complete.accounts)
@shared.quiet("the names of the scopes")
@shared.as_json
def list_uses(username: str, *, as_json: bool) -> None:
    """List the scopes that the account holds, and when a token last had each of them."""
    with shared.client() as client:
        uses = client.get("accounts", username, "scopes").body
    shared.show_list(uses.get("items", ()), ("name", *_USES), as_json=as_json, key="name")


@grant.command("unused")
@click.option("--days", type=click.IntRange(1, 3_650), help="Without a use; 90 by default.")
@click.option(
    "--use",
    type=click.Choice(("issued", "named")),
    help="What counts as a use: a token had the scope (the default), or a request named it.",
)
@click.option("--service", shell_complete=complete.services, help="Only scopes of this service.")
@click.option("--scope", shell_complete=complete.scopes, help="Only this scope.")
@shared.limit
@shared.quiet("the names of the scopes")
@shared.as_json
def list_unused(*, limit: int | None, as_json: bool, **filters: Any) -> None:
    """List the scopes that accounts hold and did not use lately.

    Keyosk knows which tokens had a scope, and not what a service did with them.
    """
    with shared.client() as client:
        accounts = list(client.items("unused-scopes", most=limit, **shared.filters(**filters)))
    if as_json:
        shared.show_json({"items": accounts, "next": None})
        return
    rows = [
        {"username": account.get("username"), **scope}
        for account in accounts
        for scope in account.get("scopes", ())
    ]
    shared.show_list(rows, ("username", "name", *_USES), as_json=False, key="name")


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
@shared.time_option("--until", help_="When the grant expires")
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
