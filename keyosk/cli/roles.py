"""keyosk role."""

import click

from keyosk.cli import shared
from keyosk.model import OPERATOR
from keyosk.web.schemas import RoleSchema

_COLUMNS = ("name", "scopes", "description")


@click.group()
def role() -> None:
    """Make, see, change and delete roles."""


@role.command("list")
@shared.as_json
def list_roles(*, as_json: bool) -> None:
    """List all roles, oldest first."""
    with shared.installation() as installation:
        found = shared.all_pages(installation.roles.page)
    shared.show_list([RoleSchema().dump(item) for item in found], _COLUMNS, as_json=as_json)


@role.command("create")
@click.argument("name")
@click.argument("scopes", nargs=-1)
@click.option("--description", default="")
@shared.as_json
def create_role(name: str, scopes: tuple[str, ...], description: str, *, as_json: bool) -> None:
    """Make a role of SCOPES."""
    with shared.installation() as installation:
        made = installation.roles.create(
            OPERATOR, name=name, description=description, scopes=scopes
        )
    shared.show_object(RoleSchema().dump(made), as_json=as_json)


@role.command("scopes")
@click.argument("name")
@click.argument("scopes", nargs=-1, required=True)
@shared.as_json
def set_scopes(name: str, scopes: tuple[str, ...], *, as_json: bool) -> None:
    """Make SCOPES what the role gives: all its holders have just these at once."""
    with shared.installation() as installation:
        changed = installation.roles.change(OPERATOR, name, {"scopes": scopes})
    shared.show_object(RoleSchema().dump(changed), as_json=as_json)


@role.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when accounts hold it.")
def delete_role(name: str, *, force: bool) -> None:
    """Delete the role; its holders lose what it gave them."""
    with shared.installation() as installation:
        installation.roles.remove(OPERATOR, name, force=force)
