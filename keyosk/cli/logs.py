"""The log of ``keyosk serve`` on standard error."""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from keyosk import masking
from keyosk.server import JsonFormatter, LineHandler, LogStream, TextFormatter

_STDERR: Final = 2


class _Json(JsonFormatter):
    """SECURITY: API keys and tokens in a line are masked."""

    def line(self, extra: Mapping[str, Any], created: float, **line: Any) -> str:
        """Return the line, without its end."""
        return masking.mask(super().line(extra, created, **line))


class _Text(TextFormatter):
    """SECURITY: as in ``_Json``."""

    def line(self, extra: Mapping[str, Any], created: float, **line: Any) -> str:
        """Return the line, without its end."""
        return masking.mask(super().line(extra, created, **line))


def formatter(log_format: str) -> JsonFormatter:
    """Return the formatter. ``log_format``: the value of the setting."""
    is_terminal = False
    with suppress(OSError):
        is_terminal = os.isatty(_STDERR)
    is_text = log_format == "text" or (log_format == "auto" and is_terminal)
    return _Text() if is_text else _Json()


def start(level: str, log_format: str) -> LineHandler:
    """Let this process log to standard error."""
    form = formatter(log_format)
    handler = LineHandler(LogStream(_STDERR, form), form)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It would log a line for each migration of a new database.
    logging.getLogger("peewee.migrations").setLevel(logging.WARNING)
    return handler


def start_anew(handler: LineHandler) -> None:
    """Let a forked process log like its parent, without the unwritten lines of the parent."""
    handler.setStream(LogStream(_STDERR, handler.form))
