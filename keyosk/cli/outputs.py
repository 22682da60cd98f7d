"""Files that commands write: whole under their names, or not there at all."""

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
    """What writes to a file, which only its owner can read if it is new, or standard output.

    The file has its name only once all is in it; until then what had the name keeps it. Raises
    ``OSError``.
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
    """A new folder, which only its owner can enter; gone again if not all goes well.

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
    """Return the same error, with the name that the user gave."""
    return OSError(error.errno, error.strerror or str(error), str(target))
