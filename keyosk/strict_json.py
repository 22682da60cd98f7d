"""Parses JSON strictly (RFC 8259).

Python's parser accepts more, keeps the last of two members with the same name, and has errors of
three kinds.
"""

import json
from typing import Any, Final


class BadJson(ValueError):
    """A text is not acceptable JSON. The message says why, to follow its name; it quotes nothing.

    ``line``: where, if that is known.
    """

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse(text: str) -> Any:
    """Return the value of a JSON text. Raises ``BadJson``.

    An object has no two members with the same name, and NaN and Infinity are no numbers.
    """
    try:
        return _DECODER.decode(text)
    except BadJson as error:
        message, line = str(error), error.line
    except json.JSONDecodeError as error:
        message, line = f"is not JSON: {error.msg}, at character {error.pos + 1}", error.lineno
    except (ValueError, RecursionError):
        message, line = "is nested too deeply, or has a number with too many digits", None
    # SECURITY: outside the handler, because the exception holds the text.
    raise BadJson(message, line=line)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadJson("has an object with the same member twice")
    return members


def _no_number(_: str) -> Any:
    raise BadJson("has NaN or Infinity, which JSON has not")


#: One instance, because creating it takes as long as reading a small text.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
