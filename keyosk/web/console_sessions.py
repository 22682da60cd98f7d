"""Console sessions of an account."""

from typing import Any, Final

from flask import Response, g

from keyosk.model import ConsoleSession
from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import nothing
from keyosk.web.session_schemas import ConsoleSessionSchema

LISTS = paging.ListOptions(("created_at",), {})

# Made once: each new one copies all its fields (150 us).
_SHAPE: Final = ConsoleSessionSchema()


class ConsoleSessionsResource(Endpoint):
    """The console sessions of an account."""

    @operation(response=ConsoleSessionSchema, lists=LISTS)
    def get(self, account: str) -> Response:
        """List console sessions."""
        sessions = self.installation.console_sessions
        return self.page(
            lambda list_query: sessions.page(account, list_query),
            _body,
            lambda list_query: sessions.count(account, list_query),
        )


class ConsoleSessionResource(Endpoint):
    """One console session."""

    @operation()
    def delete(self, account: str, session: str) -> Response:
        """End the session: its browser must log in again."""
        self.installation.console_sessions.end(g.caller, account, session)
        return nothing()


def _body(session: ConsoleSession) -> dict[str, Any]:
    body: dict[str, Any] = _SHAPE.dump(session)
    return body
