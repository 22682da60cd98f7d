"""keyosk serve, config, database and health."""

import gc
import sys
from pathlib import Path

import click

from keyosk.cli import global_options, shared
from keyosk.cli.groups import Group
from keyosk.errors import counted


@click.command()
def serve() -> None:
    """Set up what is missing, then serve requests until a signal stops it."""
    global_options.require_machine(or_variable=False)
    # Nearly all objects of the start stay, and garbage collection takes an eighth of it. The server
    # enables it afterwards.
    gc.disable()
    from keyosk.cli import serving  # noqa: PLC0415 - it is all of Keyosk and its server

    serving.serve()


@click.group(cls=Group)
def config() -> None:
    """Check the settings."""


@config.command("check")
@shared.as_json
def check_config(*, as_json: bool) -> None:
    """Check all settings and print each with its source; secrets are masked."""
    global_options.require_machine(or_variable=False)
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    configuration = machine.checked_settings()
    shapes = [
        {"setting": name, "value": value, "source": source}
        for name, value, source in configuration.describe()
    ]
    shared.show_list(shapes, ("setting", "value", "source"), as_json=as_json)
    for warning in configuration.warnings:
        click.echo(f"keyosk: {warning}", err=True)


@click.group(cls=Group)
def database() -> None:
    """Upgrade, check, back up and move the database."""


@database.command("upgrade")
@click.option("--create", is_flag=True, help="Create the database even if no setting names it.")
def upgrade_database(*, create: bool) -> None:
    """Upgrade the database and set up what is missing, as serve does when it starts."""
    global_options.require_machine(or_variable=False)
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    machine.upgrade_database(create=create)


@database.command("rewrap")
def rewrap_database() -> None:
    """Encrypt everything under the first secret key, so that the others can be removed."""
    global_options.require_machine(or_variable=False)
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    count, factors, responses = machine.rewrap_database()
    keys, kept = counted(count, "private key"), counted(responses, "stored response")
    secrets = counted(factors, "second factor")
    click.echo(f"{keys}, {secrets} and {kept} are now encrypted under the first secret key.")


@database.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup_database(file: Path) -> None:
    """Copy a SQLite database to a new FILE, consistently, even while Keyosk runs."""
    global_options.require_machine(or_variable=False)
    if str(file) == "-":  # it would be the name of a file, and a pipe would get a sentence
        raise click.BadParameter("name a file: a backup cannot be printed", param_hint="FILE")
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    machine.backup_database(file)
    click.echo(f"{file} is the whole database. Keep the secret key with it, in another place.")


@database.command("load")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def load_database(file: Path) -> None:
    """Copy everything in a SQLite FILE into the empty PostgreSQL database of the settings."""
    global_options.require_machine(or_variable=False)
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    click.echo(f"{counted(machine.load_database(file), 'row')} copied. Now: keyosk database check")


@database.command("check")
@shared.as_json
def check_database(*, as_json: bool) -> None:
    """Check the database, the signing keys and the audit log; exit code 1 if anything is wrong."""
    global_options.require_machine(or_variable=False)
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    findings = machine.check_database()
    shapes = [{"part": finding.name, "faults": list(finding.faults)} for finding in findings]
    shared.show_list(shapes, ("part", "faults"), as_json=as_json)
    if any(finding.faults for finding in findings):
        sys.exit(1)


@click.command()
@click.option("--ready", is_flag=True, help="Also whether its database responds.")
def health(*, ready: bool) -> None:
    """Ask the Keyosk on this machine whether it responds; for health checks."""
    global_options.require_machine(or_variable=False)
    from keyosk.cli import health as at_work  # noqa: PLC0415

    at_work.check(ready=ready)
    click.echo("ok")
