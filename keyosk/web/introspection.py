"""Introspection and revocation of a single token."""

from flask import Response, g

from keyosk.credentials.authentication import caller_of
from keyosk.errors import InvalidGrant, InvalidRequest
from keyosk.model import Caller
from keyosk.permissions import entitlements
from keyosk.web import access, access_log, client_authentication, parameters
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import change_response, json_response
from keyosk.web.standard_schemas import IntrospectionSchema, TokenQuestion, TokenRevokedSchema

_AS = (parameters.FORM, "application/json")


class _AboutToken(Endpoint):
    def _requested(self) -> tuple[Caller, str]:
        """Return who asks, and about which token. Raises ``BadCredentials``, ``InvalidRequest``."""
        params = parameters.singles(parameters.body())
        login = client_authentication.login(self.installation, params)
        access_log.note(**access.name_of(login))
        scopes = entitlements.keyosk_scopes(login, int(self.installation.clock()))
        caller = caller_of(login, scopes, frozenset(), address=g.address, request_id=g.request_id)
        if "token" not in params:
            raise InvalidRequest("The parameter token is missing.")
        return caller, params["token"]


class IntrospectResource(_AboutToken):
    """Token introspection (RFC 7662)."""

    @operation(
        body=TokenQuestion, body_types=_AS, response=IntrospectionSchema, raises=(InvalidRequest,)
    )
    def post(self) -> Response:
        """Return the state of a token, to its account and to the services it is for."""
        caller, token = self._requested()
        document = self.installation.inspection.inspect(caller, token)
        response = json_response(
            {"active": False} if document is None else {"active": True, **document}
        )
        response.headers["Pragma"] = "no-cache"
        return response


class RevokeResource(_AboutToken):
    """Token revocation (RFC 7009)."""

    @operation(
        body=TokenQuestion,
        body_types=_AS,
        response=TokenRevokedSchema,
        raises=(InvalidRequest, InvalidGrant),
    )
    def post(self) -> Response:
        """Revoke a token; also 200 if there is nothing to revoke."""
        caller, token = self._requested()
        effective_at = self.installation.inspection.revoke(caller, token)
        # RFC 7009 section 2.2: clients ignore the body. Some expect JSON all the same.
        return change_response({}, effective_at)
