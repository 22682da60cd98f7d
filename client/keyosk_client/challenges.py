"""The response of a service that refuses a request (RFC 6750 section 3)."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from keyosk_client.errors import (
    ApiKeySent,
    InsufficientScope,
    InvalidToken,
    KeyoskError,
    NoToken,
    Unavailable,
)

_log: Final = logging.getLogger("keyosk_client")
_API_KEY: Final = "This is an API key. Get a token with it from Keyosk, and send that."


@dataclass(frozen=True, slots=True)
class Refusal:
    """A response, for a framework to send."""

    status: int
    headers: Mapping[str, str]
    content: Mapping[str, Any]

    @property
    def body(self) -> bytes:
        """The content as JSON."""
        return json.dumps(self.content, separators=(",", ":")).encode() + b"\n"


def refusal(error: KeyoskError, *, realm: str) -> Refusal:
    """Return the response for an error of a verifier.

    ``realm``: the audience of the service. The response never says what is wrong with a token.
    """
    _log.info("refused a request: %s", error)
    match error:
        case Unavailable():
            # Not 401: the token may be good, and a client would throw it away.
            headers = {"Retry-After": str(error.retry_after)}
            code, description = "temporarily_unavailable", "The token cannot be verified now."
            return _refusal(503, headers, error=code, description=description)
        case InsufficientScope():
            headers = _challenge(realm, error="insufficient_scope", scope=error.scope)
            description = f"This needs the scope {error.scope}."
            return _refusal(403, headers, error="insufficient_scope", description=description)
        case InvalidToken():
            headers = _challenge(realm, error="invalid_token")
            is_api_key = isinstance(error, ApiKeySent)
            description = _API_KEY if is_api_key else "The token is not valid."
            return _refusal(401, headers, error="invalid_token", description=description)
        case NoToken():
            # Without an error code: the client did not know yet (RFC 6750 section 3.1).
            description = "This needs a Bearer token."
            return _refusal(401, _challenge(realm), error="token_required", description=description)
        case _:
            raise error


def _challenge(realm: str, **parameters: str) -> dict[str, str]:
    quoted = [f"{name}={_quoted(value)}" for name, value in [("realm", realm), *parameters.items()]]
    return {"WWW-Authenticate": "Bearer " + ", ".join(quoted)}


def _quoted(text: str) -> str:
    """Return a quoted-string (RFC 9110 section 5.6.4); other characters cannot be in a header."""
    kept = "".join(each for each in text if " " <= each <= "~")
    return '"' + kept.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _refusal(status: int, headers: Mapping[str, str], *, error: str, description: str) -> Refusal:
    return Refusal(
        status,
        {"Content-Type": "application/json", "Cache-Control": "no-store", **headers},
        {"error": error, "error_description": description},
    )
