"""keyosk audit."""

import sys
import time

import click

from keyosk.cli import shared
from keyosk.errors import counted
from keyosk.model import OPERATOR, ListQuery
from keyosk.web.fields import rfc3339
from keyosk.web.schemas import AuditSchema

_PAGE = 200
_DAY = 86_400


@click.group()
def audit() -> None:
    """Read the audit log, prove it, shorten it."""


@audit.command("list")
@click.option("--action", help="Only this action, such as account.create.")
@click.option("--actor", help="Only this account, by username or id.")
@click.option("--since", callback=shared.parse_time, metavar="TIME")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one row a line.")
def list_rows(action: str | None, actor: str | None, since: int | None, *, as_json: bool) -> None:
    """Print the log, oldest first."""
    wanted = {"action": action, "actor": actor, "since": since}
    filters = {name: value for name, value in wanted.items() if value is not None}
    after = None
    with shared.installation() as installation:
        newest = installation.audit.page(ListQuery(limit=1, sort="sequence", descending=True))
        end = (newest[0].sequence, newest[0].sequence) if newest else None
        while rows := installation.audit.page(
            ListQuery(limit=_PAGE, sort="sequence", after=after, end=end, filters=filters)
        ):
            for row in rows:
                if as_json:
                    shared.show_line(AuditSchema().dump(row))
                else:
                    click.echo(
                        f"{row.sequence:>8}  {rfc3339(row.time)}  {row.actor_name or '-':<20}  "
                        f"{row.action:<20}  {row.outcome:<8}  {row.target or '-'}"
                    )
            after = (rows[-1].sequence, rows[-1].sequence)


@audit.command("verify")
@shared.as_json
def verify_chain(*, as_json: bool) -> None:
    """Prove that no row was changed, removed or added; exit code 1 if one was."""
    with shared.installation() as installation:
        verdict = installation.audit.verify()
    shared.show_object(
        {"rows": verdict.rows, "checkpoints": verdict.checkpoints, "fault": verdict.fault},
        as_json=as_json,
    )
    if verdict.fault is not None:
        sys.exit(1)


@audit.command("prune")
@click.argument("days", type=click.IntRange(min=1))
def prune(days: int) -> None:
    """Delete rows that are older than DAYS, up to a checkpoint: the chain stays provable."""
    with shared.installation() as installation:
        deleted = installation.audit.prune(OPERATOR, int(time.time()) - days * _DAY)
    click.echo(f"{counted(deleted, 'row')} deleted")
