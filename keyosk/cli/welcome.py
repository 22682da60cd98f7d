"""The welcome of ``keyosk serve`` at a terminal."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

import click

from keyosk.bootstrap import FirstAdmin
from keyosk.cli import colours
from keyosk.config import Config
from keyosk.config.addresses import UnixAddress

_NEXT: Final = (
    ("a service with its scopes", "service create todo --scope todo:read"),
    ("an account, whose password is asked for", "account create alice --password"),
    ("what the account may do", "grant add alice todo:read"),
)


def is_wanted() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def show(configuration: Config, address: str, admin: FirstAdmin | None) -> None:
    """Print the address of Keyosk and the next steps. Raises ``OSError``.

    ``admin``: the first one, if it was just created; its password is shown only now. SECURITY: call
    it only while this process holds the address to which the password is sent.
    """
    lines = [_styled(f"Keyosk is at {configuration.issuer}", fg="green", bold=True)]
    if address != configuration.issuer:
        lines.append(f"It listens at {address}.")
    if configuration.console == "on":
        lines.append(f"The console, for people: {_link(f'{configuration.issuer}/console')}")
    lines.append(f"The API, with a form to try it: {_link(f'{configuration.issuer}/docs')}")
    if admin is not None:
        lines += _first_steps(configuration, admin)
    lines.append("Stop it with Ctrl+C.")
    click.echo("\n" + "\n".join(lines) + "\n", color=True)


def _first_steps(configuration: Config, admin: FirstAdmin) -> list[str]:
    lines = [""]
    if admin.password is not None:
        message = f"The first account is {admin.username}, its password (shown only now):"
        lines += [_styled(message, fg="yellow", bold=True), "", f"    {admin.password}", ""]
    lines += ["A token for the admin API:", "", f"    {curl(configuration, admin)}", ""]
    message = "Next, in another terminal in this folder, with the same settings:"
    lines.append(_styled(message, bold=True))
    width = max(len(command) for _, command in _NEXT)
    program = _program()
    lines += [
        "",
        *(f"    {program} {command:<{width}}  {_dim(f'# {what}')}" for what, command in _NEXT),
        "",
    ]
    return lines


def _program() -> str:
    """Return the command for this program.

    If it is not on PATH, this is its file beside the running Python, as after ``make run``.
    """
    installed = Path(sys.executable).with_name("keyosk")
    if shutil.which("keyosk") or not installed.is_file():
        return "keyosk"
    return shlex.quote(os.path.relpath(installed))


def curl(configuration: Config, admin: FirstAdmin) -> str:
    """Return the command that gets a token for the admin API."""
    user = admin.username if admin.password is None else f"{admin.username}:{admin.password}"
    base, options = configuration.issuer, ""
    if isinstance(configuration.bind, UnixAddress):
        # The issuer leads to a proxy, which need not be there yet.
        base, options = "http://localhost", f" --unix-socket {shlex.quote(configuration.bind.path)}"
    return f"curl{options} -u {shlex.quote(user)} {base}/auth/token -d audience=keyosk"


def _link(text: str) -> str:
    return _styled(text, fg="cyan", underline=True)


def _dim(text: str) -> str:
    return _styled(text, dim=True)


def _styled(text: str, **style: object) -> str:
    """Return text with colours, if they are wanted."""
    if not colours.are_wanted():
        return text
    return click.style(text, **style)  # type: ignore[arg-type]
