"""Output files of commands, which are complete or do not exist."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from keyosk.cli import shared


@contextmanager
def written(target: Path | None) -> Iterator[Callable[[str], object]]:
    """Return a writer to standard output or to a file; a new file is readable only by its owner.

    The file gets its name only when it is complete; until then an earlier file keeps the name.
    Raises ``OSError``.
    """
    if target is None:
        yield lambda text: click.echo(shared.fitting(text), nl=False)
        return
    if target.exists() and not target.is_file():  # a pipe or a device
        with target.open("w", encoding="utf-8") as file:
            yield file.write
        return
    real = Path(os.path.realpath(target))
    part = real.with_name(f".{real.name}.{os.getpid()}.part")
    try:
        handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            if real.exists():
                part.chmod(stat.S_IMODE(real.stat().st_mode))
            yield file.write
            file.flush()
            os.fsync(handle)
        part.rename(real)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _about(error, target) from error
        raise


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Create a folder for its owner only; it is removed again after an error.

    Raises ``OSError``.
    """
    target.mkdir(mode=0o700)
    try:
        yield target
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise _about(error, target) from error
        raise


def _about(error: OSError, target: Path) -> OSError:
    """Return the same error with the file name of the user."""
    return OSError(error.errno, error.strerror or str(error), str(target))
