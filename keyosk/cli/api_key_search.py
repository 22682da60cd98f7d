"""keyosk api-key find: whose a leaked API key is, whether it still works, and how to end it.

SECURITY: the secret stays here. It is looked for by its digest, which nobody can log in with, and
never printed.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
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
        found = [_judged(client, key) for key in _matching(client, prefix, secret)]
    if as_json:
        shared.show_json({"items": found, "next": None})
        return
    if shared.is_quiet():
        shared.show_list(found, (), as_json=False, key="username")
        return
    for number, key in enumerate(found):
        if number:
            click.echo()
        shared.show_object({name: key.get(name) for name in _SHOWN}, as_json=False)
        click.echo(shared.printable(_advice(key)))


def _matching(client: "Client", prefix: str | None, secret: str) -> list[dict[str, Any]]:
    if prefix is not None:
        found = list(client.items("api-keys", prefix=prefix))
        if not found:
            raise Refused(f"No API key begins with {prefix}: it was deleted, or is not of here.")
        return found
    beginning = api_key_format.prefix(secret)
    if len(secret) > api_key_format.SHOWN_LENGTH:
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        found = list(client.items("api-keys", digest=digest))
        if found:
            return found
    similar = list(client.items("api-keys", prefix=beginning))
    if not similar:
        raise Refused("No API key has this secret: it was deleted, or is not of here.")
    owner = f"{similar[0].get('username')} has a key that begins with {beginning}"
    if api_key_format.is_well_formed(secret):
        raise Refused(f"No API key has this secret. {owner}, which is another one.")
    raise Refused(
        f"This is not a whole API key: its checksum is wrong. {owner}: to see it, run "
        f"keyosk api-key find {beginning}"
    )


def _judged(client: "Client", key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key with why it does not work, if it does not."""
    account = client.get("accounts", str(key.get("account_id"))).body
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    faults = [
        said
        for said, is_so in (
            ("the key is disabled", not key.get("enabled")),
            (f"the key expired at {key.get('expires_at')}", _is_over(key, now)),
            ("the account is disabled", not account.get("enabled")),
            (f"the account expired at {account.get('expires_at')}", _is_over(account, now)),
        )
        if is_so
    ]
    return {**key, "works": not faults, "faults": faults}


def _is_over(shape: Mapping[str, Any], now: str) -> bool:
    end = shape.get("expires_at")
    return isinstance(end, str) and end <= now


def _advice(key: Mapping[str, Any]) -> str:
    command = f"keyosk api-key delete {key.get('username')} {key.get('id')}"
    if key["faults"]:
        return f"It does not work: {', '.join(key['faults'])}. To delete it for good: {command}"
    where = " from its networks" if key.get("networks") else ""
    return f"It works{where}. To end it and its tokens now: {command}"
