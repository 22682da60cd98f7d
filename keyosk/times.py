"""Times as text: RFC 3339 in UTC, to the second, as the API writes them."""

from datetime import UTC, datetime


def rfc3339(moment: float) -> str:
    """Return the text of a time, which is given in seconds since the epoch."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> int:
    """Return the seconds since the epoch of a text that ``rfc3339`` returned."""
    return int(datetime.fromisoformat(text).timestamp())
