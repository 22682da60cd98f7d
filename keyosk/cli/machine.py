"""Commands that need the machine with the database: set-up, maintenance, tokens of any account."""

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
from keyosk.audit_verification import Verdict
from keyosk.bootstrap import FirstAdmin
from keyosk.cli import global_options, host, listeners, welcome
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


class SecretNotPrinted(Unavailable):
    """The password of the first admin was made, and could not be printed. The message says why."""


def prepare(
    configuration: Config,
    *,
    serving: bool = True,
    greet: Greeting | None = None,
    outage_log: OutageLog | None = None,
) -> FirstAdmin | None:
    """Set up what is missing; returns the first admin if it was created, with its secret printed.

    ``greet``: prints it, in place of lines for a log. Raises ``SecretNotPrinted``, ``Unavailable``.
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
        if admin.password is not None:  # else a setting has it, and nothing is lost
            raise SecretNotPrinted(
                f"The password of {admin.username} was made and cannot be printed: "
                f"{error.strerror}. Set another: keyosk account password "
                f"{shlex.quote(admin.username)}."
            ) from error
    return admin


def print_secret(configuration: Config, admin: FirstAdmin, *, serving: bool) -> None:
    """Print the first admin's secret, which is possible only once. Raises ``OSError``.

    SECURITY: the command that sends it is printed only if this process holds the address.
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
    """Return the settings, after checking that the libraries for them are installed."""
    configuration = global_options.settings()
    app.check(configuration)
    listeners.certificate(configuration)
    return configuration


def upgrade_database(*, create: bool) -> None:
    """Upgrade the database; create one only if a setting or the user says so."""
    configuration = global_options.settings()
    is_new = app.is_empty(configuration)
    if is_new and not create and "database_url" not in configuration.sources:
        place = host.place_of(configuration)
        if not sys.stdin.isatty():
            raise host.no_database(configuration, "--create makes it there.")
        click.confirm(f"There is no database. Make one at {place}?", abort=True, err=True)
    pending = app.pending_migrations(configuration)
    prepare(configuration, serving=False)
    place = host.place_of(configuration)
    if is_new:
        click.echo(f"keyosk: made the database {place}", err=True)
    elif pending:
        click.echo(f"keyosk: upgraded the database {place} to {pending[-1]}", err=True)


def rewrap_database() -> tuple[int, int, int]:
    """Encrypt everything under the first secret key.

    Returns how many private keys, secrets of second factors and stored responses that is.
    """
    with host.installation() as installation:
        return (
            installation.key_changes.rewrap(),
            installation.second_factors.rewrap(),
            installation.idempotency.rewrap(),
        )


def backup_database(file: Path) -> None:
    """Copy a SQLite database to a new file."""
    with host.installation() as installation:
        installation.maintenance.backup(file)


def load_database(file: Path) -> int:
    """Copy a SQLite database into the empty one of the settings; returns the number of rows."""
    return app.load(checked_settings(), file)


def check_database() -> Sequence[Finding]:
    """Return the faults by part."""
    with host.installation() as installation:
        return installation.maintenance.check()


def verify_audit() -> Verdict:
    """Verify the audit log."""
    with host.installation() as installation:
        return installation.audit_verifier.verify()


def prune_audit(days: int) -> int:
    """Delete old rows; returns their number."""
    with host.installation() as installation:
        return installation.audit.prune(OPERATOR, int(time.time()) - days * _DAY)


def certificate(kid: str | None) -> str:
    """Return a self-signed certificate of a key as PEM. Raises ``NotFound``, ``Conflict``."""
    with host.installation() as installation:
        keys = installation.signing_keys.current
        kid = kid or keys.default.kid
        if kid not in keys.verifiers:
            raise NotFound("There is no such published key.")
        private = installation.signing_keys.private_key(kid)
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
    """Issue a token of an account without its secret."""
    scopes = None if scope is None else entitlements.parse_scope(scope)
    request = TokenRequest(scopes, audiences, lifetime)
    with host.installation() as installation:
        account = installation.accounts.get(username)
        login = installation.authentication.preview_login(account.id, api_key, to_issue=True)
        return installation.token_issuer.by_operator(OPERATOR, login, request).token.text


def inspect_token(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any], str | None]:
    """Return the header and claims of a token, and why it is not valid, if so."""
    with host.installation() as installation:
        try:
            header, claims = installation.tokens.unverified(text)
        except BadToken:
            raise click.ClickException("This is not a token.") from None
        return header, claims, installation.inspection.fault(text)
