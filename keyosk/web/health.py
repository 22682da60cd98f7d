"""Liveness and readiness."""

from flask import Response

from keyosk.errors import Unavailable
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import json_response
from keyosk.web.standard_schemas import StatusSchema


class LiveResource(Endpoint):
    """Whether the process responds."""

    @operation(response=StatusSchema)
    def get(self) -> Response:
        """Return 200."""
        return _status("ok")


class ReadyResource(Endpoint):
    """Whether tokens can be issued."""

    @operation(response=StatusSchema, raises=(Unavailable,))
    def get(self) -> Response:
        """Return 200, or 503 if the database is not available."""
        self.installation.database.ping()
        return _status("ok")


def _status(word: str) -> Response:
    return json_response({"status": word})
