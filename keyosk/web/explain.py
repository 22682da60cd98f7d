"""Explanations of which token a login would get, and why."""

from typing import Any

from flask import Response, g

from keyosk.errors import InsufficientScope, Invalid, InvalidScope, NotFound
from keyosk.permissions import entitlements
from keyosk.permissions.entitlements import Reason
from keyosk.tokens.explanation import Explanation, shape
from keyosk.tokens.issuing import TokenRequest
from keyosk.web.answers import json_answer
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import rfc3339
from keyosk.web.operations import operation
from keyosk.web.standard_schemas import ExplainRequest, ExplanationSchema

_READ = "keyosk:accounts:read"
_SERVICES = "keyosk:services:read"


class ExplainResource(Endpoint):
    """The result of a token request."""

    repeatable = False

    @operation(body=ExplainRequest, response=ExplanationSchema, raises=(NotFound,))
    def post(self) -> Response:
        """Explain which token an account would get with a credential, without its secret.

        The default is the caller's own account; another account requires the scope
        ``keyosk:accounts:read``.
        """
        fields = self.load()
        account = self._account(fields.get("account"))
        api_key = fields.get("api_key")
        if (fields.get("credential", "password") == "api_key") is not (api_key is not None):
            raise Invalid.field(
                "api_key", "must be the id of the API key, and only with the credential api_key"
            )
        scope = fields.get("scope")
        try:
            token_request = TokenRequest(
                scopes=None if scope is None else entitlements.parse_scope(scope),
                targets=tuple(filter(None, fields.get("audience", ()))),
                lifetime=fields.get("lifetime"),
            )
            found = self.installation.explainer.explain(account, token_request, api_key_id=api_key)
        except InvalidScope as error:  # it is no list of scopes
            found = Explanation(None, error, None, (), {})
        return json_answer(self._shown(shape(found)))

    def _account(self, reference: str | None) -> str:
        """The id of the account: the caller's own, or with the scope any."""
        own: str = g.caller.account_id
        if reference is None:
            return own
        try:
            found = self.installation.accounts.get(reference).id
        except NotFound:
            found = ""
        # SECURITY: who may not see accounts does not learn which there are.
        if found != own and not g.caller.has(_READ):
            raise InsufficientScope(_READ)
        return found or reference

    def _shown(self, found: dict[str, Any]) -> dict[str, Any]:
        for scope in found["scopes"]:
            scope["until"] = None if scope["until"] is None else rfc3339(scope["until"])
        for scope in found["missing"]:
            # Which scopes exist is not everybody's to know.
            if scope["reason"] == Reason.UNKNOWN_SCOPE and not g.caller.has(_SERVICES):
                scope["reason"] = Reason.NOT_GRANTED.value
                scope["message"] = "The scope is not granted to the account."
        return found
