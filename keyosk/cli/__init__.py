"""Commands: clients of the REST API.

Owns arguments, prompts and output; it has no business rule. A command sends requests to the API
(``client``): to an application inside its own process, as the operator, if the database is on this
machine (``local``), or to a server. It prints the same objects with ``--json``. The few that need
the machine itself are in ``machine`` and ``serving``. Nothing heavy is imported before it is
needed: completion runs this program at every press of a key. Exit codes: 0 done, 1 refused (with
the reason on standard error), 2 used wrongly, 3 (of ``apply --plan`` only) something to do.

A secret is read from standard input or asked for, never taken as an argument: every user of the
machine sees those.
"""

import os
import signal
import sys
from typing import Final

import click

from keyosk import __version__
from keyosk.cli import failures, global_options
from keyosk.cli.lazy import LazyGroup

_PLACES: Final = {
    "serve": "keyosk.cli.operations:serve",
    "login": "keyosk.cli.login:login",
    "logout": "keyosk.cli.login:logout",
    "account": "keyosk.cli.accounts:account",
    "api-key": "keyosk.cli.api_keys:api_key",
    "service": "keyosk.cli.services:service",
    "role": "keyosk.cli.roles:role",
    "grant": "keyosk.cli.grants:grant",
    "session": "keyosk.cli.sessions:session",
    "issuer": "keyosk.cli.issuers:issuer",
    "rule": "keyosk.cli.issuers:rule",
    "signing-key": "keyosk.cli.signing_keys:signing_key",
    "token": "keyosk.cli.tokens:token",
    "verify-service": "keyosk.cli.verify_service:verify_service",
    "apply": "keyosk.cli.apply:apply",
    "doctor": "keyosk.cli.doctor:doctor",
    "audit": "keyosk.cli.audit:audit",
    "completion": "keyosk.cli.completion:completion",
    "config": "keyosk.cli.operations:config",
    "health": "keyosk.cli.operations:health",
    "database": "keyosk.cli.operations:database",
}


@click.group(
    cls=LazyGroup,
    places=_PLACES,
    equip=global_options.add_options,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
def keyosk() -> None:
    """Keyosk: one login for a set of microservices."""


global_options.add_options(keyosk)


def main() -> None:
    """Run the ``keyosk`` command."""
    if os.getpid() == 1:
        # The first process of a container receives only signals that it handles.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if any("\ud800" <= character <= "\udfff" for word in sys.argv for character in word):
        click.echo("keyosk: the arguments must be UTF-8", err=True)
        sys.exit(2)
    failures.run(_run)


def _run() -> object:
    if "_KEYOSK_COMPLETE" in os.environ:
        from keyosk.cli import completion  # noqa: PLC0415 - only a shell needs it

        completion.register()
    return keyosk(prog_name="keyosk", standalone_mode=False)
