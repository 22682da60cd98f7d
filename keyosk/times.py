"""Times as text: RFC 3339 in UTC, to the second, as the API writes them."""

import re
from datetime import UTC, datetime
from typing import Final

#: What people may write: with fractions, and with any time zone (none differs more from UTC).
PATTERN: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-](0\d|1[0-4]):[0-5]\d)", re.ASCII
)


def rfc3339(moment: float) -> str:
    """Return the text of a time, which is given in seconds since the epoch."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> int:
    """Return the seconds since the epoch of a text that ``rfc3339`` returned."""
    return int(datetime.fromisoformat(text).timestamp())
