"""Content negotiation (RFC 9110 section 12.5.1)."""

from keyosk.web.current import current_request


def prefers(mimetype: str) -> bool:
    """Return whether ``Accept`` lists a media type and ranks it above JSON.

    It must be listed: a client that accepts anything gets JSON.
    """
    request = current_request()
    # Most clients send */*, and parsing the header takes 10 us.
    if mimetype not in request.environ.get("HTTP_ACCEPT", "").lower():
        return False
    accepted = request.accept_mimetypes
    is_listed = any(value.lower() == mimetype and quality > 0 for value, quality in accepted)
    return is_listed and accepted.best_match([mimetype, "application/json"]) == mimetype
