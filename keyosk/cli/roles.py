"""keyosk role."""

import click

from keyosk.cli import shared

_COLUMNS = ("name", "scopes", "description")


@click.group()
def role() -> None:
    """Create, list, change and delete roles."""


@role.command("list")
@shared.as_json
def list_roles(*, as_json: bool) -> None:
    """List all roles, oldest first."""
    with shared.client() as client:
        found = list(client.items("roles"))
    shared.show_list(found, _COLUMNS, as_json=as_json)


@role.command("create")
@click.argument("name")
@click.argument("scopes", nargs=-1)
@click.option("--description", default="")
@shared.as_json
def create_role(name: str, scopes: tuple[str, ...], description: str, *, as_json: bool) -> None:
    """Create a role with SCOPES."""
    body = {"name": name, "description": description, "scopes": scopes}
    with shared.client() as client:
        made = client.post("roles", body=body).body
    shared.show_object(made, as_json=as_json)


@role.command("scopes")
@click.argument("name")
@click.argument("scopes", nargs=-1, required=True)
@shared.as_json
def set_scopes(name: str, scopes: tuple[str, ...], *, as_json: bool) -> None:
    """Replace the scopes of the role with SCOPES; this applies to its holders at once."""
    with shared.client() as client:
        changed = client.patch("roles", name, body={"scopes": scopes}).body
    shared.show_object(changed, as_json=as_json)


@role.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Delete it even if accounts hold it.")
def delete_role(name: str, *, force: bool) -> None:
    """Delete the role; its holders lose its scopes."""
    with shared.client() as client:
        client.delete("roles", name, **shared.forced(force))
