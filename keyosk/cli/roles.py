"""keyosk role."""

import click

from keyosk.cli import session
from keyosk.model import OPERATOR
from keyosk.web.schemas import RoleShape

_COLUMNS = ("name", "scopes", "description")


@click.group()
def role() -> None:
    """Make, see, change and delete roles."""


@role.command("list")
@session.as_json
def list_roles(*, as_json: bool) -> None:
    """List all roles, oldest first."""
    with session.installation() as installation:
        found = session.all_pages(installation.roles.page)
    session.show_list([RoleShape().dump(item) for item in found], _COLUMNS, as_json=as_json)


@role.command("create")
@click.argument("name")
@click.argument("scopes", nargs=-1)
@click.option("--description", default="")
@session.as_json
def create_role(name: str, scopes: tuple[str, ...], description: str, *, as_json: bool) -> None:
    """Make a role of SCOPES."""
    with session.installation() as installation:
        made = installation.roles.create(
            OPERATOR, name=name, description=description, scopes=scopes
        )
    session.show_object(RoleShape().dump(made), as_json=as_json)


@role.command("scopes")
@click.argument("name")
@click.argument("scopes", nargs=-1, required=True)
@session.as_json
def set_scopes(name: str, scopes: tuple[str, ...], *, as_json: bool) -> None:
    """Make SCOPES what the role gives: all its holders have just these at once."""
    with session.installation() as installation:
        changed = installation.roles.change(OPERATOR, name, {"scopes": scopes})
    session.show_object(RoleShape().dump(changed), as_json=as_json)


@role.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when accounts hold it.")
def delete_role(name: str, *, force: bool) -> None:
    """Delete the role; its holders lose what it gave them."""
    with session.installation() as installation:
        installation.roles.remove(OPERATOR, name, force=force)
