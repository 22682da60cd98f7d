"""keyosk audit."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from keyosk.cli import global_options, shared
from keyosk.cli.groups import Group
from keyosk.errors import counted


@click.group(cls=Group)
def audit() -> None:
    """List, verify and prune the audit log."""


@audit.command("list")
@click.option("--action", help="Only this action, such as account.create.")
@click.option("--actor", help="Only this account, by username or id.")
@click.option("--credential", metavar="ID", help="Only this: an API key's id, or password.")
@click.option("--target", help="Only what was done to this, such as account/alice.")
@click.option(
    "--outcome", type=click.Choice(("done", "refused")), help="Only what was done, or refused."
)
@shared.time_option("--since", help_="Only rows from this time on")
@shared.time_option("--until", help_="Only rows before this time")
@click.option("--newest", is_flag=True, help="Print the newest rows first.")
@shared.limit
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one row per line.")
def list_rows(*, newest: bool, limit: int | None, as_json: bool, **filters: Any) -> None:
    """Print the log, oldest first."""
    by_time = filters["since"] or filters["until"]
    sort = f"-{'time' if by_time else 'sequence'}" if newest else None
    query = shared.filters(**filters, sort=sort)
    with shared.client() as client:
        for row in client.items("audit", most=limit, **query):
            if as_json:
                shared.show_line(row)
            else:
                click.echo(shared.printable(_line(row)))


def _line(row: Mapping[str, Any]) -> str:
    def text(name: str) -> str:
        return str(row.get(name) or "-")

    return (
        f"{text('sequence'):>8}  {text('time')}  {text('actor_name'):<20}  "
        f"{text('action'):<20}  {text('outcome'):<8}  {text('target')}"
    )


@audit.command("verify")
@shared.as_json
def verify_chain(*, as_json: bool) -> None:
    """Verify that no row was changed, removed or added; exit code 1 if one was."""
    global_options.require_machine()
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    verdict = machine.verify_audit()
    shared.show_object(
        {"rows": verdict.rows, "checkpoints": verdict.checkpoints, "fault": verdict.fault},
        as_json=as_json,
    )
    if verdict.fault is not None:
        sys.exit(1)


@audit.command("prune")
@click.argument("days", type=click.IntRange(min=1))
@shared.yes
def prune(days: int, *, yes: bool) -> None:
    """Delete rows older than DAYS, up to a checkpoint, so that the rest can still be verified."""
    global_options.require_machine()
    shared.confirm(f"Delete the rows of the audit log older than {counted(days, 'day')}?", yes=yes)
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    deleted = machine.prune_audit(days)
    click.echo(f"{counted(deleted, 'row')} deleted")
