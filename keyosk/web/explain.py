"""/auth/explain: which token an account would get, and why not more."""

from typing import Any

from flask import Response, g

from keyosk.errors import Invalid, NotFound
from keyosk.model import CredentialKind
from keyosk.on_behalf import MESSAGES, Explanation, Request
from keyosk.web import access
from keyosk.web.answers import json_answer
from keyosk.web.endpoint import Endpoint
from keyosk.web.errors import STATUS, oauth_code
from keyosk.web.explain_schemas import ExplainRequest, ExplanationShape
from keyosk.web.operations import operation

#: What a scope came through that came through no role.
_GRANT = "grant"


class ExplainResource(Endpoint):
    """Explanations of tokens that nobody has yet."""

    repeatable = False  # it changes nothing

    @operation(takes=ExplainRequest, optional=True, gives=ExplanationShape, raises=(NotFound,))
    def post(self) -> Response:
        """Which token an account would get for these parameters, and why not more.

        ``account`` is the caller unless given, ``credential`` what the caller came by or the
        password. Needs no secret of the account, makes no token and changes nothing.
        """
        body = self.load()
        account = access.account_in_body(body.get("account", access.ME))
        request = Request(
            api_key_id=_api_key(body, itself=account == g.caller.account_id),
            targets=tuple(body.get("audience", ())),
            scope=body.get("scope"),
            lifetime=body.get("lifetime"),
        )
        explanation = self.installation.on_behalf.explain(g.caller, account, request)
        response = json_answer(shown(explanation))
        response.headers["Cache-Control"] = "no-store"
        return response


def shown(explanation: Explanation) -> dict[str, Any]:
    """An explanation as it is answered."""
    refused = explanation.refused
    error = None
    if refused is not None:
        status = next(STATUS[kind] for kind in type(refused).__mro__ if kind in STATUS)
        error = oauth_code(status, type(refused))
    answer: dict[str, Any] = ExplanationShape().dump(
        {
            "granted": refused is None,
            "error": error,
            "error_description": None if refused is None else refused.detail,
            "reason": explanation.reason,
            "claims": explanation.claims,
            "size": explanation.size,
            "scopes": [
                {"name": each.name, "through": each.role or _GRANT, "until": each.until}
                for each in explanation.scopes
            ],
            "missing": [
                {"name": name, "reason": reason, "message": MESSAGES[reason]}
                for name, reason in explanation.missing.items()
            ],
        }
    )
    return answer


def _api_key(body: dict[str, Any], *, itself: bool) -> str | None:
    """The id of the API key that is asked about; ``None`` for the password. Raises ``Invalid``."""
    key: str | None = body.get("api_key")
    credential = body.get("credential")
    if credential is None and key is None and itself:
        own: str | None = g.caller.api_key_id
        return own
    if credential == CredentialKind.API_KEY and key is None:
        raise Invalid.field("api_key", "is missing: the id of the API key")
    if credential == CredentialKind.PASSWORD and key is not None:
        raise Invalid.field("api_key", "goes with the credential api_key only")
    return key
