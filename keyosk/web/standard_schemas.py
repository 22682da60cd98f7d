"""Shapes that standards define: errors, the token endpoint, key sets.

They describe, and tests compare them with responses; nothing is loaded or dumped with them,
because the token path would have to wait for it.
"""

from typing import Final

from marshmallow import EXCLUDE, fields, validate

from keyosk.model import COMMON_ALGORITHMS, SIGNING_ALGORITHMS, CredentialKind
from keyosk.web.errors import CODES, OAUTH_CODES, OAUTH_STATUS_CODES
from keyosk.web.fields import Flag, Object, Text, Time, Whole, described
from keyosk.web.key_schemas import KID
from keyosk.web.schemas import (
    ACCOUNT_ID,
    API_KEY_ID,
    EFFECTIVE,
    PAST,
    REQUEST_ID,
    ResponseSchema,
    StrictSchema,
)

#: The formats of a token response.
FORMATS: Final = ("json", "token", "header")
_CREDENTIALS: Final = validate.OneOf([kind.value for kind in CredentialKind])
#: A JWT without a meaning, and the seconds of PAST and of a token's life after it.
JWT: Final = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2lnbmF0dXJl"
_ISSUED: Final = 1769860800
_ENDED: Final = 1769861700
_ISSUER: Final = "https://keyosk.example.com"
_LOGINS: Final = ["client_secret_basic", "client_secret_post"]
_AUDIENCE: Final = "https://todo.example.com"


class FaultSchema(ResponseSchema):
    """A fault in one field of a request."""

    field = Text(metadata=described("The name of the field.", "username"))
    message = Text(
        metadata=described("What is wrong with it.", "Another account already has this username.")
    )


class ProblemSchema(ResponseSchema):
    """An error (RFC 9457). Programs should go by ``code``, which is stable."""

    optional_fields = frozenset({"errors"})

    type = Text(metadata=described("Always `about:blank`.", "about:blank"))
    title = Text(metadata=described("The name of the HTTP status.", "Conflict"))
    status = Whole(metadata=described("The HTTP status.", 409))
    detail = Text(
        metadata=described(
            "What went wrong, for people.", "Another account already has this username."
        )
    )
    code = Text(
        metadata=described(
            "What went wrong, for programs: " + ", ".join(f"`{code}`" for code in CODES) + ".",
            "conflict",
        )
    )
    errors = fields.List(
        fields.Nested(FaultSchema), metadata=described("The faults, if fields are at fault.")
    )
    request_id = Text(metadata=described("The `X-Request-Id` of the response.", REQUEST_ID))


class OAuthErrorSchema(ResponseSchema):
    """An error of an OAuth endpoint (RFC 6749 section 5.2)."""

    error = Text(
        validate=validate.OneOf(
            sorted({"invalid_request", *OAUTH_CODES.values(), *OAUTH_STATUS_CODES.values()})
        ),
        metadata=described("What went wrong, for programs.", "invalid_scope"),
    )
    error_description = Text(
        metadata=described(
            "What went wrong, for people.",
            "This login does not hold these scopes for the requested audience: billing:read",
        )
    )


class TokenRequestSchema(StrictSchema):
    """The parameters of a token request; unknown ones are ignored."""

    class Meta:
        unknown = EXCLUDE

    grant_type = Text(
        validate=validate.OneOf(
            [
                *("client_credentials", "refresh_token"),
                "urn:ietf:params:oauth:grant-type:token-exchange",
                "urn:ietf:params:oauth:grant-type:jwt-bearer",
            ]
        ),
        metadata=described("The grant type; `client_credentials` by default."),
    )
    client_id = Text(metadata=described("The username of the account that logs in."))
    client_secret = Text(
        metadata=described(
            "The password or an API key of the `client_id`; accepted in a form body only."
        )
    )
    assertion = Text(
        metadata=described(
            "With the jwt-bearer grant type: a workload's token, signed by a trusted issuer (RFC "
            "7523). It is the login; send no other."
        )
    )
    client_assertion = Text(
        metadata=described("The same, for clients that send it so (RFC 7523 section 2.2).")
    )
    client_assertion_type = Text(
        metadata=described(
            "With `client_assertion`: `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`."
        )
    )
    refresh_token = Text(
        metadata=described("With `grant_type=refresh_token`: the refresh token; it works once.")
    )
    subject_token = Text(
        metadata=described("With the token-exchange grant type: the token to exchange (RFC 8693).")
    )
    subject_token_type = Text(
        metadata=described(
            "With `subject_token`: `urn:ietf:params:oauth:token-type:access_token` or "
            "`urn:ietf:params:oauth:token-type:jwt`. For a workload's token, which needs no login: "
            "`urn:ietf:params:oauth:token-type:id_token` or `urn:ietf:params:oauth:token-type:jwt`."
        )
    )
    requested_token_type = Text(
        metadata=described("With `subject_token`: the same values; both give an access token.")
    )
    audience = fields.List(
        Text(),
        metadata=described(
            "Names or audiences of services; by default every service whose scopes the account "
            "holds, except services with `on_request_only`.",
            ["todo"],
        ),
    )
    resource = fields.List(Text(), metadata=described("The same as `audience` (RFC 8707)."))
    service = Text(
        metadata=described("In a GET request: the container registry that the token is for.")
    )
    scope = Text(
        metadata=described(
            "Space-separated scopes; by default all that the account holds for the audience.",
            "todo:read",
        )
    )
    lifetime = Whole(
        validate=validate.Range(min=1),
        metadata=described("The lifetime of the token in seconds, if it should be shorter.", 300),
    )
    format = Text(
        validate=validate.OneOf(FORMATS),
        metadata=described(
            "`json`: the response of RFC 6749; `token`: the JWT alone; `header`: a line for "
            "`curl -H @-`."
        ),
    )


class TokenSchema(ResponseSchema):
    """A token (RFC 6749 section 5.1)."""

    optional_fields = frozenset(
        {
            *("api_key_successor", "api_key_expires_at", "refresh_token", "issued_token_type"),
            *("token", "issued_at"),
        }
    )

    access_token = Text(metadata=described("The access token, a JWT (RFC 9068).", JWT))
    token = Text(metadata=described("The same token, for clients of container registries."))
    issued_at = Time(
        metadata=described("When the token was issued, for clients of container registries.")
    )
    refresh_token = Text(
        metadata=described(
            "A refresh token, if the request has the scope `offline_access`; it works once."
        )
    )
    issued_token_type = Text(
        metadata=described(
            "After a token exchange: `urn:ietf:params:oauth:token-type:access_token`."
        )
    )
    token_type = Text(
        validate=validate.Equal("Bearer"), metadata=described("Always `Bearer`.", "Bearer")
    )
    expires_in = Whole(metadata=described("The lifetime of the token in seconds.", 300))
    scope = Text(metadata=described("The space-separated scopes of the token.", "todo:read"))
    api_key_successor = Text(
        metadata=described("The id of the key that replaces the API key that was used.")
    )
    api_key_expires_at = Time(metadata=described("When the API key that was used stops working."))


class RevocationsQuery(StrictSchema):
    """Which revocations to return."""

    since = Whole(
        metadata=described(
            "The `sequence` of the document that the caller has: only newer revocations are "
            "returned.",
            0,
        )
    )


class RevocationSchema(ResponseSchema):
    """A revocation: tokens with this claim, or this ``kid``, must not be accepted."""

    optional_fields = frozenset({"jti", "sub", "key_id", "aud", "kid", "issued_before"})

    jti = Text(metadata=described("The `jti` of the token."))
    sub = Text(metadata=described("The `sub` of the tokens: the id of an account.", ACCOUNT_ID))
    key_id = Text(metadata=described("The `key_id` of the tokens: the id of an API key."))
    aud = Text(metadata=described("The `aud` of the tokens."))
    kid = Text(metadata=described("The `kid` in the header of the tokens."))
    issued_before = Whole(
        metadata=described(
            "Only tokens whose `iat` is smaller are revoked; if it is absent, all are.", _ISSUED
        )
    )
    expires = Whole(
        metadata=described("When the last of these tokens expires, in seconds since 1970.", _ENDED)
    )


class RevocationsSchema(ResponseSchema):
    """The revocations in force whose sequence number is above ``since``."""

    sequence = Whole(metadata=described("The number to send as `since` with the next request.", 17))
    since = Whole(metadata=described("The `since` of the request; 0 for all revocations.", 0))
    entries = fields.List(
        fields.Nested(RevocationSchema), metadata=described("The revocations, oldest first.")
    )


class RevokedSchema(ResponseSchema):
    """When the last service stops accepting the revoked tokens."""

    effective_at_latest = Time(
        metadata=described(
            "From this time on, no service accepts any of the tokens, even if it never polls "
            "revocations.",
            PAST,
        )
    )


class TokenRevokedSchema(RevokedSchema):
    """When the last service stops accepting the token; empty if there was nothing to revoke."""

    optional_fields = EFFECTIVE


class TokenQuestion(StrictSchema):
    """A token to introspect (RFC 7662 section 2.1) or to revoke (RFC 7009 section 2.1)."""

    class Meta:
        unknown = EXCLUDE

    token = Text(required=True, metadata=described("The token.", JWT))
    token_type_hint = Text(metadata=described("Ignored: the token shows its type."))
    client_id = Text(metadata=described("The username of the account that logs in."))
    client_secret = Text(
        metadata=described(
            "The password or an API key of the `client_id`; accepted in a form body only."
        )
    )


class IntrospectionSchema(ResponseSchema):
    """The state of a token (RFC 7662 section 2.2); only ``active`` if it is not active."""

    optional_fields = frozenset(
        {
            *("scope", "client_id", "username", "token_type", "exp", "iat", "sub", "aud", "iss"),
            *("jti", "key_id", "act"),
        }
    )

    active = Flag(
        metadata=described(
            "Whether the token is valid now and the caller is allowed to know about it.", True
        )
    )
    scope = Text(metadata=described("The space-separated scopes of the token.", "todo:read"))
    client_id = Text(metadata=described("The username of the account.", "alice"))
    username = Text(metadata=described("The username of the account.", "alice"))
    token_type = Text(
        validate=validate.Equal("Bearer"), metadata=described("Always `Bearer`.", "Bearer")
    )
    exp = Whole(metadata=described("When the token expires, in seconds since 1970.", _ENDED))
    iat = Whole(metadata=described("When it was issued, in seconds since 1970.", _ISSUED))
    sub = Text(metadata=described("The id of the account.", ACCOUNT_ID))
    aud = fields.List(Text(), metadata=described("The audiences of the token.", [_AUDIENCE]))
    iss = Text(metadata=described("The issuer of the token.", _ISSUER))
    jti = Text(metadata=described("The id of the token.", API_KEY_ID))
    key_id = Text(metadata=described("The id of the API key that the token was issued for."))
    act = Object(metadata=described("After a token exchange: who acts (RFC 8693 section 4.1)."))


class JwksQuery(StrictSchema):
    """Who fetches the keys, and in which format."""

    service = Text(
        metadata=described(
            "The name of the service that fetches: a rotation can wait for it.", "todo"
        )
    )
    format = Text(
        validate=validate.OneOf(["jwk", "pem"]),
        metadata=described("`pem`: only the key that signs now, as PEM.", "jwk"),
    )


class JwkSchema(ResponseSchema):
    """A public key (RFC 7517); its parameters depend on ``kty``."""

    optional_fields = frozenset({"crv", "x", "y", "n", "e", "pub"})

    kid = Text(metadata=described("The RFC 7638 thumbprint.", KID))
    use = Text(validate=validate.Equal("sig"), metadata=described("Always `sig`.", "sig"))
    alg = Text(
        metadata=described(
            "The algorithm that the key signs with.",
            "ES256",
            enum=SIGNING_ALGORITHMS,
        )
    )
    kty = Text(
        validate=validate.OneOf(["EC", "RSA", "OKP", "AKP"]),
        metadata=described("The type of the key.", "EC"),
    )
    crv = Text(metadata=described("EC and OKP: the curve.", "P-256"))
    x = Text(
        metadata=described(
            "EC and OKP: the x coordinate.", "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
        )
    )
    y = Text(
        metadata=described("EC: the y coordinate.", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")
    )
    n = Text(metadata=described("RSA: the modulus."))
    e = Text(metadata=described("RSA: the public exponent."))
    pub = Text(metadata=described("AKP: the public key (RFC 9964)."))


class JwkSetSchema(ResponseSchema):
    """The keys that verify tokens; the one that signs now comes first."""

    keys = fields.List(fields.Nested(JwkSchema), metadata=described("The keys."))


class MetadataSchema(ResponseSchema):
    """The endpoints and what they support (RFC 8414 section 2, OpenID Connect Discovery)."""

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

    issuer = Text(metadata=described("The `iss` of every token.", _ISSUER))
    authorization_endpoint = Text(
        metadata=described(
            "An endpoint that refuses every request: there are no login pages.",
            f"{_ISSUER}/auth/authorize",
        )
    )
    token_endpoint = Text(metadata=described("Issues tokens.", f"{_ISSUER}/auth/token"))
    jwks_uri = Text(metadata=described("The keys.", f"{_ISSUER}/.well-known/jwks.json"))
    introspection_endpoint = Text(
        metadata=described("Introspects tokens.", f"{_ISSUER}/auth/introspect")
    )
    revocation_endpoint = Text(metadata=described("Revokes a token.", f"{_ISSUER}/auth/revoke"))
    service_documentation = Text(
        metadata=described("The documentation of the API.", f"{_ISSUER}/docs")
    )
    revocations_endpoint = Text(
        metadata=described("The revocations to poll.", f"{_ISSUER}/auth/revocations")
    )
    forward_auth_endpoint = Text(
        metadata=described("Forward authentication for proxies.", f"{_ISSUER}/auth/forward")
    )
    scopes_supported = fields.List(
        Text(),
        metadata=described("The scopes that belong to no service.", ["offline_access"]),
    )
    response_types_supported = fields.List(
        Text(), metadata=described("`none`: there are no login pages.", ["none"])
    )
    grant_types_supported = fields.List(
        Text(),
        metadata=described(
            "The grant types of the token endpoint.",
            [
                *("client_credentials", "refresh_token"),
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ],
        ),
    )
    token_endpoint_auth_methods_supported = fields.List(
        Text(), metadata=described("How to log in at the token endpoint.", _LOGINS)
    )
    introspection_endpoint_auth_methods_supported = fields.List(
        Text(), metadata=described("How to log in at the introspection endpoint.", _LOGINS)
    )
    revocation_endpoint_auth_methods_supported = fields.List(
        Text(), metadata=described("How to log in at the revocation endpoint.", _LOGINS)
    )
    subject_types_supported = fields.List(
        Text(), metadata=described("`public`: a `sub` is the same for all services.", ["public"])
    )
    id_token_signing_alg_values_supported = fields.List(
        Text(),
        metadata=described("The algorithms that sign tokens.", sorted(COMMON_ALGORITHMS)),
    )


class IndexSchema(ResponseSchema):
    """Where to go from the root."""

    optional_fields = frozenset({"version"})

    name = Text(metadata=described("Always `Keyosk`.", "Keyosk"))
    version = Text(metadata=described("The version, if it may be known.", "1.0.0"))
    issuer = Text(metadata=described("The `iss` of every token.", _ISSUER))
    links = Object(metadata=described("The main URLs, by name.", {"docs": f"{_ISSUER}/docs"}))


class DocumentSchema(ResponseSchema):
    """A description of an API (OpenAPI 3.1)."""

    openapi = Text(metadata=described("The version of OpenAPI.", "3.1.0"))
    info = Object(
        metadata=described("The title and the version.", {"title": "Keyosk", "version": "1.0.0"})
    )
    servers = fields.List(Object(), metadata=described("Base URLs.", [{"url": _ISSUER}]))
    tags = fields.List(Object(), metadata=described("Groups of operations.", []))
    paths = Object(metadata=described("The operations by path.", {}))
    components = Object(metadata=described("The parts that operations refer to.", {}))


class StatusSchema(ResponseSchema):
    """A sign that all is well."""

    status = Text(validate=validate.Equal("ok"), metadata=described("Always `ok`.", "ok"))
