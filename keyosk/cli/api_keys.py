"""keyosk api-key. A KEY is given by its id, its name or its prefix."""

import re
from typing import TYPE_CHECKING, Any, Final

import click

from keyosk.cli import names, shared
from keyosk.cli.groups import Group
from keyosk.cli.refusals import Refused

if TYPE_CHECKING:
    from keyosk.cli.client import Client

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_RESETTABLE = ("description", "scopes", "networks", "expires_at")
_COLUMNS = ("name", "prefix", "enabled", "scopes", "expires_at", "last_used_at", "id")


@click.group("api-key", cls=Group)
def api_key() -> None:
    """Create, find, list, change, rotate and delete API keys."""


@api_key.command("list")
@click.argument("username", required=False, shell_complete=names.accounts)
@shared.enabled
@shared.time_option("--expires-before", help_="Only keys that expire before this time")
@shared.time_option("--unused-since", help_="Only keys without a login since this time")
@click.option(
    "--networks",
    type=click.Choice(("any", "limited")),
    help="Only keys accepted from anywhere, or only those limited to networks.",
)
@shared.sort
@shared.limit
@shared.quiet("ids")
@shared.as_json
def list_keys(username: str | None, *, limit: int | None, as_json: bool, **filters: Any) -> None:
    """List the API keys of an account, or of all accounts, without their secrets."""
    path = ("api-keys",) if username is None else ("accounts", username, "api-keys")
    columns = _COLUMNS if username is not None else ("username", *_COLUMNS)
    with shared.client() as client:
        keys = list(client.items(*path, most=limit, **shared.filters(**filters)))
    shared.show_list(keys, columns, as_json=as_json, key="id")


@api_key.command("show")
@click.argument("username", shell_complete=names.accounts)
@click.argument("key", shell_complete=names.api_keys)
@shared.as_json
def show_key(username: str, key: str, *, as_json: bool) -> None:
    """Show one API key, without its secret."""
    with shared.client() as client:
        body = client.get(*_path(client, username, key)).body
    shared.show_object(body, as_json=as_json)


@api_key.command("find")
@click.argument("prefix", required=False)
@shared.quiet("the username of whose key it is")
@shared.as_json
def find_keys(prefix: str | None, *, as_json: bool) -> None:
    """Say whose API key it is, whether it still works, and how to end it.

    PREFIX is the beginning of its secret, as in lists. Without PREFIX, or for -, the secret itself
    is read from a prompt or from standard input. It is neither shown nor sent: only its digest is.
    """
    from keyosk.cli import api_key_search  # noqa: PLC0415 - --help needs none of it

    api_key_search.find(None if prefix == "-" else prefix, as_json=as_json)


@api_key.command("create")
@click.argument("username", shell_complete=names.accounts)
@click.argument("name")
@click.option("--description", default="")
@click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE", help="Limit the key to it; repeatable."
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="CIDR",
    help="Accept it only from here; repeatable.",
)
@shared.time_option("--expires-at", help_="When the key expires")
@shared.quiet("the secret")
@shared.as_json
def create_key(
    username: str,
    name: str,
    description: str,
    scopes: tuple[str, ...],
    networks: tuple[str, ...],
    expires_at: str | None,
    *,
    as_json: bool,
) -> None:
    """Create an API key called NAME and print its secret, which is shown only once."""
    body = {
        "name": name,
        **shared.given(
            description=description, scopes=scopes, networks=networks, expires_at=expires_at
        ),
    }
    with shared.client() as client:
        key = shared.proven(
            body, lambda body: client.post("accounts", username, "api-keys", body=body)
        )
    shared.show_object(key.body, as_json=as_json, key="secret")


@api_key.command("rotate")
@click.argument("username", shell_complete=names.accounts)
@click.argument("key", shell_complete=names.api_keys)
@click.option(
    "--overlap", type=int, metavar="SECONDS", help="How long the old key works; a day by default."
)
@shared.quiet("the secret")
@shared.as_json
def rotate_key(username: str, key: str, overlap: int | None, *, as_json: bool) -> None:
    """Create a successor and print its secret; the old key works until the overlap ends."""
    body = {} if overlap is None else {"overlap": overlap}
    with shared.client() as client:
        path = (*_path(client, username, key, only_newest=True), "rotate")
        successor = shared.proven(body, lambda body: client.post(*path, body=body))
    shared.show_object(successor.body, as_json=as_json, key="secret")


@api_key.command("set")
@click.argument("username", shell_complete=names.accounts)
@click.argument("key", shell_complete=names.api_keys)
@click.option("--name")
@click.option("--description")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Replaces all; repeatable.")
@click.option(
    "--network", "networks", multiple=True, metavar="CIDR", help="Replaces all; repeatable."
)
@shared.time_option("--expires-at", help_="When the key expires")
@click.option("--enabled/--disabled", default=None)
@click.option(
    "--reset", multiple=True, type=click.Choice(_RESETTABLE), help="Set to the default; repeatable."
)
@shared.as_json
def set_key(
    username: str, key: str, reset: tuple[str, ...], *, as_json: bool, **fields: Any
) -> None:
    """Change the given fields of the key; the others stay as they are."""
    with shared.client() as client:
        path = _path(client, username, key)
        changed = shared.proven(
            shared.patched(reset, **fields), lambda body: client.patch(*path, body=body)
        )
    shared.show_object(changed.body, as_json=as_json)


@api_key.command("enable")
@click.argument("username", shell_complete=names.accounts)
@click.argument("key", shell_complete=names.api_keys)
def enable_key(username: str, key: str) -> None:
    """Enable the key: it can log in again."""
    with shared.client() as client:
        path = _path(client, username, key)
        shared.proven({"enabled": True}, lambda body: client.patch(*path, body=body))


@api_key.command("disable")
@click.argument("username", shell_complete=names.accounts)
@click.argument("key", shell_complete=names.api_keys)
def disable_key(username: str, key: str) -> None:
    """Disable the key without deleting it."""
    with shared.client() as client:
        path = _path(client, username, key)
        shared.proven({"enabled": False}, lambda body: client.patch(*path, body=body))


@api_key.command("delete")
@click.argument("username", shell_complete=names.accounts)
@click.argument("key", shell_complete=names.api_keys)
@shared.yes
def delete_key(username: str, key: str, *, yes: bool) -> None:
    """Delete the key: it stops working at once."""
    shared.confirm(f"Delete the API key {key} of {username}?", yes=yes)
    with shared.client() as client:
        client.delete(*_path(client, username, key))


def _path(
    client: "Client", username: str, key: str, *, only_newest: bool = False
) -> tuple[str, ...]:
    """Return the path of a key, given by its id, name or prefix. Raises ``Refused``.

    Names need not be unique: if several keys have this one, nothing is done to any. A successor
    has the name of the key that it follows; ``only_newest`` leaves out those that have one.
    """
    path = ("accounts", username, "api-keys")
    if _ID.fullmatch(key):
        return (*path, key)
    matching = [
        each for each in client.items(*path) if key in (each.get("name"), each.get("prefix"))
    ]
    if only_newest:
        matching = [each for each in matching if not each.get("successor")] or matching
    if len(matching) > 1:
        ids = " or ".join(str(each.get("id")) for each in matching)
        raise Refused(f"{key}: {username} has {len(matching)} such API keys; give the id, {ids}")
    return (*path, str(matching[0].get("id")) if matching else key)
