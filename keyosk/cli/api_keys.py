"""keyosk api-key."""

import click

from keyosk.cli import shared

_COLUMNS = ("name", "prefix", "enabled", "scopes", "expires_at", "last_used_at", "id")


@click.group("api-key")
def api_key() -> None:
    """Create, list, rotate, disable and delete the API keys of an account."""


@api_key.command("list")
@click.argument("username")
@shared.as_json
def list_keys(username: str, *, as_json: bool) -> None:
    """List the API keys of an account, without their secrets."""
    with shared.client() as client:
        found = list(client.items("accounts", username, "api-keys"))
    shared.show_list(found, _COLUMNS, as_json=as_json)


@api_key.command("create")
@click.argument("username")
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
@click.option("--expires-at", callback=shared.parse_time, metavar="TIME")
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
        made = shared.proven(
            body, lambda body: client.post("accounts", username, "api-keys", body=body)
        )
    shared.show_object(made.body, as_json=as_json)


@api_key.command("rotate")
@click.argument("username")
@click.argument("key_id")
@click.option(
    "--overlap", type=int, metavar="SECONDS", help="How long the old key works; a day by default."
)
@shared.as_json
def rotate_key(username: str, key_id: str, overlap: int | None, *, as_json: bool) -> None:
    """Create a successor and print its secret; the old key works until the overlap ends."""
    path = ("accounts", username, "api-keys", key_id, "rotate")
    body = {} if overlap is None else {"overlap": overlap}
    with shared.client() as client:
        made = shared.proven(body, lambda body: client.post(*path, body=body))
    shared.show_object(made.body, as_json=as_json)


@api_key.command("disable")
@click.argument("username")
@click.argument("key_id")
def disable_key(username: str, key_id: str) -> None:
    """Disable the key without deleting it."""
    path = ("accounts", username, "api-keys", key_id)
    with shared.client() as client:
        shared.proven({"enabled": False}, lambda body: client.patch(*path, body=body))


@api_key.command("delete")
@click.argument("username")
@click.argument("key_id")
def delete_key(username: str, key_id: str) -> None:
    """Delete the key: it stops working at once."""
    with shared.client() as client:
        client.delete("accounts", username, "api-keys", key_id)
