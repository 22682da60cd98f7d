"""The messages of failed commands: what failed, why, and what to do; never a traceback."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from keyosk.cli import shared
from keyosk.cli.refusals import Refused
from keyosk.errors import ConfigurationError, InUse, Invalid, KeyoskError

#: The remedy, by the error of the system.
_CURES: Final[Mapping[int, str]] = {
    errno.EACCES: "Run the command as the user that Keyosk runs as, or let this user in.",
    errno.EPERM: "Run the command as the user that Keyosk runs as, or let this user in.",
    errno.EROFS: "Name a place that can be written to.",
    errno.ENOSPC: "Make room, then do it again.",
    errno.EDQUOT: "Make room, then do it again.",
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f), then do it again.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), then do it again.",
    errno.ENFILE: "Close other programs, then do it again.",
    errno.ENOMEM: "Make more memory available, then do it again.",
    errno.EAGAIN: "Raise the limit of processes (ulimit -u), then do it again.",
    errno.ENOTDIR: "A part of the path is a file: name another place.",
    errno.EISDIR: "Name a file in it.",
    errno.EEXIST: "Name one that does not exist yet.",
    errno.ENOENT: "Make its folder first, or name another place.",
    errno.ELOOP: "Its symbolic links lead in a circle: name another place.",
    errno.ENAMETOOLONG: "Name a shorter one.",
}
#: The beginning of click's message for too many arguments.
_EXTRA: Final = "Got unexpected extra argument"
#: The same for a URL, as of a server.
_URL_TOO_MANY: Final = (f"{_EXTRA} (http://", f"{_EXTRA} (https://", f"{_EXTRA}s (http")
#: Commands to which a secret may be given as an argument by mistake.
_OF_SECRETS: Final = frozenset(
    {"account create", "account password", "api-key find", "login", "token inspect"}
)


def run(command: Callable[[], object]) -> None:
    """Run a command to its end; the process exits 1, with the reason on stderr, if it fails.

    Call it once for a process, because it may close standard output at the end.
    """
    _be_readable_everywhere()
    try:
        try:
            ended = command()
        except Exception:
            with suppress(OSError):  # the first failure is the reason
                _finish_output()
            raise
        finally:
            _finish_output()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the help, as intended
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _tell_usage(error)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("keyosk: Nothing was done: it was interrupted.", err=True)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody else is to tell it
        for sentence in sentences(error):
            with suppress(OSError):
                click.echo(f"keyosk: {shared.printable(sentence)}", err=True)
        if os.environ.get("KEYOSK_LOG_LEVEL", "").lower() == "debug":
            # SECURITY: only the lines of code. The text of an exception may hold a secret.
            click.echo("".join(traceback.format_tb(error.__traceback__)), err=True, nl=False)
        sys.exit(1)
    if isinstance(ended, int) and ended:  # of --help and the like
        sys.exit(ended)


def _tell_usage(error: click.ClickException) -> None:
    """Print what is wrong with the command line, its usage, and where to read more."""
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(context.get_usage(), err=True)
        click.echo(f"Try '{context.command_path} --help' for help.\n", err=True)
    message = error.format_message()
    if message.startswith(_URL_TOO_MANY) and context is not None:
        # SECURITY: without the URL, which may have a secret in it.
        message = "Got a URL too many. The server is named by --server URL, or by KEYOSK_URL."
    elif (
        message.startswith(_EXTRA) and context is not None and _reads_a_secret(context.command_path)
    ):
        # SECURITY: without the argument, which may be the secret.
        message = (
            "Got an argument too many. A secret is never an argument: the command asks for it, or "
            "reads it from standard input. If this was one, change it: others may have seen it."
        )
    click.echo(f"keyosk: {shared.printable(message)}", err=True)


def _reads_a_secret(command: str) -> bool:
    return command.partition(" ")[2] in _OF_SECRETS


def sentences(error: Exception) -> list[str]:
    """Return the messages for an error, one on each line."""
    if isinstance(error, Refused):
        return list(error.sentences)
    if isinstance(error, Invalid | ConfigurationError):
        return [f"{fault.field}: {fault.message}" for fault in error.faults]
    if isinstance(error, InUse):
        return [f"{error.named} Repeat with --force to remove it."]
    if isinstance(error, KeyoskError):
        return [error.explanation]
    if isinstance(error, OSError):
        return [_of_system(error)]
    if isinstance(error, UnicodeError):
        return ["The input or the output is not UTF-8. Use UTF-8."]
    if isinstance(error, MemoryError):
        return ["There is not enough memory. Make more available, then do it again."]
    return [
        f"Something went wrong in Keyosk itself ({place(error)}). Please report it, with what "
        "KEYOSK_LOG_LEVEL=debug adds."
    ]


def place(error: BaseException) -> str:
    """Return the type and place of an error. SECURITY: without its text, which may be secret."""
    frames = traceback.extract_tb(error.__traceback__)
    name = type(error).__name__
    return f"{name} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else name


def _of_system(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    cure = _CURES.get(error.errno or 0, "")
    # Some of Python's messages begin with a small letter or end with a full stop.
    return f"{where}{reason.rstrip('.')}. {cure}".rstrip()


def _be_readable_everywhere() -> None:
    """Print characters that the terminal's encoding lacks as escapes, so that output never fails.

    Standard input is always read as UTF-8, so that a password is the same in every locale.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdin is None:  # closed by the parent process
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - until the end
    elif hasattr(sys.stdin, "reconfigure") and not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")


def _finish_output() -> None:
    """Flush the output. Raises ``OSError`` if there is no room for it."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would otherwise try again at exit and print a traceback.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # as with | head, which is no failure
            sys.exit(1)
        raise
