"""The log, gunicorn's own included: lines on stderr, as JSON or for people, in UTC."""

import json
import logging
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from gunicorn.glogging import Logger

_STDERR = 2
# One instance, because json.dumps with options creates an encoder at each call.
_encode = json.JSONEncoder(ensure_ascii=True, default=str).encode
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line with one JSON object, including `extra`.

    The keys have the same order in all lines. SECURITY: json.dumps escapes everything that is not
    ASCII, so that no text of a client can begin a new line or a new field.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        extra = {k: v for k, v in vars(record).items() if k not in _OF_EVERY_RECORD}
        fault = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return self.line(
            extra,
            record.created,
            level=record.levelname.lower(),
            logger=record.name,
            process=record.process,
            message=record.getMessage(),
            **fault,
        )

    def line(self, extra: Mapping[str, Any], created: float, **line: Any) -> str:
        """Return the line for these fields; ``extra`` comes last and replaces no other field."""
        line = {"time": _moment(created), **line}
        return _encode({**line, **extra, **line} if extra else line)


class TextFormatter(JsonFormatter):
    """Formats a record as one line for people: time, level, message, other fields by name.

    SECURITY: text that could begin a new line or control the terminal is escaped as in JSON.
    """

    def line(self, extra: Mapping[str, Any], created: float, **line: Any) -> str:
        """Return the line for these fields."""
        level, message = str(line.pop("level")), str(line.pop("message"))
        del line["process"]
        fields = " ".join(
            f"{name}={_plain(value)}"
            for name, value in {**extra, **line}.items()
            if value is not None
        )
        text = message if message.isascii() and message.isprintable() else _encode(message)
        return f"{_moment(created)} {level.upper():<8} {text} {fields}".rstrip()


def _plain(value: object) -> str:
    text = str(value)
    is_word = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if is_word and text else _encode(text)


def _moment(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")


class LineHandler(logging.StreamHandler["LogStream"]):
    """Writes log records, and lines without a record."""

    def __init__(self, stream: "LogStream", formatter: JsonFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self.form = formatter
        self._line = formatter.line

    def write(self, fields: Mapping[str, Any], *, logger: str, message: str) -> None:
        """Write a line of level info.

        A ``LogRecord`` would cost five times as much, because it finds its caller, thread and file,
        and passes through the parent loggers.
        """
        line = self._line(
            fields, time.time(), level="info", logger=logger, process=os.getpid(), message=message
        )
        self.acquire()
        try:
            self.stream.write(f"{line}\n")
        finally:
            self.release()


class LogStream:
    """Writes log lines to a file descriptor, without ever waiting.

    A line that cannot be written now (a slow reader, a full disk, a closed pipe) is lost; their
    number is logged once there is room again.
    """

    def __init__(self, descriptor: int, formatter: JsonFormatter | None = None) -> None:
        """``formatter``: for the lines about lost lines."""
        self._line = (formatter or JsonFormatter()).line
        self._descriptor = descriptor
        self._send = _sender(descriptor)
        self._rest = b""  # the rest of a line that was written partially
        self._lost = 0

    def write(self, text: str) -> int:
        """Write a line, or lose it. ``logging`` lets one thread at a time do so."""
        data = text.encode(errors="backslashreplace")
        if self._lost:
            message = f"{self._lost} lines of this log were lost"
            data = f"{self._line_of(message)}\n".encode() + data
        if not self._written(self._rest):
            self._lost += 1
        elif self._written(data) or len(self._rest) < len(data):
            self._lost = 0
        else:
            self._rest = b""
            self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing, because nothing is buffered."""

    def _line_of(self, message: str) -> str:
        return self._line(
            {},
            time.time(),
            level="warning",
            logger=__name__,
            process=os.getpid(),
            message=message,
        )

    def _written(self, data: bytes) -> bool:
        self._rest = data
        while self._rest:
            try:
                sent = self._send(self._rest)
            except OSError:  # also if there is no room now
                return False
            self._rest = self._rest[sent:]
        return True


def _sender(descriptor: int) -> Callable[[bytes], int]:
    """Return a function that writes to a file descriptor without waiting, if possible."""
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(kind):
            there = socket.socket(fileno=os.dup(descriptor))
            return lambda data: there.send(data, socket.MSG_DONTWAIT)
        if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
            # Opened again, because O_NONBLOCK would also affect other users of the descriptor.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
            return lambda data: os.write(own, data)
        if stat.S_ISREG(kind):
            return lambda data: os.write(descriptor, data)
    except OSError:
        pass  # it does not exist, or belongs to another user
    return lambda data: _write_if_ready(descriptor, data)


def _write_if_ready(descriptor: int, data: bytes) -> int:
    if not select.select((), (descriptor,), (), 0)[1]:
        raise BlockingIOError
    return os.write(descriptor, data[: select.PIPE_BUF])


class ServerLogger(Logger):
    """gunicorn's logger with our formatter. `formatter` may be set before the start."""

    formatter: JsonFormatter = JsonFormatter()

    def setup(self, cfg: Any) -> None:
        """Set up gunicorn's handlers, then replace their formatters and streams."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(self.formatter)
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(LogStream(_STDERR, self.formatter))
        # Some modules of gunicorn have their own loggers without handlers.
        family = logging.getLogger("gunicorn")
        family.handlers = list(self.error_log.handlers)
        family.propagate = False


class ErrorStream:
    """The `wsgi.errors` of WSGI: text written to it becomes lines of the log.

    gunicorn's own writes to stderr unescaped, so that a line break could forge a record.
    """

    def __init__(self, log: Any) -> None:
        self._log = log

    def write(self, text: str) -> int:
        """Log the text as one record; blank text is ignored."""
        if text.strip():
            self._log.error("%s", text.rstrip())
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Log each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing, because nothing is buffered."""
