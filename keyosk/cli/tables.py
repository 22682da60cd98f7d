"""Tables on a terminal, drawn by rich. Other outputs get the plain lines of ``shared``.

SECURITY: cells are data from others, so rich's markup and emoji codes are disabled. Terminal
controls in cells are escaped before they get here.
"""

import shutil
from collections.abc import Sequence
from typing import Final

import click
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from keyosk.cli import colours

_GAP: Final = 2
#: Wider than any word, so that rich tells how much room a table needs.
_UNLIMITED: Final = 1_000_000
#: In place of a missing value.
_NOTHING: Final = "-"


def show_object(fields: Sequence[tuple[str, str]]) -> None:
    """Print one object, a field a line. Long values are not broken, so that they can be copied."""
    console = _console()
    with console.capture() as capture:
        _print_fields(console, fields)
    click.echo(capture.get(), nl=False, color=True)


def show_list(columns: Sequence[str], rows: Sequence[Sequence[str]], *, spare: str) -> None:
    """Print a table as wide as the terminal; lines break between words only.

    ``spare``: the column that is left out first if there is too little room; "" for none. If there
    still is too little, each object becomes a block of lines.
    """
    console = _console()
    kept = [column for column in columns if column != spare]
    with console.capture() as capture:
        tables = (
            _table(names, [[row[columns.index(name)] for name in names] for row in rows])
            for names in (columns, kept)
        )
        fitting = next((table for table in tables if _fits(console, table)), None)
        if fitting is not None:
            console.print(fitting)
        else:
            _print_blocks(console, columns, rows)
    lines = capture.get().splitlines()
    click.echo("\n".join(line.rstrip() for line in lines), color=True)


def _console() -> Console:
    return Console(
        force_terminal=True,
        color_system="standard" if colours.are_wanted() else None,
        width=shutil.get_terminal_size().columns,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
        _environ={},
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(Text(name))
    for row in rows:
        table.add_row(*(_value(cell) for cell in row))
    return table


def _fits(console: Console, table: Table) -> bool:
    unlimited = console.options.update(max_width=_UNLIMITED)
    return Measurement.get(console, unlimited, table).minimum <= console.width


def _print_blocks(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for number, row in enumerate(rows):
        if number:
            console.line()
        _print_fields(console, list(zip(columns, row, strict=True)))


def _print_fields(console: Console, fields: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        line = Text.assemble((f"{name:<{width}}", "bold"), " " * _GAP, _value(value))
        console.print(line, soft_wrap=True)


def _value(text: str) -> Text:
    return Text(text, style="dim" if text == _NOTHING else "")
