"""The options of every command, which choose the Keyosk that it uses."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from keyosk.cli.refusals import Refused

if TYPE_CHECKING:
    from keyosk.config import Config

_VARIABLE: Final = "KEYOSK_URL"
#: The options, by their names in the context.
_CONFIG: Final = "keyosk.config"
_SERVER: Final = "keyosk.server"
_HTTP: Final = "keyosk.allow_http"


def add_options(command: click.Command) -> None:
    """Add the options to a command and its subcommands."""
    command.params += [
        click.Option(
            ["--config"],
            metavar="FILE",
            expose_value=False,
            callback=_store(_CONFIG),
            help="Settings: keyosk.toml or an environment file (.env). Overrides KEYOSK_CONFIG.",
        ),
        click.Option(
            ["--server"],
            metavar="URL",
            expose_value=False,
            callback=_store(_SERVER),
            help="Keyosk server to use: an https URL or unix:/path. Overrides KEYOSK_URL.",
        ),
        click.Option(
            ["--allow-http"],
            is_flag=True,
            default=None,
            expose_value=False,
            callback=_store(_HTTP),
            help="Allow a server without TLS, for networks that are encrypted themselves.",
        ),
    ]
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            add_options(subcommand)


def config() -> str | None:
    """Return the file of settings from the options."""
    path: str | None = _meta().get(_CONFIG)
    return path


def settings() -> "Config":
    """Return the settings of this command. Raises ``ConfigurationError``."""
    from keyosk import config as package  # noqa: PLC0415 - --help needs none

    chosen = config()
    return package.load({**os.environ, **({} if chosen is None else {"KEYOSK_CONFIG": chosen})})


def server() -> str | None:
    """Return the URL of the chosen server; ``None`` for the database on this machine.

    ``--config`` on the command line wins over ``KEYOSK_URL``.
    """
    url: str | None = _meta().get(_SERVER)
    if url is not None and config() is not None:
        raise click.UsageError("--server is another Keyosk than the one of --config: give one.")
    if url is None and config() is None:
        url = os.environ.get(_VARIABLE, "").strip()
    return url or None


def allows_http() -> bool:
    """Return whether a server without TLS is allowed."""
    return bool(_meta().get(_HTTP))


def require_machine(what: str = "", *, or_variable: bool = True) -> None:
    """Refuse a command that needs the database itself if a server was chosen.

    ``or_variable``: also if only the environment names one.
    """
    chosen = server() if or_variable else _meta().get(_SERVER)
    if chosen:
        command = click.get_current_context().command_path
        raise Refused(
            f"{command}{what and ' '}{what} needs the machine that has the database. Run it there, "
            "without --server and KEYOSK_URL."
        )


def _meta() -> dict[str, Any]:
    return click.get_current_context().meta


def _store(key: str) -> Callable[[click.Context, click.Parameter, object], None]:
    def store(context: click.Context, _: click.Parameter, value: object) -> None:
        if value is not None:
            context.meta[key] = value

    return store
