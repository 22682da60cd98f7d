"""keyosk signing-key."""

import click

from keyosk.cli import session
from keyosk.web.fields import rfc3339

_COLUMNS = ("kid", "algorithm", "state", "published_at", "active_from")


@click.group("signing-key")
def signing_key() -> None:
    """See the keys that sign tokens."""


@signing_key.command("list")
@session.as_json
def list_keys(*, as_json: bool) -> None:
    """List the signing keys, oldest first; never their private halves."""
    with session.installation() as installation:
        found = installation.signing_keys.all()
    shapes = [
        {
            "kid": key.kid,
            "algorithm": key.algorithm,
            "state": key.state,
            "published_at": rfc3339(key.published_at),
            "active_from": None if key.active_from is None else rfc3339(key.active_from),
        }
        for key in found
    ]
    session.show_list(shapes, _COLUMNS, as_json=as_json)
