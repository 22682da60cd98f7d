"""What commands share: the client of the API, reading secrets, and printing."""

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from keyosk import small_files, strict_json, times
from keyosk.cli import global_options
from keyosk.cli.refusals import Refused
from keyosk.errors import Invalid
from keyosk.strict_json import BadJson
from keyosk.whitespace import BYTE_ORDER_MARK

if TYPE_CHECKING:
    from keyosk.cli.client import Client

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
#: Characters that control a terminal or the direction of text, by Unicode category and by name.
_CONTROLS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTIONS: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)

#: The key in the context for whether only one value is printed.
_QUIET: Final = "keyosk.quiet"
#: The error code of the API for a missing proof of the password.
_PROOF: Final = "proof_required"

#: The longest list that is drawn as a table, because rich takes a millisecond for each row.
_MOST_DRAWN: Final = 1000

T = TypeVar("T")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API returns it.")
limit = click.option(
    "--limit", type=click.IntRange(min=1), metavar="NUMBER", help="Print at most so many."
)
enabled = click.option(
    "--enabled/--disabled", default=None, help="Only those that are enabled, or disabled."
)
sort = click.option(
    "--sort", metavar="FIELD", help="The field to sort by; - before it reverses the order."
)
yes = click.option("-y", "--yes", is_flag=True, help="Do not ask on a terminal.")


def _keep_quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[_QUIET] = value


def quiet(what: str) -> Callable[[Any], Any]:
    """Return the option that prints only one value; ``what``: which."""
    return click.option(
        *("-q", "--quiet"),
        is_flag=True,
        expose_value=False,
        callback=_keep_quiet,
        help=f"Print only {what}.",
    )


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone, if there is a terminal. Raises ``Refused``.

    A script is not asked.
    """
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not click.confirm(printable(question), err=True):
        raise Refused("Nothing was changed.")


def parse_object(_: click.Context, __: click.Parameter, text: str | None) -> Any:
    """Return an option's JSON object."""
    if text is None:
        return None
    try:
        value = strict_json.parse(text)
    except BadJson as error:
        raise click.BadParameter(f"{error}.") from None
    if not isinstance(value, dict):
        raise click.BadParameter('must be a JSON object such as {"team": "blue"}.')
    return value


@contextmanager
def client() -> Iterator["Client"]:
    """Return a client of the chosen Keyosk's API.

    It runs in this process as the operator, unless a server was chosen.
    """
    server = global_options.server()
    if server is not None:
        from keyosk.cli import remote  # noqa: PLC0415 - it is httpx2

        with remote.client(
            remote.server_of(server, allow_http=global_options.allows_http())
        ) as opened:
            yield opened
        return
    from keyosk.cli import local  # noqa: PLC0415 - it is all of Keyosk

    with local.client() as opened:
        yield opened


def read_password(username: str) -> str:
    """Read a new password: twice from a terminal, or the first line of standard input."""
    return read_secret(f"New password of {username}", confirm=True)


def read_secret(prompt: str, *, confirm: bool = False) -> str:
    """Read a secret from a terminal, or from the next line of standard input."""
    if sys.stdin.isatty():
        secret: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
        return secret
    return read_line()


def read_line() -> str:
    """Read a secret from the next line of standard input. Raises ``Invalid``."""
    try:
        # Windows tools add a byte order mark; white space may be part of a password.
        line = sys.stdin.readline(small_files.MOST)
        return line.rstrip("\r\n").removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError:
        raise Invalid.field("password", "must be UTF-8") from None


def parse_time(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Return an option's RFC 3339 time, or date (its first moment in UTC), as the API takes it."""
    if text is None:
        return None
    moment = f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text
    if not times.PATTERN.fullmatch(moment):
        raise click.BadParameter(
            "must be a time such as 2030-01-31T12:00:00Z (RFC 3339). "
            "A date such as 2030-01-31 is taken, too."
        )
    try:
        seconds = datetime.fromisoformat(moment.upper()).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter("must be a time that exists.") from None
    if seconds < 0:
        raise click.BadParameter("must be a time from 1970 to 9999.")
    return moment


def time_option(name: str, *, help_: str) -> Callable[[Any], Any]:
    """Return an option that takes a time."""
    return click.option(
        name,
        callback=parse_time,
        metavar="TIME",
        help=f"{help_}, such as 2030-01-31 or 2030-01-31T12:00:00Z.",
    )


def filters(**values: Any) -> dict[str, str]:
    """Return the query of a list from the given options."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def given(**values: Any) -> dict[str, Any]:
    """Return the given values, without ``None`` and empty ones."""
    return {name: value for name, value in values.items() if value not in (None, (), "")}


def patched(reset: Iterable[str] = (), **values: Any) -> dict[str, Any]:
    """Return a merge patch of the given values; ``reset``: fields to set to their defaults."""
    changed = {name: value for name, value in values.items() if value not in (None, ())}
    patch = dict.fromkeys(reset) | changed
    if not patch:
        raise click.UsageError("There is nothing to change: give an option.")
    return patch


def forced(force: bool) -> dict[str, str]:
    """Return the query of a forced request."""
    return {"force": "true"} if force else {}


def proven(body: Mapping[str, Any], send: Callable[[Mapping[str, Any]], T]) -> T:
    """Send a change of credentials, with the current password if they are one's own."""
    try:
        return send(body)
    except Refused as refused:
        if refused.code != _PROOF:
            raise
    return send({**body, "current_password": read_secret("Your current password")})


def show_json(value: Any) -> None:
    """Print JSON for programs."""
    click.echo(fitting(json.dumps(value, ensure_ascii=False, indent=2)))


def show_line(value: Any) -> None:
    """Print JSON on one line (JSON Lines)."""
    click.echo(fitting(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))


def fitting(text: str) -> str:
    """Return JSON for standard output: in ASCII if its encoding is not UTF-8.

    SECURITY: JSON may contain C1 controls, which some terminals obey, so they are escaped.
    """
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    is_utf8 = encoding.lower().replace("-", "") == "utf8"
    return "".join(
        character
        if character.isascii() or (is_utf8 and not _steers(character))
        else json.dumps(character)[1:-1]
        for character in text.replace("\x7f", "\\u007f")
    )


def printable(text: str) -> str:
    """Return text for people, with terminal controls escaped.

    SECURITY: names and messages may come from other users or a hostile server.
    """
    return "".join(
        json.dumps(character)[1:-1] if _steers(character) else character for character in text
    )


def show_object(shape: Mapping[str, Any], *, as_json: bool, key: str = "") -> None:
    """Print one object, one field on each line; ``key``: the field that --quiet prints."""
    if _is_quiet(as_json=as_json):
        click.echo(printable(str(shape.get(key))))
        return
    if as_json:
        show_json(shape)
        return
    fields = [(printable(name), _cell(value)) for name, value in shape.items()]
    if _is_terminal():
        from keyosk.cli import tables  # noqa: PLC0415 - it is rich

        tables.show_object(fields)
        return
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        click.echo(f"{name:<{width}}  {value}")


def show_list(
    shapes: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, key: str = ""
) -> None:
    """Print objects as a table of the given columns; ``key``: the field that --quiet prints."""
    if _is_quiet(as_json=as_json):
        for shape in shapes:
            click.echo(printable(str(shape.get(key))))
        return
    if as_json:
        show_json({"items": list(shapes), "next": None})
        return
    cells = [[_cell(shape.get(name)) for name in columns] for shape in shapes]
    if len(cells) <= _MOST_DRAWN and _is_terminal():
        from keyosk.cli import tables  # noqa: PLC0415 - it is rich

        # The id is not needed if an object has another name.
        tables.show_list(columns, cells, spare="" if key in ("", "id") else "id")
        return
    rows = [list(columns), *cells]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        click.echo(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def is_quiet() -> bool:
    """Return whether to print only one value."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def _is_quiet(*, as_json: bool) -> bool:
    if is_quiet() and as_json:
        raise click.UsageError("--quiet and --json print different things: give one.")
    return is_quiet()


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return printable(" ".join(value)) or "-"
    if isinstance(value, list) and all(_is_named(item) for item in value):
        return printable(", ".join(map(_named, value)))
    return printable(json.dumps(value, ensure_ascii=False))


def _is_named(item: Any) -> bool:
    return isinstance(item, dict) and item.keys() == {"name", "description"}


def _named(item: Mapping[str, Any]) -> str:
    """Return a scope of a service on one line."""
    return f"{item['name']} ({item['description']})" if item["description"] else str(item["name"])


def _steers(character: str) -> bool:
    if character.isascii():
        return not " " <= character <= "~"
    return character in _DIRECTIONS or unicodedata.category(character) in _CONTROLS
