"""keyosk session."""

import click

from keyosk.cli import names, shared
from keyosk.cli.groups import Group
from keyosk.errors import counted

_COLUMNS = ("id", "created_at", "last_used_at", "expires_at", "address", "audiences", "scopes")


@click.group(cls=Group)
def session() -> None:
    """List and revoke refresh sessions: logins that go on without their secret."""


@session.command("list")
@click.argument("username", shell_complete=names.accounts)
@shared.limit
@shared.quiet("ids")
@shared.as_json
def list_sessions(username: str, limit: int | None, *, as_json: bool) -> None:
    """List the refresh sessions of an account, oldest first."""
    with shared.client() as client:
        sessions = list(client.items("accounts", username, "tokens", most=limit))
    shared.show_list(sessions, _COLUMNS, as_json=as_json, key="id")


@session.command("revoke")
@click.argument("username", shell_complete=names.accounts)
@click.argument(
    "session_ids",
    metavar="SESSION_ID...",
    nargs=-1,
    required=True,
    shell_complete=names.sessions,
)
@shared.yes
def revoke_sessions(username: str, session_ids: tuple[str, ...], *, yes: bool) -> None:
    """End sessions and revoke their tokens; keyosk account revoke-tokens ends all of them."""
    shared.confirm(f"End {counted(len(session_ids), 'session')} of {username}?", yes=yes)
    with shared.client() as client:
        for session_id in session_ids:
            client.delete("accounts", username, "tokens", session_id)
