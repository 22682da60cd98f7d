"""/health: is this process alive, and can it do its work."""

from flask import Response

from keyosk.errors import Unavailable
from keyosk.web.answers import json_answer
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.standard_schemas import StatusSchema


class LiveResource(Endpoint):
    """Whether the process answers; asks nothing else."""

    @operation(response=StatusSchema)
    def get(self) -> Response:
        """Always 200."""
        return _status("ok")


class ReadyResource(Endpoint):
    """Whether tokens can be issued now."""

    @operation(response=StatusSchema, raises=(Unavailable,))
    def get(self) -> Response:
        """200, or 503 when the database is away."""
        self.installation.database.ping()
        return _status("ok")


def _status(word: str) -> Response:
    return json_answer({"status": word})
