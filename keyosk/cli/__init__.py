"""Commands for operators: what the API does, on the machine that has the database.

Owns arguments, prompts and what is printed; it has no rule of its own. Each command speaks through
the same code as the API and prints the same shapes with ``--json``. Exit codes: 0 done, 1 refused
(with the reason on standard error), 2 used wrongly, 3 (of ``apply --plan`` only) something to do.

A secret is read from standard input or asked for, never taken as an argument: every user of the
machine sees those.
"""

import sys

import click

from keyosk.cli import failures, shared
from keyosk.cli.accounts import account
from keyosk.cli.api_keys import api_key
from keyosk.cli.apply import apply
from keyosk.cli.audit import audit
from keyosk.cli.grants import grant
from keyosk.cli.operations import config, database, serve
from keyosk.cli.roles import role
from keyosk.cli.services import service
from keyosk.cli.signing_keys import signing_key
from keyosk.cli.tokens import token
from keyosk.cli.verify_service import bad_token_kit, verify_service


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="keyosk")
def keyosk() -> None:
    """Keyosk: one login for a set of microservices."""


for command in (
    serve,
    account,
    api_key,
    service,
    role,
    grant,
    signing_key,
    token,
    verify_service,
    apply,
    audit,
    config,
    database,
):
    keyosk.add_command(command)


token.add_command(bad_token_kit)
shared.take_config_everywhere(keyosk)


def main() -> None:
    """The ``keyosk`` command."""
    if any("\ud800" <= character <= "\udfff" for word in sys.argv for character in word):
        click.echo("keyosk: the arguments must be UTF-8", err=True)
        sys.exit(2)
    failures.run(lambda: keyosk(prog_name="keyosk"))
