"""/accounts/{account}/tokens: what an account has in use, and how to end it."""

from typing import Any

from flask import Response, g

from keyosk.model import Session
from keyosk.web import paging
from keyosk.web.answers import change_answer, nothing
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.standard_schemas import RevokedSchema, SessionSchema

LISTS = paging.ListOptions(("created_at",), {})


class SessionsResource(Endpoint):
    """The tokens of an account: its refresh sessions, and all of them at once."""

    @operation(response=SessionSchema, lists=LISTS)
    def get(self, account: str) -> Response:
        """A page of refresh sessions."""
        sessions = self.installation.sessions
        return self.page(
            lambda list_query: sessions.page(account, list_query),
            _body,
            lambda list_query: sessions.count(account, list_query),
        )

    @operation(response=RevokedSchema)
    def delete(self, account: str) -> Response:
        """End every session and revoke every token of the account so far."""
        moment = self.installation.accounts.revoke_tokens(g.caller, account)
        return change_answer({}, moment)


class SessionResource(Endpoint):
    """One refresh session."""

    @operation()
    def delete(self, account: str, session: str) -> Response:
        """End it, and revoke the access tokens that came from it."""
        return nothing(self.installation.sessions.end(g.caller, account, session))


def _body(session: Session) -> dict[str, Any]:
    body: dict[str, Any] = SessionSchema().dump(session)
    return body
