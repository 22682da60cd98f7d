"""The error of a refused command."""

from collections.abc import Sequence


class Refused(Exception):
    """The command was refused. ``sentences``: why; ``code``: the error code of the API."""

    def __init__(self, *sentences: str, code: str = "", status: int = 0) -> None:
        super().__init__(*sentences)
        self.sentences: Sequence[str] = sentences
        self.code = code
        self.status = status
