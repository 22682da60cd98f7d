"""/auth/forward: a reverse proxy asks whether a request may pass, and gets a token for it.

Proxies understand three statuses: 200, 401 and 403. Malformed requests get one of the last two.
A CORS preflight, which has no login, may pass without one where the service allows it.
"""

import io
from typing import Any, Final
from urllib.parse import quote

from flask import Request, Response

from keyosk.errors import BadToken, Forbidden, InvalidRequest, InvalidScope, Throttled
from keyosk.permissions import entitlements
from keyosk.tokens.issuing import IssuedToken
from keyosk.web import access, access_log, authorization
from keyosk.web.current import current_g
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import WholeResponse

PATH: Final = "/auth/forward"
_BELOW: Final = f"{PATH}/"
#: In the WSGI environ: the response is for a proxy, which may send it on in another host's name.
FOR_PROXY: Final = "keyosk.for_proxy"
_SERVICE: Final = "X-Keyosk-Service"
_SCOPE: Final = "X-Keyosk-Require-Scope"
_METHOD: Final = "X-Forwarded-Method"
#: How a proxy may ask about a preflight: its method, and the value of the header.
_PREFLIGHTS: Final = (("OPTIONS",), ("OPTIONS", "OPTIONS"))
#: The same if the URL says that the proxy writes the header.
_FORWARDED_PREFLIGHTS: Final = (("GET", "OPTIONS"), ("OPTIONS", "OPTIONS"))


def prepare(environ: dict[str, Any]) -> None:
    """Normalise a request of a proxy to this endpoint, so that a route matches it.

    Proxies copy the method of the request that they ask about, and Envoy adds its path and query.
    ``environ``: that of WSGI (PEP 3333). It gets ``FOR_PROXY``.
    """
    path: str = environ["PATH_INFO"]
    if path != PATH and not path.startswith(_BELOW):
        return
    environ[FOR_PROXY] = True
    if environ["REQUEST_METHOD"] != "HEAD":
        # SECURITY: elsewhere OPTIONS succeeds without a login, which a proxy would take for a yes.
        environ["REQUEST_METHOD"] = "GET"
    # What the request itself carries is not for us.
    environ["wsgi.input"] = io.BytesIO()
    environ["CONTENT_LENGTH"] = "0"
    service = path[len(PATH) + 1 :].partition("/")[0]
    environ["PATH_INFO"] = f"{PATH}/{service}" if service else PATH
    if path != PATH:
        # SECURITY: here the query is the client's, and must not choose the service or the scopes.
        environ["QUERY_STRING"] = ""


class ForwardResource(Endpoint):
    """Forward authentication."""

    # Proxies copy the client's preconditions, which are meant for the service.
    conditional = False

    @operation(status=200, raises=(BadToken, Forbidden))
    def get(self, service: str | None = None) -> Response:
        """Check whether a login, or a Bearer token of the service, may use a service.

        If the service accepts workloads, the Bearer token may be one of a trusted issuer.

        The service is named by the path, by ``service`` in the query or by ``X-Keyosk-Service``.
        ``scope`` in the query and ``X-Keyosk-Require-Scope`` name required scopes. The response
        has the headers ``Authorization``, ``X-Keyosk-Account`` and ``X-Keyosk-Scope``. Any method
        works. A CORS preflight passes without a login, and without these headers, where
        the service has ``cors_preflight``: the method is ``OPTIONS``, or the query has
        ``method=X-Forwarded-Method`` and that header is ``OPTIONS``.
        """
        try:
            request = self.request
            wanted, required, forwarded = _requested(request, service)
            services = self.installation.services
            if _is_preflight(request, forwarded) and services.passes_preflights(wanted):
                return _Allowed(b"")
            issued = self._issued(wanted, required)
        except (InvalidRequest, InvalidScope, Throttled) as error:
            raise Forbidden(error.detail) from None  # proxies take any other status for a failure
        access_log.note(**access.name_of(issued.principal), jti=issued.token.id)
        response = _Allowed(b"")
        # SECURITY: all three are always present and not empty, so that a proxy that copies them
        # replaces those that the client sent.
        response.headers["Authorization"] = f"Bearer {issued.token.text}"
        response.headers["X-Keyosk-Account"] = quote(issued.principal.username, safe="@")
        response.headers["X-Keyosk-Scope"] = issued.token.scope
        return response

    def _issued(self, service: str, required: tuple[str, ...]) -> IssuedToken:
        issuer = self.installation.token_issuer
        token = authorization.credentials().token
        if token is not None:
            context = current_g()
            return issuer.for_proxy_by_token(
                token,
                service,
                required=required,
                address=context.address,
                request_id=context.request_id,
            )
        return issuer.for_proxy(access.login(self.installation), service, required=required)


class _Allowed(WholeResponse):
    """A successful response, without a body and a type."""

    default_mimetype = None


def _is_preflight(request: Request, forwarded: bool) -> bool:
    """Return whether a proxy asks about a CORS preflight (Fetch standard) without a login.

    Proxies copy its method, or ask by GET and write it into ``X-Forwarded-Method``; ``forwarded``:
    the address says that this one writes it.
    SECURITY: a proxy that does not write that header passes a client's own on, so the header alone
    makes nothing a preflight. If the two methods do not fit, or there are several, it is an
    ordinary request.
    """
    headers = request.headers
    if authorization.credentials().scheme is not None:
        return False  # browsers send none with a preflight, so a login is verified
    if not headers.get("Origin") or not headers.get("Access-Control-Request-Method"):
        return False
    methods = (request.environ[access_log.METHOD], *headers.getlist(_METHOD))
    return methods in (_FORWARDED_PREFLIGHTS if forwarded else _PREFLIGHTS)


def _requested(request: Request, named: str | None) -> tuple[str, tuple[str, ...], bool]:
    """Return the service, the required scopes, and whether the proxy writes ``X-Forwarded-Method``.

    Raises ``Forbidden``, ``InvalidScope``.

    What is missing is refused only after the login, which comes first: such a service is "".
    """
    query = dict(request.args.lists())
    scope = query.pop("scope", None)
    services = query.pop("service", [])
    method = query.pop("method", None)
    # SECURITY: a misspelt parameter or an empty variable must not require less.
    if query or scope == [""] or len(scope or ()) > 1:
        raise Forbidden("The query may have only service and scope, each once and with a value.")
    if method not in (None, [_METHOD]):
        raise Forbidden(f"In the query, method may only be {_METHOD}.")
    names = {*services, request.headers.get(_SERVICE, ""), named or ""} - {""}
    if len(names) > 1 or (services and services != [*filter(None, services)]):
        raise Forbidden("The URL and the header name different services.")
    required = entitlements.parse_scope(scope[0]) if scope else ()
    # A header can only add scopes, so one that the client sent removes nothing.
    added = request.headers.get(_SCOPE)
    if added is not None:
        required += entitlements.parse_scope(added)
    return next(iter(names), ""), required, method is not None
