"""Removes white space around a token or around a secret in a file."""

from typing import Final

BYTE_ORDER_MARK: Final = "\ufeff"
LINE_ENDS: Final = "\r\n"
# Only ASCII: no tool adds other Unicode spaces by itself.
_SPACE: Final = " \t\r\n\f\v"


def trim(text: str) -> str:
    """Return the text without the white space, line ends and byte order mark around it.

    Tokens contain none of these, but editors and Windows tools add them to files.
    """
    return text.strip(_SPACE).strip(BYTE_ORDER_MARK).strip(_SPACE)
