"""Refresh sessions of an account, and the revocation of its tokens."""

from typing import Final

from flask import Response, g

from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import change_response, nothing
from keyosk.web.schemas import ACCOUNT_ID
from keyosk.web.session_schemas import OwnedSessionSchema, SessionSchema
from keyosk.web.standard_schemas import RevokedSchema

LISTS = paging.ListOptions(("created_at",), {})
LISTS_OF_ALL = paging.ListOptions(
    ("created_at",),
    {"owner": paging.text("Only sessions of this account: its id or username.", ACCOUNT_ID)},
)

# One instance, because each new one copies all fields (150 us).
_body: Final = SessionSchema().body_of


class AllSessionsResource(Endpoint):
    """The refresh sessions of all accounts."""

    @operation(response=OwnedSessionSchema, lists=LISTS_OF_ALL)
    def get(self) -> Response:
        """List the refresh sessions in force, of all accounts."""
        sessions = self.installation.sessions
        return self.page_with_owners(sessions.page_of_all, _body, sessions.count_of_all)


class SessionsResource(Endpoint):
    """The refresh sessions and tokens of an account."""

    @operation(response=SessionSchema, lists=LISTS)
    def get(self, account: str) -> Response:
        """List refresh sessions."""
        sessions = self.installation.sessions
        return self.page(
            lambda list_query: sessions.page(account, list_query),
            _body,
            lambda list_query: sessions.count(account, list_query),
        )

    @operation(response=RevokedSchema)
    def delete(self, account: str) -> Response:
        """End every session and revoke every token of the account."""
        moment = self.installation.accounts.revoke_tokens(g.caller, account)
        return change_response({}, moment)


class SessionResource(Endpoint):
    """One refresh session."""

    @operation()
    def delete(self, account: str, session: str) -> Response:
        """End the session and revoke its access tokens."""
        return nothing(self.installation.sessions.end(g.caller, account, session))
