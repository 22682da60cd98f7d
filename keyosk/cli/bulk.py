"""keyosk account import and export, as JSON Lines."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import click

from keyosk import strict_json
from keyosk.cli import outputs, shared
from keyosk.cli.refusals import Refused
from keyosk.errors import counted
from keyosk.model import Kind
from keyosk.strict_json import BadJson

#: The values of the API (``bulk.records``): the statuses of a line, and the options for existing
#: accounts.
STATUSES: Final = ("created", "exists", "updated", "unchanged", "invalid", "refused", "conflict")
FAILED: Final = ("invalid", "refused", "conflict")
CONFLICTS: Final = ("skip", "update", "fail")
_PIECE: Final = 64 * 1024
#: The most failures that are shown, because in a wrong file every line fails.
_TOLD: Final = 20


@click.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@click.option(
    "--on-conflict",
    type=click.Choice(CONFLICTS),
    default=CONFLICTS[0],
    show_default=True,
    help="For existing accounts: skip, update all but the password, or fail.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: the result of each line.")
def import_accounts(file: IO[bytes], on_conflict: str, *, dry_run: bool, as_json: bool) -> None:
    """Import accounts from FILE, one JSON object per line; - is standard input.

    Can be repeated: existing accounts stay as they are. Exit code 1 if a line failed.
    """
    report = _Report(as_json=as_json, dry_run=dry_run)
    query = {"on_conflict": on_conflict, "dry_run": "true" if dry_run else "false"}
    try:
        with (
            shared.client() as client,
            _progress(file, report) as on_piece,
            client.lines(
                "POST", "accounts/import", content=_pieces(file, on_piece), **query
            ) as lines,
        ):
            for line in lines:
                report.add(_result(line))
    finally:
        # Also for an import that ends early, whose batches are kept.
        report.show_summary()
    if not report.is_complete:
        raise Refused(str(report.last.get("detail", "The response ended before it was whole.")))
    if report.failed:
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
    help="Write to this file instead of standard output.",
)
def export_accounts(output: Path | None, **filters: str | None) -> None:
    """Print every account with its grants, one JSON object per line, without passwords."""
    with (
        shared.client() as client,
        client.lines("GET", "accounts/export", **shared.given(**filters)) as lines,
        outputs.written(output) as write,
    ):
        for line in lines:
            write(line + "\n")


class _Report:
    """Prints the results of an import's lines, and counts them by status.

    ``last``: the last line of the response, which has the summary; empty before it.
    """

    def __init__(self, *, as_json: bool, dry_run: bool) -> None:
        self._as_json = as_json
        self._dry_run = dry_run
        self._counts: Counter[str] = Counter()
        self._warned = 0
        self.last: Mapping[str, Any] = {}

    @property
    def lines(self) -> int:
        return self._counts.total()

    @property
    def failed(self) -> int:
        return sum(self._counts[status] for status in FAILED)

    @property
    def is_complete(self) -> bool:
        summary = self.last.get("summary")
        return isinstance(summary, dict) and summary.get("complete") is True

    def add(self, result: Mapping[str, Any]) -> None:
        """Print and count a line of the response."""
        if "summary" in result:
            self.last = result
            return
        if self._as_json:
            shared.show_line(result)
        else:
            self._show(result)
        self._counts[str(result.get("status"))] += 1
        self._warned += bool(result.get("warnings"))

    def show_summary(self) -> None:
        """Print the summary of the response, or one of the lines so far."""
        counts = {status: self._counts[status] for status in STATUSES}
        if not self._as_json:
            totals = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
            prefix = "dry run, nothing was done: " if self._dry_run else ""
            suffix = "" if self.is_complete else "; it ended early: repeat it"
            click.echo(
                f"{prefix}{counted(self.lines, 'line')}: {totals or 'nothing to do'}{suffix}"
            )
        elif self.last:
            shared.show_line(self.last)
        else:
            summary = {"lines": self.lines, **counts, "dry_run": self._dry_run, "complete": False}
            shared.show_line({"summary": summary})

    def _show(self, result: Mapping[str, Any]) -> None:
        number = result.get("line")
        if result.get("warnings"):
            if self._warned < _TOLD:
                message = "; ".join(
                    f"{warning.get('field')} {warning.get('message')}"
                    for warning in result["warnings"]
                )
                click.echo(shared.printable(f"line {number}: warning: {message}"), err=True)
            elif self._warned == _TOLD:
                click.echo("There are more warnings; --json shows each of them.", err=True)
        if result.get("status") in FAILED:
            if self.failed < _TOLD:
                reasons = "; ".join(
                    f"{fault.get('field')}: {fault.get('message')}"
                    for fault in result.get("errors", ())
                )
                message = f"line {number}: {result.get('status')}: {reasons}"
                click.echo(shared.printable(message), err=True)
            elif self.failed == _TOLD:
                click.echo("More lines failed; --json shows each of them.", err=True)


def _pieces(file: IO[bytes], on_piece: Callable[[int], Any] | None) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        if on_piece is not None:
            on_piece(len(piece))
        yield piece


def _result(line: str) -> dict[str, Any]:
    try:
        result = strict_json.parse(line)
    except BadJson:
        result = None
    if not isinstance(result, dict):
        raise Refused("The server's response is not that of an import.")
    return result


@contextmanager
def _progress(file: IO[bytes], report: _Report) -> Iterator[Callable[[int], Any] | None]:
    """Show how far a file has been read, or how many lines of a pipe; on a terminal only."""
    if not sys.stderr.isatty():
        yield None
    elif size := _size(file):
        with click.progressbar(length=size, label="Importing", file=sys.stderr) as bar:
            yield bar.update
    else:
        yield lambda _: click.echo(
            f"\rImporting: {counted(report.lines, 'line')}", err=True, nl=False
        )
        click.echo(err=True)


def _size(file: IO[bytes]) -> int:
    """Return the size of a regular file in bytes, else 0."""
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0
