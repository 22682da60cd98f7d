"""keyosk login and keyosk logout: tokens for a Keyosk on another machine."""

import sys
from pathlib import Path

import click

from keyosk import small_files, whitespace
from keyosk.cli import global_options, shared
from keyosk.cli.refusals import Refused

_API_KEY = "kysk_"


@click.command()
@click.option("--username", help="Prompted for by default; an API key needs none.")
@click.option(
    "--secret-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File with the password or API key in its first line; - is standard input.",
)
def login(username: str | None, secret_file: Path | None) -> None:
    """Log in to the Keyosk that --server or KEYOSK_URL names, by password or API key.

    Keeps tokens, never the secret, in a file that only you can read; other commands use them.
    The secret comes from a prompt, from FILE, or from the first line of standard input.
    """
    from keyosk.cli import remote  # noqa: PLC0415 - it is httpx2

    server = remote.server_of(_server(), allow_http=global_options.allows_http())
    is_asked = secret_file is None and sys.stdin.isatty()
    if username is None and is_asked:
        username = click.prompt(
            "Username (empty for an API key)", default="", show_default=False, err=True
        )
    secret = _read(secret_file) if secret_file else shared.read_secret("Password or API key")
    if whitespace.trim(secret).startswith(_API_KEY):
        secret = whitespace.trim(secret)
    elif not username:
        raise click.UsageError("A password needs its --username.")
    if not secret:
        raise Refused("There is no secret: nothing was read.")
    login = remote.log_in(server, username or "", secret)
    click.echo(f"Logged in at {server} as {shared.printable(login.username)}.")
    if login.refresh_token is None:
        click.echo("It lasts for minutes: this Keyosk gives no refresh token.", err=True)


@click.command()
@click.option(
    "--forget", is_flag=True, help="Only delete the tokens here, without a request to the server."
)
def logout(*, forget: bool) -> None:
    """Log out from the Keyosk that --server or KEYOSK_URL names, and revoke the tokens."""
    from keyosk.cli import remote  # noqa: PLC0415 - it is httpx2

    server = remote.server_of(_server(), allow_http=global_options.allows_http())
    if not remote.log_out(server, forget=forget):
        raise Refused(f"You are not logged in at {server}.")
    click.echo(f"Logged out at {server}.")


def _server() -> str:
    server = global_options.server()
    if server is None:
        raise click.UsageError("Name the Keyosk: --server URL, or KEYOSK_URL.")
    return server


def _read(file: Path) -> str:
    """Return the first line of a file. Raises ``OSError``, ``UnicodeError``."""
    if str(file) == "-":
        return shared.read_line()
    text = small_files.read(file).decode("utf-8-sig")
    return text.partition("\n")[0].rstrip("\r")
