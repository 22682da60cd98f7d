"""Reads files that operators name, such as settings and secrets, which may be anything else."""

import errno
import os
import select
from pathlib import Path
from typing import Final

#: The most bytes; what is read here has a few thousand.
MOST: Final = 1024 * 1024
#: Seconds to wait for whoever writes to a pipe, such as a command of the shell.
_PATIENCE: Final = 30.0


def read(path: Path, *, patience: float = _PATIENCE) -> bytes:
    """Return the content of a file, or what is written to a pipe until it is closed.

    Raises ``OSError``, also if it has more than ``MOST`` bytes (a device without an end, say), and
    if nobody writes to the pipe for ``patience`` seconds.
    """
    # Without O_NONBLOCK, opening a named pipe would wait for a writer.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        content = b""
        while len(content) <= MOST:
            if not waiting.poll(patience * 1000):
                raise OSError(errno.ETIMEDOUT, "nobody writes to this pipe", str(path))
            piece = os.read(handle, MOST + 1 - len(content))
            if not piece:
                return content
            content += piece
    finally:
        os.close(handle)
    raise OSError(errno.EMSGSIZE, "it has more than 1 MiB", str(path))
