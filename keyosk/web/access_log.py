"""The log line of a request."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from flask import request

from keyosk import masking

#: In the WSGI environ of every request: its id, the client's address, the method as it was sent.
REQUEST_ID: Final = "keyosk.request_id"
ADDRESS: Final = "keyosk.address"
METHOD: Final = "keyosk.method"
_NOTED: Final = "keyosk.noted"

_log = logging.getLogger("keyosk.access")


def note(**facts: str) -> None:
    """Add who logged in, and what was created, to the log line of this request; never a secret."""
    request.environ.setdefault(_NOTED, {}).update(facts)


def write(environ: Mapping[str, Any], route: str | None, status: str, *, seconds: float) -> None:
    """Write the line: never the query, a header or a body of the request.

    SECURITY: people put secrets into paths. ``route``, the template, has none of them.
    """
    if not _log.isEnabledFor(logging.INFO):
        return
    line = {
        **environ.get(_NOTED, {}),
        "method": environ[METHOD],
        # WSGI gives the bytes of the path as Latin-1 (PEP 3333).
        "path": masking.mask_path(environ["PATH_INFO"].encode("latin-1").decode(errors="replace")),
        "route": route,
        "status": int(status),
        "milliseconds": round(seconds * 1000, 2),
        "request_id": environ[REQUEST_ID],
        "address": environ[ADDRESS],
    }
    _log.info("request", extra=line)
