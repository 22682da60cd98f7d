"""Explanations of which token a login would get, and why."""

from collections.abc import Mapping
from typing import Any, Final

from flask import Response, g

from keyosk.errors import BadCredentials, InsufficientScope, Invalid, InvalidScope, NotFound
from keyosk.model import CredentialKind
from keyosk.permissions import entitlements
from keyosk.permissions.entitlements import Reason
from keyosk.times import rfc3339
from keyosk.tokens.explanation import Explanation
from keyosk.tokens.issuing import TokenRequest
from keyosk.web.endpoint import Endpoint
from keyosk.web.explain_schemas import ExplainRequest, ExplanationSchema
from keyosk.web.operations import operation
from keyosk.web.responses import json_response

_READ: Final = "keyosk:accounts:read"
_SERVICES: Final = "keyosk:services:read"
_SENTENCES: Final[Mapping[Reason, str]] = {
    Reason.NOT_GRANTED: "The scope is not granted to the account.",
    Reason.UNKNOWN_SCOPE: "There is no such scope.",
    Reason.PASSWORD_ONLY: "The scope is granted for logins by password only.",
    Reason.WORKLOAD_ONLY: "The scope is granted for logins by a workload's token only.",
    Reason.API_KEY_ONLY: "The scope is granted for logins by API key only.",
    Reason.KEY_LIMITED: "The API key is limited to other scopes.",
    Reason.SERVICE_DISABLED: "Its service is disabled.",
    Reason.CREDENTIAL_NOT_ACCEPTED: "Its service does not accept tokens for this kind of login.",
    Reason.EXPIRED: "The grant has expired.",
    Reason.ON_REQUEST_ONLY: "Its service must be requested by audience or scope.",
    Reason.OTHER_FORMAT: "Its service has another typ or signing_algorithm: request its audience.",
    Reason.OTHER_AUDIENCE: "It belongs to an audience that was not requested.",
    Reason.REFRESH_REFUSED: "A service of the audience does not allow refresh tokens.",
    Reason.ACCOUNT_DISABLED: "The account is disabled.",
    Reason.ACCOUNT_EXPIRED: "The account has expired.",
    Reason.KEY_DISABLED: "The API key is disabled.",
    Reason.KEY_EXPIRED: "The API key has expired.",
    Reason.NO_PASSWORD: "The account has no password.",
}


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
            explanation = self.installation.explainer.explain(
                account,
                token_request,
                api_key_id=api_key,
                by_workload=fields.get("credential") == CredentialKind.WORKLOAD,
            )
        except InvalidScope as error:  # a malformed scope parameter
            explanation = Explanation(None, error, None, (), {})
        return json_response(self._shape(explanation))

    def _account(self, reference: str | None) -> str:
        """Return the id of the account: the caller's own, or with the scope any."""
        own: str = g.caller.account_id
        if reference is None:
            return own
        try:
            account_id = self.installation.accounts.get(reference).id
        except NotFound:
            account_id = ""
        # SECURITY: a caller who may not see accounts must not learn which exist.
        if account_id != own and not g.caller.has(_READ):
            raise InsufficientScope(_READ)
        return account_id or reference

    def _shape(self, explanation: Explanation) -> dict[str, Any]:
        shape: dict[str, Any] = {"granted": explanation.preview is not None}
        if explanation.error is not None:
            shape["error"] = explanation.error.code
            shape["error_description"] = explanation.error.detail
        if explanation.reason is not None:
            shape["error"] = "invalid_client"
            shape["reason"] = explanation.reason.value
            shape["message"] = _SENTENCES[explanation.reason]
            shape["error_description"] = BadCredentials().detail  # as for a wrong secret
        if explanation.preview is not None:
            shape["claims"] = dict(explanation.preview.claims)
            shape["size"] = explanation.preview.size
        shape["scopes"] = [
            {
                "name": entitlement.scope,
                "through": entitlement.role or "grant",
                "until": None if entitlement.until is None else rfc3339(entitlement.until),
            }
            for entitlement in explanation.granted
        ]
        shape["missing"] = [
            {"name": name, "reason": reason.value, "message": _SENTENCES[reason]}
            for name, reason in self._visible(explanation.missing).items()
        ]
        return shape

    def _visible(self, missing: Mapping[str, Reason]) -> dict[str, Reason]:
        # SECURITY: a caller who may not see services must not learn which scopes exist.
        hidden = not g.caller.has(_SERVICES)
        return {
            name: Reason.NOT_GRANTED if hidden and reason is Reason.UNKNOWN_SCOPE else reason
            for name, reason in missing.items()
        }
