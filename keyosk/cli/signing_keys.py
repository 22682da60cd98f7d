"""keyosk signing-key."""

import json
import sys
from typing import Any, Final

import click

from keyosk.cli import shared
from keyosk.errors import Conflict, NotFound
from keyosk.installation import Installation
from keyosk.keys import imported_keys, material
from keyosk.keys.hsm import HsmKey
from keyosk.keys.rotation import LIMIT
from keyosk.model import OPERATOR, SigningKey
from keyosk.web.key_schemas import SigningKeySchema

_COLUMNS = ("kid", "algorithm", "state", "active_from", "gone_at", "not_seen_by")
#: A ``kid`` may begin with a dash.
_KID: Final = {"ignore_unknown_options": True}
_algorithm = click.option(
    "--algorithm",
    type=click.Choice((*material.ALGORITHMS, *material.OWN_SET_ALGORITHMS)),
    help="The installation's unless given.",
)


@click.group("signing-key")
def signing_key() -> None:
    """See, rotate, retire, import and export the keys that sign tokens."""


@signing_key.command("list")
@shared.as_json
def list_keys(*, as_json: bool) -> None:
    """List the signing keys, oldest first; never their private halves."""
    with shared.installation() as installation:
        shapes = [_shape(installation, key) for key in installation.rotation.all()]
    shared.show_list(shapes, _COLUMNS, as_json=as_json)


@signing_key.command("rotate")
@_algorithm
@click.option(
    "--now", is_flag=True, help="Sign with it at once: hurts verifiers that keep the set."
)
@click.option("--when-seen", is_flag=True, help="Wait until every known service has fetched it.")
@click.option("--limit", type=int, default=LIMIT, metavar="SECONDS", help="But no longer.")
@shared.as_json
def rotate(algorithm: str | None, *, now: bool, when_seen: bool, limit: int, as_json: bool) -> None:
    """Publish the key that is to sign next."""
    with shared.installation() as installation:
        key = installation.rotation.rotate(
            OPERATOR, algorithm, now=now, when_seen=when_seen, limit=limit
        )
        shape = _shape(installation, key)
    unseen = ", ".join(shape["not_seen_by"]) or "none that Keyosk knows"
    if not now:
        click.echo(
            f"It signs from {shape['active_from']} on. Not seen by: {unseen}. With --now it would "
            "sign in 2 seconds: these, and verifiers that do not say who they are, would refuse "
            "new tokens until they fetch the key set again.",
            err=True,
        )
    else:
        click.echo(
            "Verifiers that keep the key set refuse new tokens until they fetch it again, "
            f"within five minutes if they respect its max-age. Not seen by: {unseen}.",
            err=True,
        )
    shared.show_object(shape, as_json=as_json)


@signing_key.command("retire", context_settings=_KID)
@click.argument("kid")
@shared.as_json
def retire(kid: str, *, as_json: bool) -> None:
    """Stop a key from signing."""
    with shared.installation() as installation:
        shape = _shape(installation, installation.rotation.retire(OPERATOR, kid))
    shared.show_object(shape, as_json=as_json)


@signing_key.command("compromise", context_settings=_KID)
@click.argument("kid")
@shared.as_json
def compromise(kid: str, *, as_json: bool) -> None:
    """Take a key out of the set at once and revoke all that it signed."""
    with shared.installation() as installation:
        shape = _shape(installation, installation.rotation.compromise(OPERATOR, kid))
    shared.show_object(shape, as_json=as_json)


@signing_key.command("import")
@_algorithm
@shared.as_json
def import_key(algorithm: str | None, *, as_json: bool) -> None:
    """Read a private key, PEM or JWK, from standard input; it signs next."""
    private, fitting = imported_keys.read(sys.stdin.read(), algorithm)
    with shared.installation() as installation:
        shape = _shape(installation, installation.rotation.import_key(OPERATOR, private, fitting))
    shared.show_object(shape, as_json=as_json)


@signing_key.command("export", context_settings=_KID)
@click.argument("kid", required=False)
@click.option("--pem", "form", flag_value="pem", default="pem", help="The public key (default).")
@click.option("--jwk", "form", flag_value="jwk", help="As a JWK.")
@click.option("--x5c", "form", flag_value="x5c", help="A self-signed certificate, PEM.")
@click.option("--docker", "form", flag_value="docker", help="The kid that a registry knows it by.")
def export(kid: str | None, form: str) -> None:
    """Print the public half of a key, of the one that signs now unless it is said."""
    with shared.installation() as installation:
        keys = installation.signing_keys.current
        wanted = kid or keys.default.kid
        found = next((key for key in keys.keys if key.kid == wanted), None)
        if found is None:
            raise NotFound("There is no such published key.")
        if form == "x5c":
            private = installation.signing_keys.private_key(wanted)
            if isinstance(private, HsmKey):
                raise Conflict("kid", "This key is in an HSM: use --pem or --jwk.")
            click.echo(material.certificate(private, installation.issuer), nl=False)
            return
    if form == "jwk":
        click.echo(json.dumps(dict(found.public)))
    elif form == "docker":
        click.echo(material.libtrust_id(found.public))
    else:
        click.echo(material.public_pem(found.public), nl=False)


def _shape(installation: Installation, key: SigningKey) -> dict[str, Any]:
    shape: dict[str, Any] = SigningKeySchema().dump(key)
    return {**shape, "not_seen_by": installation.rotation.not_seen_by(key)}
