"""What every command shares: the installation it works on, how it reads secrets, how it prints."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import click

from keyosk import app, config
from keyosk.config import Config
from keyosk.errors import ConfigurationError, Fault, Invalid
from keyosk.installation import Installation
from keyosk.model import ListQuery
from keyosk.web.fields import moment_of
from keyosk.whitespace import BYTE_ORDER_MARK

_PAGE: Final = 200
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CHOSEN: Final = "keyosk.config"
#: Where docs/operations.md puts the settings of a Keyosk that runs as a service.
USUAL_FILES: Final = ("/etc/keyosk/keyosk.env", "/etc/keyosk/keyosk.toml")


class _HasId(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def created_at(self) -> int: ...


T = TypeVar("T", bound=_HasId)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API answers.")


def take_config_everywhere(command: click.Command) -> None:
    """Give a command, and all below it, the option ``--config``."""
    command.params.append(
        click.Option(
            ["--config"],
            metavar="FILE",
            expose_value=False,
            callback=_choose_config,
            help="Settings: keyosk.toml, or an environment file (.env). Instead of KEYOSK_CONFIG.",
        )
    )
    if isinstance(command, click.Group):
        for each in command.commands.values():
            take_config_everywhere(each)


def _choose_config(context: click.Context, _: click.Parameter, file: str | None) -> None:
    if file is not None:
        context.meta[_CHOSEN] = file


def settings() -> Config:
    """The settings of this command. Raises ``ConfigurationError``."""
    chosen = click.get_current_context().meta.get(_CHOSEN)
    return config.load({**os.environ, **({} if chosen is None else {"KEYOSK_CONFIG": chosen})})


def place_of(settings: Config) -> str:
    """Where the database is that the settings name, for people."""
    url = {name: value for name, value, _ in settings.describe()}["KEYOSK_DATABASE_URL"]
    relative = url.removeprefix("sqlite:///")
    return url if relative == url else str(Path(relative).absolute())


def no_database(settings: Config, how: str) -> ConfigurationError:
    """What to say where there is no database; ``how``: how to have one there."""
    place = place_of(settings)
    said = f"there is no Keyosk at {place}; it is not set up. {how}"
    if "database_url" not in settings.sources:
        said += (
            " Nothing says where your database is (KEYOSK_DATABASE_URL); if there is one already, "
            "give the settings of the Keyosk that runs with --config FILE"
        )
        there = [path for path in USUAL_FILES if Path(path).exists()]
        said += f". This machine has {' and '.join(there)}" if there else ""
    return ConfigurationError([Fault("database", said)])


@contextmanager
def installation() -> Iterator[Installation]:
    """The installation that the settings name; it must have been set up before."""
    found = settings()
    if app.is_empty(found):
        raise no_database(found, "keyosk serve sets it up.")
    if not app.is_prepared(found):
        raise ConfigurationError(
            [
                Fault(
                    "database",
                    f"{place_of(found)} is of an older Keyosk: run keyosk database upgrade, or "
                    "restart keyosk serve",
                )
            ]
        )
    opened = app.build(found)
    try:
        yield opened
        opened.audit.seal_quietly()
    finally:
        opened.signing_keys.close()
        opened.database.close()


def all_pages(read: Callable[[ListQuery], Sequence[T]]) -> list[T]:
    """Everything that a list has, page by page."""
    found: list[T] = []
    after = None
    newest = read(ListQuery(limit=1, descending=True))
    end = (newest[0].created_at, newest[0].id) if newest else None
    while True:
        page = read(ListQuery(limit=_PAGE, after=after, end=end))
        found.extend(page)
        if len(page) < _PAGE:
            return found
        after = (page[-1].created_at, page[-1].id)


def read_password(username: str) -> str:
    """A new password: asked for twice on a terminal, else the first line of standard input."""
    if sys.stdin.isatty():
        asked: str = click.prompt(
            f"New password of {username}", hide_input=True, confirmation_prompt=True
        )
        return asked
    try:
        # Windows tools write a byte order mark; white space may be a part of a password.
        return sys.stdin.readline().rstrip("\r\n").removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError:
        raise Invalid.field("password", "must be UTF-8") from None


def parse_time(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """An option's RFC 3339 time, or date (its first moment in UTC), as seconds."""
    if text is None:
        return None
    try:
        return moment_of(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
    except Invalid as error:
        raise click.BadParameter(
            f"{error.faults[0].message} A date such as 2030-01-31 is taken, too."
        ) from None


def show_json(value: Any) -> None:
    """Print JSON for programs."""
    click.echo(fitting(json.dumps(value, ensure_ascii=False, indent=2)))


def show_line(value: Any) -> None:
    """Print JSON on one line (JSON Lines)."""
    click.echo(fitting(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))


def fitting(text: str) -> str:
    """JSON as standard output can have it: in ASCII where its encoding is not UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if text.isascii() or encoding.lower().replace("-", "") == "utf8":
        return text
    return "".join(each if each.isascii() else json.dumps(each)[1:-1] for each in text)


def show_object(shape: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one object, a field a line."""
    if as_json:
        show_json(shape)
        return
    width = max(len(name) for name in shape)
    for name, value in shape.items():
        click.echo(f"{name:<{width}}  {_cell(value)}")


def show_list(
    shapes: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool
) -> None:
    """Print objects as a table of the given columns."""
    if as_json:
        show_json({"items": shapes, "next": None})
        return
    rows = [list(columns), *([_cell(shape[name]) for name in columns] for shape in shapes)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        click.echo(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value) or "-"
    return json.dumps(value, ensure_ascii=False)
