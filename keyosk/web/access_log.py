"""The log line of a request."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from keyosk import masking
from keyosk.web import trace_context
from keyosk.web.current import current_request

#: In the WSGI environ of every request: its id, the client's address, and the original method.
REQUEST_ID: Final = "keyosk.request_id"
ADDRESS: Final = "keyosk.address"
METHOD: Final = "keyosk.method"
_NOTED: Final = "keyosk.noted"

_log = logging.getLogger("keyosk.access")


class LineWriter(Protocol):
    """Writes fields as a line of the log, without a ``LogRecord``."""

    def __call__(self, fields: Mapping[str, Any], *, logger: str, message: str) -> None:
        """Write a line of level info."""


class AccessLog:
    """Writes the line of each request."""

    def __init__(
        self,
        write_line: LineWriter | None,
        *,
        traced: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """``write_line``: ``None`` for logging, which costs each request 25 us more.

        ``traced``: the trace and the span that this request has here, if any.
        """
        self._write_line = write_line or _log_record
        self._traced = traced

    def write(
        self, environ: Mapping[str, Any], route: str | None, status: str, *, seconds: float
    ) -> None:
        """Write the line: never the query, a header or a body of the request.

        SECURITY: people put secrets into paths, so the path is masked; ``route`` is the template.
        """
        if not _log.isEnabledFor(logging.INFO):
            return
        line = {
            "method": environ[METHOD],
            # WSGI has the bytes of the path as Latin-1 (PEP 3333).
            "path": masking.mask_path(
                environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
            ),
            "route": route,
            "status": int(status),
            "milliseconds": round(seconds * 1000, 2),
            "request_id": environ[REQUEST_ID],
            "address": environ[ADDRESS],
            **environ.get(_NOTED, {}),
        }
        own = self._traced() if self._traced is not None else None
        if own:
            line |= own
        elif trace_context.HEADER in environ:
            line |= trace_context.fields(environ[trace_context.HEADER])
        self._write_line(line, logger=_log.name, message="request")


def note(**facts: str) -> None:
    """Add fields, such as the account, to the log line of this request; never a secret."""
    current_request().environ.setdefault(_NOTED, {}).update(facts)


def _log_record(fields: Mapping[str, Any], *, logger: str, message: str) -> None:
    logging.getLogger(logger).info("%s", message, extra=dict(fields))
