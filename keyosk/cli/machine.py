"""What needs the machine with the database: set-up, maintenance, proofs, tokens of anybody."""

import errno
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from keyosk import app
from keyosk.audit import Verdict
from keyosk.bootstrap import FirstAdmin
from keyosk.cli import choice, host, listeners, welcome
from keyosk.config import Config
from keyosk.errors import BadToken, Conflict, NotFound, Unavailable
from keyosk.keys import material
from keyosk.keys.hsm import HsmKey
from keyosk.maintenance import Finding
from keyosk.model import OPERATOR
from keyosk.permissions import entitlements
from keyosk.storage.outage import OutageLog
from keyosk.tokens.issuing import TokenRequest

Greeting = Callable[[FirstAdmin], None]
_DAY: Final = 86_400


def prepare(
    configuration: Config,
    *,
    serving: bool = True,
    greet: Greeting | None = None,
    outage_log: OutageLog | None = None,
) -> FirstAdmin | None:
    """Set up what is missing; returns the first admin if it was made now, whose secret is printed.

    ``greet``: what prints it, if not the lines for a log.
    """
    admin = app.prepare(configuration, outage_log=outage_log)
    if admin is None:
        return None
    try:
        if greet is None:
            print_secret(configuration, admin, serving=serving)
        else:
            greet(admin)
    except OSError as error:
        raise Unavailable(
            f"The password of {admin.username} was made and cannot be printed: {error.strerror}. "
            f"Set another: keyosk account password {shlex.quote(admin.username)}."
        ) from error
    return admin


def print_secret(configuration: Config, admin: FirstAdmin, *, serving: bool) -> None:
    """Print the first admin's secret, the one time that anybody can. Raises ``OSError``.

    SECURITY: a line that sends it only where this process holds the address that it is sent to.
    """
    if admin.password is not None:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        click.echo(f"The first account is {admin.username}, its password (shown only now):")
        click.echo(f"\n    {admin.password}\n")
    if serving:
        click.echo("A token for the admin API is one line away, once Keyosk serves:")
        click.echo(f"\n    {welcome.curl(configuration, admin)}\n")


def checked_settings() -> Config:
    """Return the settings, once it is sure that what they need is installed."""
    configuration = choice.settings()
    app.check(configuration)
    listeners.certificate(configuration)
    return configuration


def upgrade_database(*, create: bool) -> None:
    """Bring the database up to date; make one only where a setting, or somebody, says so."""
    configuration = choice.settings()
    is_new = app.is_empty(configuration)
    if is_new and not create and "database_url" not in configuration.sources:
        place = host.place_of(configuration)
        if not sys.stdin.isatty():
            raise host.no_database(configuration, "--create makes it there.")
        click.confirm(f"There is no database. Make one at {place}?", abort=True, err=True)
    prepare(configuration, serving=False)
    if is_new:
        click.echo(f"keyosk: made the database {host.place_of(configuration)}", err=True)


def rewrap_database() -> tuple[int, int, int]:
    """Encrypt all under the first secret key.

    Returns how many private keys, secrets of second factors and stored responses that is.
    """
    with host.installation() as installation:
        return (
            installation.rotation.rewrap(),
            installation.second_factors.rewrap(),
            installation.idempotency.rewrap(),
        )


def backup_database(file: Path) -> None:
    """Copy a SQLite database to a new file."""
    with host.installation() as installation:
        installation.maintenance.backup(file)


def load_database(file: Path) -> int:
    """Copy a SQLite database into the empty one of the settings; returns how many rows that is."""
    return app.load(checked_settings(), file)


def check_database() -> Sequence[Finding]:
    """Return what is not sound, by part."""
    with host.installation() as installation:
        return installation.maintenance.check()


def verify_audit() -> Verdict:
    """Return whether the audit log is whole."""
    with host.installation() as installation:
        return installation.audit.verify()


def prune_audit(days: int) -> int:
    """Delete old rows; returns how many."""
    with host.installation() as installation:
        return installation.audit.prune(OPERATOR, int(time.time()) - days * _DAY)


def certificate(kid: str | None) -> str:
    """A self-signed certificate of a published key, PEM. Raises ``NotFound``, ``Conflict``."""
    with host.installation() as installation:
        keys = installation.signing_keys.current
        wanted = kid or keys.default.kid
        if wanted not in keys.verifiers:
            raise NotFound("There is no such published key.")
        private = installation.signing_keys.private_key(wanted)
        if isinstance(private, HsmKey):
            raise Conflict("kid", "This key is in an HSM: use --pem or --jwk.")
        return material.certificate(private, installation.issuer)


def issue_token(
    username: str,
    api_key: str | None,
    *,
    scope: str | None,
    audiences: tuple[str, ...],
    lifetime: int | None,
) -> str:
    """A token of an account, made without its secret."""
    scopes = None if scope is None else entitlements.parse_scope(scope)
    request = TokenRequest(scopes, audiences, lifetime)
    with host.installation() as installation:
        account = installation.accounts.get(username)
        login = installation.authentication.preview_login(account.id, api_key, to_issue=True)
        return installation.token_issuer.by_operator(OPERATOR, login, request).token.text


def inspect_token(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any], str | None]:
    """Header and claims of a token, and what is wrong with it if anything is."""
    with host.installation() as installation:
        try:
            header, claims = installation.tokens.unverified(text)
        except BadToken:
            raise click.ClickException("This is not a token.") from None
        return header, claims, installation.inspection.fault(text)
