"""keyosk signing-key."""

import json
import re
from typing import IO, Final

import click

from keyosk import small_files
from keyosk.cli import global_options, names, shared
from keyosk.cli.groups import Group
from keyosk.cli.refusals import Refused
from keyosk.model import SIGNING_ALGORITHMS

_COLUMNS = ("kid", "algorithm", "state", "active_from", "gone_at", "not_seen_by")
_KID: Final = re.compile(r"-[\w-]{42}", re.ASCII)
_algorithm = click.option(
    "--algorithm",
    type=click.Choice(SIGNING_ALGORITHMS),
    help="The installation's by default.",
)


class _TakesKid(click.Command):
    """A command whose ``kid``, a thumbprint in base64url (RFC 7638), may begin with a dash.

    SECURITY: click would read ``-h`` in it, print the help and succeed, with the key as it was.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with each that can only be a ``kid`` behind ``--``."""
        if "--" not in args:
            kids = [argument for argument in args if _KID.fullmatch(argument)]
            args = [*(argument for argument in args if argument not in kids), "--", *kids]
        return super().parse_args(ctx, args)


@click.group("signing-key", cls=Group)
def signing_key() -> None:
    """List, rotate, retire, import and export the keys that sign tokens."""


@signing_key.command("list")
@shared.quiet("the kid of each")
@shared.as_json
def list_keys(*, as_json: bool) -> None:
    """List the signing keys, oldest first, without their private keys."""
    with shared.client() as client:
        keys = list(client.items("signing-keys"))
    shared.show_list(keys, _COLUMNS, as_json=as_json, key="kid")


@signing_key.command("rotate")
@_algorithm
@click.option(
    "--now",
    is_flag=True,
    help="Sign with it at once; verifiers with a cached key set refuse its tokens.",
)
@click.option("--when-seen", is_flag=True, help="Wait until every known service has fetched it.")
@click.option(
    "--limit", type=int, metavar="SECONDS", help="Wait at most this long; a week by default."
)
@shared.as_json
def rotate(
    algorithm: str | None, *, now: bool, when_seen: bool, limit: int | None, as_json: bool
) -> None:
    """Publish the next key; it signs once verifiers have had time to fetch it."""
    body = {"now": now, "when_seen": when_seen, **shared.given(algorithm=algorithm)}
    if limit is not None:
        body["limit"] = limit
    with shared.client() as client:
        shape = client.post("signing-keys/rotate", body=body).body
    begins = shared.printable(str(shape.get("active_from")))
    names = [str(name) for name in shape.get("not_seen_by", ())]
    unseen = f" Not fetched yet by: {shared.printable(', '.join(names))}." if names else ""
    if not now:
        click.echo(
            f"It signs from {begins} on.{unseen} With --now it would sign in 2 seconds, and "
            "verifiers would refuse new tokens until they fetch the key set again.",
            err=True,
        )
    else:
        click.echo(
            "Verifiers that keep the key set refuse new tokens until they fetch it again, "
            f"within five minutes if they respect its max-age.{unseen}",
            err=True,
        )
    shared.show_object(shape, as_json=as_json)


@signing_key.command("retire", cls=_TakesKid)
@click.argument("kid", shell_complete=names.signing_keys)
@shared.yes
@shared.as_json
def retire(kid: str, *, yes: bool, as_json: bool) -> None:
    """Stop a key from signing."""
    shared.confirm(f"Stop the key {kid} from signing for good?", yes=yes)
    with shared.client() as client:
        shape = client.delete("signing-keys", kid).body
    shared.show_object(shape, as_json=as_json)


@signing_key.command("compromise", cls=_TakesKid)
@click.argument("kid", shell_complete=names.signing_keys)
@shared.yes
@shared.as_json
def compromise(kid: str, *, yes: bool, as_json: bool) -> None:
    """Remove a key from the key set at once and revoke everything it signed."""
    shared.confirm(f"Remove the key {kid} and revoke every token that it signed?", yes=yes)
    with shared.client() as client:
        shape = client.post("signing-keys", kid, "compromise").body
    shared.show_object(shape, as_json=as_json)


@signing_key.command("import")
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@_algorithm
@shared.as_json
def import_key(file: IO[str], algorithm: str | None, *, as_json: bool) -> None:
    """Import a private key, PEM or JWK, from FILE or standard input; it signs next."""
    body = {"private_key": file.read(small_files.MOST), **shared.given(algorithm=algorithm)}
    with shared.client() as client:
        shape = client.post("signing-keys/import", body=body).body
    shared.show_object(shape, as_json=as_json)


@signing_key.command("export", cls=_TakesKid)
@click.argument("kid", required=False, shell_complete=names.signing_keys)
@click.option("--pem", "form", flag_value="pem", default="pem", help="PEM (the default).")
@click.option("--jwk", "form", flag_value="jwk", help="A JWK.")
@click.option("--x5c", "form", flag_value="x5c", help="A self-signed certificate, PEM.")
@click.option(
    "--docker", "form", flag_value="docker", help="The kid that a container registry uses for it."
)
def export(kid: str | None, form: str) -> None:
    """Print a public key; by default that of the key that signs now."""
    if form == "x5c":
        global_options.require_machine("--x5c")
        from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

        click.echo(machine.certificate(kid), nl=False)
        return
    with shared.client() as client:
        public = client.public_key(kid)
    if form == "jwk":
        click.echo(shared.fitting(json.dumps(public)))
        return
    from keyosk.keys import material  # noqa: PLC0415 - cryptography costs more than the rest

    try:
        docker, pem = material.libtrust_id(public), material.public_pem(public)
    except (KeyError, TypeError, ValueError):
        raise Refused("The server's key is of a kind that is not known here.") from None
    click.echo(docker if form == "docker" else pem, nl=form == "docker")
