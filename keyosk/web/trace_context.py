"""The trace of a request, from the caller's ``traceparent`` header (W3C Trace Context)."""

import re
from typing import Final

#: In the WSGI environ.
HEADER: Final = "HTTP_TRACEPARENT"
_FORM: Final = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII
)
_NO_VERSION: Final = "ff"
_VERSION: Final = "00"


def fields(header: str) -> dict[str, str]:
    """Return ``trace_id`` and ``span_id`` of a valid ``traceparent``, otherwise nothing.

    Later versions may have more fields at the end; version 00 may not (section 4.3).
    """
    match = _FORM.fullmatch(header)
    if match is None:
        return {}
    version, trace, span, more = match.groups()
    if version == _NO_VERSION or not int(trace, 16) or not int(span, 16):
        return {}
    if version == _VERSION and more is not None:
        return {}
    return {"trace_id": trace, "span_id": span}
