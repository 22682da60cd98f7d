"""White space around a token, or around a secret in a file: it is not part of it."""

from typing import Final

BYTE_ORDER_MARK: Final = "\ufeff"
# Of ASCII only: what else Unicode takes for space, no tool adds by itself.
_SPACE: Final = " \t\r\n\f\v"


def trim(text: str) -> str:
    """Return the text without the white space, line ends and byte order mark around it.

    Tokens hold none of these, files of editors and of Windows tools often do.
    """
    return text.strip(_SPACE).strip(BYTE_ORDER_MARK).strip(_SPACE)
