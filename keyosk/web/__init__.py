"""HTTP, and nothing but HTTP: Flask, Flask-RESTful, marshmallow.

Owns addresses, methods, headers, media types and the shapes of bodies. A resource translates a
request to one call of the floor below and its result back; a business rule found here is misplaced.

Every request passes the same pipeline (``application``): a request id, a bound on its size, the
access decision that ``routes`` states for its address and method, the resource, the headers that
every response has. What goes wrong anywhere becomes a response in ``errors``, and only there.
"""

import re
import sys
from typing import Any

_compile = re.compile


class _UnusedPattern:
    """A pattern that is compiled if it is ever used."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __getattr__(self, name: str) -> Any:
        return getattr(_compile(*self._arguments), name)


def _without_letters(pattern: Any, flags: int = 0) -> Any:
    """Do as ``re.compile``, except for a pattern with a range of most letters there are."""
    is_long = isinstance(pattern, str) and "\u00a1-\uffff" in pattern
    return _UnusedPattern(pattern, flags) if is_long else _compile(pattern, flags)


if "marshmallow" not in sys.modules:
    # marshmallow compiles the pattern of its field for e-mail addresses when it is imported. That
    # field is not used here, and the pattern takes a tenth of a start.
    re.compile = _without_letters
    try:
        import marshmallow  # noqa: F401
    finally:
        re.compile = _compile
