"""keyosk api-key."""

import click

from keyosk.accounts.api_keys import OVERLAP, NewApiKey
from keyosk.cli import shared
from keyosk.model import OPERATOR
from keyosk.web.schemas import ApiKeySchema

_COLUMNS = ("name", "prefix", "enabled", "scopes", "expires_at", "last_used_at", "id")


@click.group("api-key")
def api_key() -> None:
    """Make, see, change and delete the API keys of an account."""


@api_key.command("list")
@click.argument("username")
@shared.as_json
def list_keys(username: str, *, as_json: bool) -> None:
    """List the keys of an account; their secrets are nowhere."""
    with shared.installation() as installation:
        found = shared.all_pages(
            lambda list_query: installation.api_keys.page(username, list_query)
        )
    shared.show_list([ApiKeySchema().dump(key) for key in found], _COLUMNS, as_json=as_json)


@api_key.command("create")
@click.argument("username")
@click.argument("name")
@click.option("--description", default="")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Limit it; repeatable.")
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="Only from; repeatable.")
@click.option("--expires-at", callback=shared.parse_time, metavar="TIME")
@shared.as_json
def create_key(
    username: str,
    name: str,
    description: str,
    scopes: tuple[str, ...],
    networks: tuple[str, ...],
    expires_at: int | None,
    *,
    as_json: bool,
) -> None:
    """Make a key called NAME and print its secret, this one time."""
    with shared.installation() as installation:
        made = installation.api_keys.create(
            OPERATOR,
            username,
            name=name,
            description=description,
            scopes=scopes or None,
            networks=networks or None,
            expires_at=expires_at,
        )
    _show_once(made, as_json=as_json)


@api_key.command("rotate")
@click.argument("username")
@click.argument("key_id")
@click.option("--overlap", type=int, default=OVERLAP, metavar="SECONDS", show_default=True)
@shared.as_json
def rotate_key(username: str, key_id: str, overlap: int, *, as_json: bool) -> None:
    """Make a successor and print its secret; the old key works on for the overlap."""
    with shared.installation() as installation:
        made = installation.api_keys.rotate(OPERATOR, username, key_id, overlap=overlap)
    _show_once(made, as_json=as_json)


@api_key.command("disable")
@click.argument("username")
@click.argument("key_id")
def disable_key(username: str, key_id: str) -> None:
    """Refuse the key from now on, without deleting it."""
    with shared.installation() as installation:
        installation.api_keys.change(OPERATOR, username, key_id, {"enabled": False})


@api_key.command("delete")
@click.argument("username")
@click.argument("key_id")
def delete_key(username: str, key_id: str) -> None:
    """Delete the key: it stops working at once."""
    with shared.installation() as installation:
        installation.api_keys.remove(OPERATOR, username, key_id)


def _show_once(made: NewApiKey, *, as_json: bool) -> None:
    shape = {**ApiKeySchema().dump(made.key), "secret": made.secret}
    shared.show_object(shape, as_json=as_json)
