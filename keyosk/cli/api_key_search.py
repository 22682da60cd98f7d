"""keyosk api-key find: the owner of a leaked API key, whether it works, and how to delete it.

SECURITY: the secret stays here and is never printed. The search sends its digest, which is useless
for a login.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from keyosk import whitespace
from keyosk.cli import shared
from keyosk.cli.refusals import Refused
from keyosk.credentials import api_key_format

if TYPE_CHECKING:
    from keyosk.cli.client import Client

_SHOWN: Final = (
    *("username", "name", "description", "prefix", "scopes", "networks"),
    *("created_at", "last_used_at", "expires_at", "id"),
)


def find(prefix: str | None, *, as_json: bool) -> None:
    """Print every key that the prefix or the secret names. Raises ``Refused`` if there is none."""
    if prefix is not None and len(prefix) > api_key_format.SHOWN_LENGTH:
        raise Refused(
            f"PREFIX is the first {api_key_format.SHOWN_LENGTH} characters at most. A whole secret "
            "must not be an argument, which every user of this machine can see: delete that key, "
            "and give a secret on standard input."
        )
    secret = "" if prefix is not None else whitespace.trim(shared.read_secret("API key"))
    if prefix is None and not api_key_format.looks_like(secret):
        raise Refused(f"This is not an API key: one begins with {api_key_format.PREFIX}.")
    with shared.client() as client:
        keys, has_more = _search(client, prefix, secret)
    if as_json:
        shared.show_json({"items": keys, "next": None})
    elif shared.is_quiet():
        shared.show_list(keys, (), as_json=False, key="username")
    else:
        _show(keys)
    if has_more:
        click.echo("keyosk: More keys begin so: give more of the secret.", err=True)


def _show(keys: list[dict[str, Any]]) -> None:
    for number, key in enumerate(keys):
        if number:
            click.echo()
        shared.show_object({name: key.get(name) for name in _SHOWN}, as_json=False)
        click.echo(shared.printable(_advice(key)))


def _search(client: "Client", prefix: str | None, secret: str) -> tuple[list[dict[str, Any]], bool]:
    """Return the keys, and whether there are more."""
    beginning = api_key_format.prefix(secret) if prefix is None else prefix
    body = {"prefix": beginning}
    if prefix is None:
        body["digest"] = api_key_format.digest(secret).hex()
    response = client.post("api-keys", "find", body=body).body
    items = [_with_reasons(key) for key in response.get("items", ())]
    if items and (prefix is not None or response.get("matches") == "secret"):
        return items, bool(response.get("more"))
    if prefix is not None:
        raise Refused(f"No API key begins with {prefix}: it was deleted, or is not of here.")
    if not items:
        raise Refused("No API key has this secret: it was deleted, or is not of here.")
    owner = f"{items[0].get('username')} has a key that begins with {beginning}"
    if api_key_format.is_well_formed(secret):
        raise Refused(f"No API key has this secret. {owner}, which is another one.")
    raise Refused(
        f"This is not a whole API key: its checksum is wrong. {owner}: to see it, run "
        f"keyosk api-key find {beginning}"
    )


def _with_reasons(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key, with the reasons why it does not work as text."""
    words = {
        "key_disabled": "the key is disabled",
        "key_expired": f"the key expired at {key.get('expires_at')}",
        "account_disabled": "the account is disabled",
        "account_expired": "the account has expired",
    }
    faults = key.get("faults") or ()
    return {**key, "faults": [message for reason, message in words.items() if reason in faults]}


def _advice(key: Mapping[str, Any]) -> str:
    command = f"keyosk api-key delete {key.get('username')} {key.get('id')}"
    if key["faults"]:
        return f"It does not work: {', '.join(key['faults'])}. To delete it for good: {command}"
    where = " from its networks" if key.get("networks") else ""
    return f"It works{where}. To end it and its tokens now: {command}"
