"""Shapes that standards define: errors, the token endpoint, key sets.

They describe and are held against the answers by tests; nothing is loaded or dumped with them, as
the token path would have to wait for it.
"""

from typing import Final

from marshmallow import EXCLUDE, fields, validate

from keyosk.web.errors import OAUTH_CODES, OAUTH_STATUS_CODES
from keyosk.web.fields import Flag, Object, Text, Time, Whole
from keyosk.web.schemas import ResponseSchema, StrictSchema

#: What a token can be answered as.
FORMATS: Final = ("json", "token", "header")


class FaultSchema(ResponseSchema):
    """One thing that is wrong with one field."""

    field = Text()
    message = Text()


class ProblemSchema(ResponseSchema):
    """What went wrong (RFC 9457). Programs go by ``code``, which is stable."""

    optional_fields = frozenset({"errors"})

    type = Text()
    title = Text()
    status = Whole()
    detail = Text()
    code = Text()
    errors = fields.List(fields.Nested(FaultSchema))
    request_id = Text()


class OAuthErrorSchema(ResponseSchema):
    """What went wrong at an OAuth address (RFC 6749 section 5.2)."""

    error = Text(
        validate=validate.OneOf(
            sorted({"invalid_request", *OAUTH_CODES.values(), *OAUTH_STATUS_CODES.values()})
        )
    )
    error_description = Text()


class TokenRequestSchema(StrictSchema):
    """The parameters of a token request; those that nobody knows are ignored."""

    class Meta:
        unknown = EXCLUDE

    grant_type = Text(
        validate=validate.OneOf(
            [
                *("client_credentials", "refresh_token"),
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ]
        )
    )
    client_id = Text()
    client_secret = Text()
    refresh_token = Text()
    subject_token = Text()
    subject_token_type = Text()
    requested_token_type = Text()
    audience = fields.List(Text())
    resource = fields.List(Text())
    service = Text()
    scope = Text()
    lifetime = Whole(validate=validate.Range(min=1))
    format = Text(validate=validate.OneOf(FORMATS))


class TokenSchema(ResponseSchema):
    """A token (RFC 6749 section 5.1)."""

    optional_fields = frozenset(
        {
            *("api_key_successor", "api_key_expires_at", "refresh_token", "issued_token_type"),
            *("token", "issued_at"),
        }
    )

    access_token = Text()
    token = Text()
    issued_at = Time()
    refresh_token = Text()
    issued_token_type = Text()
    token_type = Text(validate=validate.Equal("Bearer"))
    expires_in = Whole()
    scope = Text()
    api_key_successor = Text()
    api_key_expires_at = Time()


class RevocationsQuery(StrictSchema):
    """Which part of the revocations is asked for."""

    since = Whole()


class RevocationSchema(ResponseSchema):
    """One revocation: tokens whose claim (or ``kid``) is this must not be accepted."""

    optional_fields = frozenset({"jti", "sub", "key_id", "aud", "kid", "issued_before"})

    jti = Text()
    sub = Text()
    key_id = Text()
    aud = Text()
    kid = Text()
    issued_before = Whole()
    expires = Whole()


class RevocationsSchema(ResponseSchema):
    """The revocations in force, those with sequence numbers above ``since``."""

    sequence = Whole()
    since = Whole()
    entries = fields.List(fields.Nested(RevocationSchema))


class RevokedSchema(ResponseSchema):
    """When no verifier accepts any of the tokens any more, even one that never polls."""

    effective_at_latest = Time()


class SessionSchema(ResponseSchema):
    """A refresh session: a login that goes on without its secret."""

    id = Text()
    credential = Text()
    api_key_id = Text(allow_none=True)
    audiences = fields.List(Text())
    scopes = fields.List(Text())
    address = Text(allow_none=True)
    created_at = Time()
    last_used_at = Time(attribute="rotated_at")
    expires_at = Time()


class TokenQuestion(StrictSchema):
    """A token that is asked about or to be revoked (RFC 7662 section 2.1, RFC 7009 section 2.1)."""

    class Meta:
        unknown = EXCLUDE

    token = Text(required=True)
    token_type_hint = Text()
    client_id = Text()
    client_secret = Text()


class IntrospectionSchema(ResponseSchema):
    """What a token is (RFC 7662 section 2.2); of one that is not active, only that."""

    optional_fields = frozenset(
        {
            *("scope", "client_id", "username", "token_type", "exp", "iat", "sub", "aud", "iss"),
            *("jti", "key_id", "act"),
        }
    )

    active = Flag()
    scope = Text()
    client_id = Text()
    username = Text()
    token_type = Text(validate=validate.Equal("Bearer"))
    exp = Whole()
    iat = Whole()
    sub = Text()
    aud = fields.List(Text())
    iss = Text()
    jti = Text()
    key_id = Text()
    act = Object()


class JwksQuery(StrictSchema):
    """Who fetches the keys, and in which form."""

    service = Text()
    format = Text(validate=validate.OneOf(["jwk", "pem"]))


class JwkSchema(ResponseSchema):
    """A public key (RFC 7517); the numbers depend on ``kty``."""

    optional_fields = frozenset({"crv", "x", "y", "n", "e", "pub"})

    kid = Text()
    use = Text(validate=validate.Equal("sig"))
    alg = Text()
    kty = Text(validate=validate.OneOf(["EC", "RSA", "OKP", "AKP"]))
    crv = Text()
    x = Text()
    y = Text()
    n = Text()
    e = Text()
    pub = Text()


class JwkSetSchema(ResponseSchema):
    """The keys that verify tokens, the one that signs now first."""

    keys = fields.List(fields.Nested(JwkSchema))


class MetadataSchema(ResponseSchema):
    """Where everything is (RFC 8414 section 2), as OpenID Connect Discovery has it too."""

    optional_fields = frozenset(
        {
            "authorization_endpoint",
            "introspection_endpoint",
            "introspection_endpoint_auth_methods_supported",
            "revocation_endpoint",
            "revocation_endpoint_auth_methods_supported",
            "revocations_endpoint",
            "forward_auth_endpoint",
            "scopes_supported",
        }
    )

    issuer = Text()
    authorization_endpoint = Text()
    token_endpoint = Text()
    jwks_uri = Text()
    introspection_endpoint = Text()
    revocation_endpoint = Text()
    service_documentation = Text()
    revocations_endpoint = Text()
    forward_auth_endpoint = Text()
    scopes_supported = fields.List(Text())
    response_types_supported = fields.List(Text())
    grant_types_supported = fields.List(Text())
    token_endpoint_auth_methods_supported = fields.List(Text())
    introspection_endpoint_auth_methods_supported = fields.List(Text())
    revocation_endpoint_auth_methods_supported = fields.List(Text())
    subject_types_supported = fields.List(Text())
    id_token_signing_alg_values_supported = fields.List(Text())


class DocumentSchema(ResponseSchema):
    """A description of an API (OpenAPI 3.1)."""

    openapi = Text()
    info = Object()
    servers = fields.List(Object())
    tags = fields.List(Object())
    paths = Object()
    components = Object()


class StatusSchema(ResponseSchema):
    """That all is well."""

    status = Text(validate=validate.Equal("ok"))


class ExplainRequest(StrictSchema):
    """A token request that is to be explained."""

    account = Text()
    credential = Text(validate=validate.OneOf(["password", "api_key"]))
    api_key = Text()
    audience = fields.List(Text(), validate=validate.Length(max=100))
    scope = Text()
    lifetime = Whole(validate=validate.Range(min=1))


class ExplainedScopeSchema(ResponseSchema):
    """A scope of the token, and what gives it: ``grant`` or a role."""

    name = Text()
    through = Text()
    until = Time(allow_none=True)


class MissingScopeSchema(ResponseSchema):
    """A scope that the token would lack, and why."""

    name = Text()
    reason = Text()
    message = Text()


class ExplanationSchema(ResponseSchema):
    """What a token request would end in."""

    optional_fields = frozenset({"error", "error_description", "reason", "claims", "size"})

    granted = Flag()
    error = Text()
    error_description = Text()
    reason = Text()
    claims = Object()
    size = Whole()
    scopes = fields.List(fields.Nested(ExplainedScopeSchema))
    missing = fields.List(fields.Nested(MissingScopeSchema))
