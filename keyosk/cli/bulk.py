"""keyosk account import and export: accounts by the thousand, as JSON Lines."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import click

from keyosk.bulk.records import FAILED, OnConflict, Result, Tally
from keyosk.cli import outputs, shared
from keyosk.errors import counted
from keyosk.model import OPERATOR, Kind
from keyosk.web import lines

#: Failures that are told one by one; a file of the wrong kind fails in every line.
_TOLD: Final = 20


@click.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option(
    "--on-conflict",
    type=click.Choice([word.value for word in OnConflict]),
    default=OnConflict.SKIP.value,
    show_default=True,
    help="What to do with accounts that are there: leave, change all but the password, or fail.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: how each line ended.")
def import_accounts(file: IO[bytes], on_conflict: str, *, dry_run: bool, as_json: bool) -> None:
    """Import accounts from FILE, one JSON object a line; - is standard input.

    Can be repeated: accounts that are there already are left alone. Exit code 1 if a line failed.
    """
    tally = Tally()
    complete = False
    try:
        with shared.installation() as installation, _progress(file, tally) as on_piece:
            for results in installation.bulk.import_accounts(
                lambda: OPERATOR,
                lines.read(file, on_piece=on_piece),
                on_conflict=OnConflict(on_conflict),
                dry_run=dry_run,
            ):
                if as_json:
                    text = "".join(map(lines.result_line, results))
                    click.echo(shared.fitting(text), nl=False)
                else:
                    _tell(results, tally)
                tally.add(results)
        complete = True
    finally:
        # Also of an import that ends early: what is done stays done.
        if as_json:
            click.echo(lines.summary_line(tally, dry_run=dry_run, complete=complete), nl=False)
        else:
            _sum_up(tally, dry_run=dry_run, complete=complete)
    if tally.failed:
        sys.exit(1)


@click.command("export")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Only this kind.")
@click.option("--role", help="Only holders of this role.")
@click.option("--scope", help="Only holders of this scope.")
@click.option("--query", "q", help="Only names that begin with this.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write there instead of to standard output.",
)
def export_accounts(output: Path | None, **filters: str | None) -> None:
    """Print every account with its grants, one JSON object a line; passwords are not in it."""
    given = {name: value for name, value in filters.items() if value is not None}
    with shared.installation() as installation, outputs.written(output) as write:
        for page in installation.bulk.export_accounts(given):
            write("".join(lines.account_line(*each) for each in page))


def _tell(results: list[Result], before: Tally) -> None:
    told, warned = before.failed, before.warned
    for result in results:
        if result.warnings:
            warned += 1
            if warned <= _TOLD:
                said = "; ".join(f"{each.field} {each.message}" for each in result.warnings)
                click.echo(f"line {result.line}: warning: {said}", err=True)
            elif warned == _TOLD + 1:
                click.echo("There are more warnings; --json shows each of them.", err=True)
        if result.status in FAILED:
            told += 1
            if told <= _TOLD:
                reasons = "; ".join(f"{fault.field}: {fault.message}" for fault in result.faults)
                click.echo(f"line {result.line}: {result.status}: {reasons}", err=True)
            elif told == _TOLD + 1:
                click.echo("More lines failed; --json shows each of them.", err=True)


def _sum_up(tally: Tally, *, dry_run: bool, complete: bool) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in tally.counts.items() if count)
    prefix = "dry run, nothing was done: " if dry_run else ""
    suffix = "" if complete else "; it ended early: repeat it"
    click.echo(f"{prefix}{counted(tally.lines, 'line')}: {counts or 'nothing to do'}{suffix}")


@contextmanager
def _progress(file: IO[bytes], tally: Tally) -> Iterator[Callable[[int], Any] | None]:
    """Show how far a file has been read, or how many lines of a pipe; on a terminal only."""
    if not sys.stderr.isatty():
        yield None
    elif size := _size(file):
        with click.progressbar(length=size, label="Importing", file=sys.stderr) as bar:
            yield bar.update
    else:
        yield lambda _: click.echo(
            f"\rImporting: {counted(tally.lines, 'line')}", err=True, nl=False
        )
        click.echo(err=True)


def _size(file: IO[bytes]) -> int:
    """The size of a regular file in bytes, else 0."""
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0
