"""keyosk role."""

from typing import Any

import click

from keyosk.cli import names, shared
from keyosk.cli.groups import Group

_COLUMNS = ("name", "scopes", "description")


@click.group(cls=Group)
def role() -> None:
    """Create, list, change and delete roles."""


@role.command("list")
@click.option("--scope", metavar="SCOPE", help="Only roles that have this scope.")
@shared.sort
@shared.limit
@shared.quiet("names")
@shared.as_json
def list_roles(*, limit: int | None, as_json: bool, **filters: Any) -> None:
    """List roles, oldest first."""
    with shared.client() as client:
        roles = list(client.items("roles", most=limit, **shared.filters(**filters)))
    shared.show_list(roles, _COLUMNS, as_json=as_json, key="name")


@role.command("show")
@click.argument("name", shell_complete=names.roles)
@shared.as_json
def show_role(name: str, *, as_json: bool) -> None:
    """Show one role with its scopes."""
    with shared.client() as client:
        body = client.get("roles", name).body
    shared.show_object(body, as_json=as_json)


@role.command("set")
@click.argument("name", shell_complete=names.roles)
@click.option("--name", "new_name", metavar="NAME", help="A new name.")
@click.option("--description")
@shared.as_json
def set_role(name: str, new_name: str | None, description: str | None, *, as_json: bool) -> None:
    """Change the given fields of the role; the others stay as they are."""
    patch = shared.patched(name=new_name, description=description)
    with shared.client() as client:
        changed = client.patch("roles", name, body=patch).body
    shared.show_object(changed, as_json=as_json)


@role.command("create")
@click.argument("name")
@click.argument("scopes", nargs=-1, shell_complete=names.scopes)
@click.option("--description", default="")
@shared.as_json
def create_role(name: str, scopes: tuple[str, ...], description: str, *, as_json: bool) -> None:
    """Create a role with SCOPES."""
    body = {"name": name, "description": description, "scopes": scopes}
    with shared.client() as client:
        created = client.post("roles", body=body).body
    shared.show_object(created, as_json=as_json)


@role.command("scopes")
@click.argument("name", shell_complete=names.roles)
@click.argument("scopes", nargs=-1, required=True, shell_complete=names.scopes)
@shared.as_json
def set_scopes(name: str, scopes: tuple[str, ...], *, as_json: bool) -> None:
    """Replace the scopes of the role with SCOPES; this applies to its holders at once."""
    with shared.client() as client:
        changed = client.patch("roles", name, body={"scopes": scopes}).body
    shared.show_object(changed, as_json=as_json)


@role.command("delete")
@click.argument("name", shell_complete=names.roles)
@click.option("--force", is_flag=True, help="Delete it even if accounts hold it.")
@shared.yes
def delete_role(name: str, *, force: bool, yes: bool) -> None:
    """Delete the role; its holders lose its scopes."""
    shared.confirm(f"Delete the role {name}?", yes=yes)
    with shared.client() as client:
        client.delete("roles", name, **shared.forced(force))
