"""The error responses of the server itself, before or in place of the application's.

Every one is `application/problem+json` (RFC 9457) with a stable `code` and closes the connection.
No sentence quotes the request, because a malformed head may contain a secret.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TITLES = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One way in which a request fails in the server; `code` is for programs and stable."""

    status: int
    code: str
    detail: str
    retry_after: int = 0  # seconds; 0 sends no Retry-After

    def render(
        self, request_id: str, *, headers: Sequence[tuple[str, str]] = (), body: bool = True
    ) -> bytes:
        """Return the bytes of the response; for HEAD, without the body."""
        title = _TITLES[self.status]
        content = json.dumps(
            {
                "type": "about:blank",
                "title": title,
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
                "request_id": request_id,
            }
        )
        fields = [
            ("Date", formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Type", "application/problem+json"),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("X-Request-Id", request_id),
            *headers,
        ]
        if self.retry_after:
            fields.append(("Retry-After", str(self.retry_after)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"HTTP/1.1 {self.status} {title}\r\n{lines}\r\n{content if body else ''}".encode()


MALFORMED = Problem(400, "malformed_request", "The request is not well-formed HTTP/1.1.")
INCOMPLETE = Problem(400, "incomplete_request", "The connection ended before the request did.")
TIMEOUT = Problem(408, "request_timeout", "The request did not arrive in time.")
BODY_TOO_LARGE = Problem(413, "body_too_large", "The request's body is larger than allowed.")
LINE_TOO_LONG = Problem(414, "request_line_too_long", "The request line is longer than allowed.")
TLS_REQUIRED = Problem(400, "tls_required", "This port speaks TLS: use https.")
EXPECTATION = Problem(417, "expectation_failed", "The only expectation known is 100-continue.")
HEAD_TOO_LARGE = Problem(431, "headers_too_large", "The request's header is larger than allowed.")
INTERNAL = Problem(500, "internal_error", "The server failed; the request id finds it in the log.")
OVERLOADED = Problem(503, "overloaded", "Too many requests of this kind are waiting.", 2)
