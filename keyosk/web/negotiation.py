"""What a client would rather have (RFC 9110 section 12.5.1)."""

from flask import request


def prefers(mimetype: str) -> bool:
    """Whether ``Accept`` names a media type, and no other that is answered more than it.

    Only if it names it: whoever takes anything gets JSON.
    """
    if "Accept" not in request.headers:
        return False
    accepted = request.accept_mimetypes
    named = any(value.lower() == mimetype and quality > 0 for value, quality in accepted)
    return named and accepted.best_match([mimetype, "application/json"]) == mimetype
