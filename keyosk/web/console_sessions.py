"""Console sessions of an account."""

from typing import Final

from flask import Response, g

from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import nothing
from keyosk.web.schemas import ACCOUNT_ID
from keyosk.web.session_schemas import ConsoleSessionSchema, OwnedConsoleSessionSchema

LISTS = paging.ListOptions(("created_at",), {})
LISTS_OF_ALL = paging.ListOptions(
    ("created_at",),
    {"owner": paging.text("Only sessions of this account: its id or username.", ACCOUNT_ID)},
)

# One instance, because each new one copies all fields (150 us).
_body: Final = ConsoleSessionSchema().body_of


class AllConsoleSessionsResource(Endpoint):
    """The console sessions of all accounts."""

    @operation(response=OwnedConsoleSessionSchema, lists=LISTS_OF_ALL)
    def get(self) -> Response:
        """List the console sessions in force, of all accounts."""
        sessions = self.installation.console_sessions
        return self.page_with_owners(sessions.page_of_all, _body, sessions.count_of_all)


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
