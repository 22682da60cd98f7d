"""The version, which is the server's."""

from typing import Final

__version__: Final = "0.1.0"
