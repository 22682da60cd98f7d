"""keyosk account."""

import click

from keyosk.cli import shared
from keyosk.cli.bulk import export_accounts, import_accounts
from keyosk.model import OPERATOR, Grant, Kind
from keyosk.web.fields import rfc3339
from keyosk.web.schemas import AccountSchema

_COLUMNS = ("username", "kind", "enabled", "has_password", "last_login_at", "id")


@click.group()
def account() -> None:
    """Make, see, change and delete accounts."""


@account.command("list")
@shared.as_json
def list_accounts(*, as_json: bool) -> None:
    """List all accounts, oldest first."""
    with shared.installation() as installation:
        found = shared.all_pages(installation.accounts.page)
    shared.show_list([AccountSchema().dump(item) for item in found], _COLUMNS, as_json=as_json)


@account.command("show")
@click.argument("username")
@shared.as_json
def show_account(username: str, *, as_json: bool) -> None:
    """Show one account; USERNAME may be its id."""
    with shared.installation() as installation:
        found = installation.accounts.get(username)
    shared.show_object(AccountSchema().dump(found), as_json=as_json)


@account.command("create")
@click.argument("username")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), default="person")
@click.option("--display-name", default="")
@click.option(
    "--password", "with_password", is_flag=True, help="Ask for one, or read it from standard input."
)
@click.option("--grant", "scopes", multiple=True, metavar="SCOPE", help="Give a scope; repeatable.")
@click.option("--expires-at", callback=shared.parse_time, metavar="TIME")
@shared.as_json
def create_account(
    username: str,
    kind: str,
    display_name: str,
    scopes: tuple[str, ...],
    expires_at: int | None,
    *,
    with_password: bool,
    as_json: bool,
) -> None:
    """Make an account."""
    password = shared.read_password(username) if with_password else None
    with shared.installation() as installation:
        made = installation.grants.create_account(
            OPERATOR,
            [Grant(scope) for scope in scopes],
            username=username,
            kind=Kind(kind),
            display_name=display_name,
            password=password,
            expires_at=expires_at,
        )
    shared.show_object(AccountSchema().dump(made), as_json=as_json)


@account.command("enable")
@click.argument("username")
def enable_account(username: str) -> None:
    """Let the account log in again."""
    with shared.installation() as installation:
        installation.accounts.change(OPERATOR, username, {"enabled": True})


@account.command("disable")
@click.argument("username")
def disable_account(username: str) -> None:
    """Refuse every login of the account from now on."""
    with shared.installation() as installation:
        installation.accounts.change(OPERATOR, username, {"enabled": False})


@account.command("password")
@click.argument("username")
def set_password(username: str) -> None:
    """Give the account a new password, asked for or read from standard input."""
    with shared.installation() as installation:
        installation.accounts.get(username)
        installation.accounts.set_password(OPERATOR, username, shared.read_password(username))


@account.command("revoke-tokens")
@click.argument("username")
def revoke_tokens(username: str) -> None:
    """End every token of the account; its password and keys go on working."""
    with shared.installation() as installation:
        moment = installation.accounts.revoke_tokens(OPERATOR, username)
    click.echo(
        f"At {rfc3339(moment)} even services that never check for revocations refuse all of them."
    )


@account.command("delete")
@click.argument("username")
def delete_account(username: str) -> None:
    """Delete the account with its password, API keys and grants."""
    with shared.installation() as installation:
        installation.accounts.remove(OPERATOR, username)


account.add_command(import_accounts)
account.add_command(export_accounts)
