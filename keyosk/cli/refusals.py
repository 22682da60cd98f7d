"""What a command says when it was refused."""

from collections.abc import Sequence


class Refused(Exception):
    """What was asked for is not done; ``sentences``: why, a line each. ``code``: the API's word."""

    def __init__(self, *sentences: str, code: str = "", status: int = 0) -> None:
        super().__init__(*sentences)
        self.sentences: Sequence[str] = sentences
        self.code = code
        self.status = status
