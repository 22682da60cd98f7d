"""gunicorn's own log as JSON lines on stderr, in UTC."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from gunicorn.glogging import Logger

# Made once: json.dumps with options makes an encoder at every call.
_encode = json.JSONEncoder(ensure_ascii=True, default=str).encode
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One record, one line, one JSON object, with what `extra` gave besides.

    SECURITY: everything goes through json.dumps with escapes for all that is not ASCII, so that no
    text of a client can begin a new line or a new field.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        extra = {k: v for k, v in vars(record).items() if k not in _OF_EVERY_RECORD}
        return _encode({**extra, **line})


class JsonLogger(Logger):
    """gunicorn's logger with a formatter of ours. `formatter` may be set before the start."""

    formatter: logging.Formatter = JsonFormatter()

    def setup(self, cfg: Any) -> None:
        """Set the handlers up as gunicorn does, then replace what they write."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(self.formatter)
        # gunicorn's modules have loggers of their own as well, without handlers.
        family = logging.getLogger("gunicorn")
        family.handlers = list(self.error_log.handlers)
        family.propagate = False


class ErrorStream:
    """What WSGI calls `wsgi.errors`: whatever is written there becomes lines of the log.

    gunicorn's own writes to stderr as it is, so that a line break in it would forge a record.
    """

    def __init__(self, log: Any) -> None:
        self._log = log

    def write(self, text: str) -> int:
        """Log the text as one record; blank text is nothing."""
        if text.strip():
            self._log.error("%s", text.rstrip())
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Log each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing waits here."""
