"""Metadata for OAuth and OpenID libraries; it requires no database.

RFC 8414, and OpenID Connect Discovery 1.0 for clients that know only that: Keyosk has no login
pages and no ID tokens, so the authorization endpoint refuses every request.
"""

from collections.abc import Iterable
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from flask import Response, current_app
from marshmallow import validate

from keyosk.model import COMMON_ALGORITHMS
from keyosk.web import addresses
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import json_response, public_response
from keyosk.web.route import Route
from keyosk.web.standard_schemas import MetadataSchema, TokenRequestSchema

#: The paths of the document (RFC 8414 section 3, OpenID Connect Discovery 1.0 section 4).
DOCUMENTS: Final = (
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
)
#: The name of the ``Metadata`` among the application's extensions.
EXTENSION: Final = "keyosk.metadata"
#: The path of each member, which is present if the path exists. The last two are Keyosk's own.
_ENDPOINTS: Final = {
    "authorization_endpoint": "/auth/authorize",
    "token_endpoint": "/auth/token",
    "jwks_uri": "/.well-known/jwks.json",
    "introspection_endpoint": "/auth/introspect",
    "revocation_endpoint": "/auth/revoke",
    "service_documentation": "/docs",
    "revocations_endpoint": "/auth/revocations",
    "forward_auth_endpoint": "/auth/forward",
}
_WITH_LOGIN: Final = ("token_endpoint", "introspection_endpoint", "revocation_endpoint")
_LOGINS: Final = ["client_secret_basic", "client_secret_post"]


def aliases(path: str, issuer: str) -> tuple[str, ...]:
    """Return the further paths of a document if the issuer has a path.

    RFC 8414 section 3.1 appends the issuer's path to the well-known one, and a proxy forwards that.
    """
    below = unquote(urlsplit(issuer).path).rstrip("/")
    # In a rule of Werkzeug, < begins a variable and cannot be escaped.
    is_plain = bool(below) and "<" not in below
    return (f"{path}{below}",) if is_plain and path in DOCUMENTS else ()


class Metadata:
    """The document of an application, built from its routes and its issuer."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.document = _document({route.path for route in routes})


def _document(paths: set[str]) -> dict[str, Any]:
    endpoints = {name: addresses.url(path) for name, path in _ENDPOINTS.items() if path in paths}
    grant_types = _grant_types()
    document: dict[str, Any] = {
        "issuer": addresses.url(""),
        **endpoints,
        "grant_types_supported": grant_types,
        # Required and not empty (RFC 8414 sections 2 and 3.2). This is the registered type without
        # a result, so that no client believes that the code flow is supported.
        "response_types_supported": ["none"],
        **{f"{name}_auth_methods_supported": _LOGINS for name in _WITH_LOGIN if name in endpoints},
        # Required by OpenID Connect Discovery, section 3.
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": sorted(COMMON_ALGORITHMS),
    }
    if "refresh_token" in grant_types:
        # The scopes of services are not public.
        document["scopes_supported"] = ["offline_access"]
    return document


def _grant_types() -> list[str]:
    """Return the grant types that the token endpoint declares."""
    rule = TokenRequestSchema().fields["grant_type"].validate
    assert isinstance(rule, validate.OneOf)
    return list(rule.choices)


class MetadataResource(Endpoint):
    """The metadata of the authorization server (RFC 8414 section 3)."""

    @operation(response=MetadataSchema, has_etag=True)
    def get(self) -> Response:
        """Return the endpoints and what they support."""
        metadata = cast(Metadata, current_app.extensions[EXTENSION])
        return public_response(json_response(metadata.document))
