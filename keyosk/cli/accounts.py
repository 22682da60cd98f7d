"""keyosk account."""

from typing import Any

import click

from keyosk.cli import names, shared
from keyosk.cli.bulk import export_accounts, import_accounts
from keyosk.cli.groups import Group
from keyosk.errors import counted
from keyosk.model import FactorKind, Kind

_RESETTABLE = ("display_name", "expires_at", "claims", "metadata")
_FACTOR_COLUMNS = ("kind", "name", "remaining", "last_used_at", "created_at", "id")
_RECOVERY_CODES = FactorKind.RECOVERY_CODES.value
_COLUMNS = ("username", "kind", "enabled", "has_password", "last_login_at", "id")


@click.group(cls=Group)
def account() -> None:
    """Create, list, change and delete accounts."""


@account.command("list")
@click.option(
    "--kind", type=click.Choice([kind.value for kind in Kind]), help="Only accounts of this kind."
)
@shared.enabled
@click.option("--role", metavar="ROLE", help="Only accounts that were granted this role.")
@click.option("--scope", metavar="SCOPE", help="Only accounts that were granted this scope.")
@click.option("--query", "q", metavar="TEXT", help="The beginning of the username or display name.")
@click.option("--contains", metavar="TEXT", help="Text inside the username or display name.")
@shared.time_option("--created-after", help_="Only accounts created after this time")
@shared.time_option("--last-login-before", help_="Only accounts without a login since this time")
@shared.sort
@shared.limit
@shared.quiet("usernames")
@shared.as_json
def list_accounts(*, limit: int | None, as_json: bool, **filters: Any) -> None:
    """List accounts, oldest first."""
    with shared.client() as client:
        accounts = list(client.items("accounts", most=limit, **shared.filters(**filters)))
    shared.show_list(accounts, _COLUMNS, as_json=as_json, key="username")


@account.command("show")
@click.argument("username", shell_complete=names.accounts)
@shared.as_json
def show_account(username: str, *, as_json: bool) -> None:
    """Show one account; USERNAME may be its id."""
    with shared.client() as client:
        body = client.get("accounts", username).body
    shared.show_object(body, as_json=as_json)


@account.command("create")
@click.argument("username")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in Kind]),
    default="person",
    show_default=True,
    help="Whether people or programs log in with it.",
)
@click.option("--display-name", default="")
@click.option(
    "--password",
    "with_password",
    is_flag=True,
    help="Set a password, from a prompt or from standard input.",
)
@click.option(
    "--grant", "scopes", multiple=True, metavar="SCOPE", help="Grant this scope; repeatable."
)
@shared.time_option("--expires-at", help_="When the account expires")
@shared.quiet("the id")
@shared.as_json
def create_account(
    username: str,
    kind: str,
    display_name: str,
    scopes: tuple[str, ...],
    expires_at: str | None,
    *,
    with_password: bool,
    as_json: bool,
) -> None:
    """Create an account."""
    fields = {"username": username, "kind": kind, "display_name": display_name}
    if with_password:
        fields["password"] = shared.read_password(username)
    optional = shared.given(expires_at=expires_at)
    if scopes:
        optional["grants"] = {"scopes": list(scopes)}
    with shared.client() as client:
        created = client.post("accounts", body=fields | optional).body
    shared.show_object(created, as_json=as_json, key="id")


@account.command("set")
@click.argument("username", shell_complete=names.accounts)
@click.option("--username", "new_username", metavar="NAME", help="A new username.")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in Kind]),
    help="Whether people or programs log in with it.",
)
@click.option("--display-name")
@click.option("--enabled/--disabled", default=None)
@shared.time_option("--expires-at", help_="When the account expires")
@click.option(
    "--claims",
    callback=shared.parse_object,
    metavar="JSON",
    help="Claims to set, as an object; null removes one.",
)
@click.option(
    "--metadata",
    callback=shared.parse_object,
    metavar="JSON",
    help="Metadata to set, as an object; null removes a member.",
)
@click.option(
    "--reset", multiple=True, type=click.Choice(_RESETTABLE), help="Set to the default; repeatable."
)
@shared.as_json
def set_account(
    username: str,
    new_username: str | None,
    reset: tuple[str, ...],
    *,
    as_json: bool,
    **fields: Any,
) -> None:
    """Change the given fields of the account; the others stay as they are."""
    patch = shared.patched(reset, username=new_username, **fields)
    with shared.client() as client:
        changed = client.patch("accounts", username, body=patch).body
    shared.show_object(changed, as_json=as_json)


@account.command("enable")
@click.argument("username", shell_complete=names.accounts)
def enable_account(username: str) -> None:
    """Enable the account: it can log in again."""
    with shared.client() as client:
        client.patch("accounts", username, body={"enabled": True})


@account.command("disable")
@click.argument("username", shell_complete=names.accounts)
def disable_account(username: str) -> None:
    """Disable the account: every login is refused, and every token is revoked."""
    with shared.client() as client:
        client.patch("accounts", username, body={"enabled": False})


@account.command("password")
@click.argument("username", shell_complete=names.accounts)
def set_password(username: str) -> None:
    """Set a new password, from a prompt or from standard input."""
    with shared.client() as client:
        client.get("accounts", username)
        body = {"password": shared.read_password(username)}
        shared.proven(body, lambda body: client.put("accounts", username, "password", body=body))


@account.command("revoke-tokens")
@click.argument("username", shell_complete=names.accounts)
@shared.yes
def revoke_tokens(username: str, *, yes: bool) -> None:
    """Revoke every token of the account; its password and API keys still work."""
    shared.confirm(f"Revoke every token and session of {username}?", yes=yes)
    with shared.client() as client:
        moment = client.delete("accounts", username, "tokens").effective_at_latest
    at = shared.printable(str(moment))
    click.echo(f"At {at} even services that never check for revocations refuse all of them.")


@account.command("second-factors")
@click.argument("username", shell_complete=names.accounts)
@shared.limit
@shared.quiet("ids")
@shared.as_json
def list_second_factors(username: str, limit: int | None, *, as_json: bool) -> None:
    """List the second factors of the account, which its owner adds in the console."""
    with shared.client() as client:
        factors = list(client.items("accounts", username, "second-factors", most=limit))
    shared.show_list(factors, _FACTOR_COLUMNS, as_json=as_json, key="id")


@account.command("remove-second-factors")
@click.argument("username", shell_complete=names.accounts)
@click.argument("factor_ids", metavar="[FACTOR_ID]...", nargs=-1)
@shared.yes
def remove_second_factors(username: str, factor_ids: tuple[str, ...], *, yes: bool) -> None:
    """Remove second factors, all if none is named: for somebody who lost a phone.

    The account's password alone then logs in to the console, or leads to a new second factor.
    """
    with shared.client() as client:
        chosen = factor_ids or tuple(
            factor["id"]
            for factor in client.items("accounts", username, "second-factors")
            if factor["kind"] != _RECOVERY_CODES  # they go with the last of the others
        )
        shared.confirm(f"Remove {counted(len(chosen), 'second factor')} of {username}?", yes=yes)
        for factor_id in chosen:
            client.delete("accounts", username, "second-factors", factor_id)


@account.command("delete")
@click.argument("username", shell_complete=names.accounts)
@shared.yes
def delete_account(username: str, *, yes: bool) -> None:
    """Delete the account with its password, API keys and grants."""
    shared.confirm(
        f"Delete the account {username} with its password, API keys and grants?", yes=yes
    )
    with shared.client() as client:
        client.delete("accounts", username)


account.add_command(import_accounts)
account.add_command(export_accounts)
