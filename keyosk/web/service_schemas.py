"""The shapes of services and their scopes."""

from typing import Any, ClassVar, Final

from marshmallow import fields

from keyosk.model import SIGNING_ALGORITHMS, TOKEN_TYPES, Exchange, Scope
from keyosk.web.fields import Accepts, Flag, Text, Time, Whole, described
from keyosk.web.schemas import (
    CREATED,
    EFFECTIVE,
    EFFECTIVE_AT,
    ID,
    NAMES,
    UPDATED,
    Example,
    NamedSchema,
    ResponseSchema,
    StrictSchema,
)

# --- Scopes and exchanges -------------------------------------------------------------------------

_SCOPE: Final = {"name": "todo:read", "description": "Read the list."}
_OTHER_SCOPE: Final = {"name": "todo:write", "description": "Change the list."}
_SCOPE_NAME: Final = described("The name, unique in the installation.", _SCOPE["name"])
_SCOPE_DESCRIPTION: Final = described("What the scope permits.", _SCOPE["description"])
_EXCHANGE: Final = {"service": "billing", "scopes": ["billing:read"]}
_TO: Final = described("The service that the new token is for.", _EXCHANGE["service"])
_ADDED: Final = described(
    "The scopes of that service that the exchange may add to those that the account holds.",
    _EXCHANGE["scopes"],
)


class ScopeSchema(ResponseSchema):
    """A scope of a service."""

    name = Text(metadata=_SCOPE_NAME)
    description = Text(metadata=_SCOPE_DESCRIPTION)


class ScopeNew(NamedSchema):
    """A scope to create or keep; the bare name is accepted as well."""

    name = Text(required=True, metadata=_SCOPE_NAME)
    description = Text(load_default="", metadata=_SCOPE_DESCRIPTION)


class ExchangeSchema(ResponseSchema):
    """A service that tokens for this one may be exchanged for (RFC 8693)."""

    service = Text(metadata=_TO)
    scopes = fields.List(Text(), metadata=_ADDED)


class ExchangeNew(StrictSchema):
    """A service that tokens for this one may be exchanged for (RFC 8693)."""

    service = Text(required=True, metadata=_TO)
    scopes = fields.List(Text(), load_default=list, validate=NAMES, metadata=_ADDED)


# --- Services -------------------------------------------------------------------------------------

_NAME: Final = described("The name, unique among the names and audiences of services.", "todo")
_AUDIENCE: Final = described("The `aud` value of its tokens.", "https://todo.example.com")
_AUDIENCES: Final = described(
    "Other spellings of the audience that requests may use; tokens contain `audience` only.",
    ["https://todo.example.com/"],
)
_TITLE: Final = described("A title for people to read.", "To do")
_DESCRIPTION: Final = described("What the service is for.", "A shared list.")
_CONTACT: Final = described("Whom to ask about the service.", "todo@example.com")
_ENABLED: Final = described("Whether tokens are issued for the service.", True)
_ON_REQUEST_ONLY: Final = described(
    "Whether only a token request that names the service gets a token for it.", False
)
_CORS_PREFLIGHT: Final = described(
    "Whether forward authentication lets CORS preflight requests pass without a login.", False
)
_ACCEPTS: Final = described("The kinds of credentials that the service accepts tokens of.", "both")
_TOKEN_LIFETIME: Final = described(
    "The lifetime of its tokens in seconds; null for the default of the installation.", 600
)
_SIGNING_ALGORITHM: Final = described(
    "The algorithm that signs its tokens; null for the default of the installation.",
    None,
    enum=(*SIGNING_ALGORITHMS, None),
)
_TYP: Final = described(
    "The `typ` header of its tokens; null for the default of the installation.",
    None,
    enum=(*TOKEN_TYPES, None),
)
_REGISTRY_VERSION: Final = described(
    "2 or 3 if the service is a container registry of that version; null if it is not.", None
)
_REFRESH_ALLOWED: Final = described("Whether refresh tokens are issued for the service.", True)
_REFRESH_LIFETIME: Final = described(
    "The lifetime of refresh sessions in seconds; null for the default of the installation.", None
)
_CLAIMS: Final = described(
    "The names of the account claims that its tokens contain.", ["department"]
)
_ACCOUNT: Final = described(
    "The username of the account that acts for the service: it may introspect and exchange tokens "
    "of the service. Null for none.",
    "todo-backend",
)
_EXCHANGES: Final = described("The services that its tokens may be exchanged for.", [_EXCHANGE])
_SCOPES: Final = described("The scopes of the service.", [_SCOPE, _OTHER_SCOPE])


class ServicePatch(StrictSchema):
    """A merge patch of a service."""

    example: ClassVar[Example] = {"token_lifetime": 300, "contact": None}

    name = Text(allow_none=True, metadata=_NAME)
    audience = Text(allow_none=True, metadata=_AUDIENCE)
    audiences = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_AUDIENCES)
    title = Text(allow_none=True, metadata=_TITLE)
    description = Text(allow_none=True, metadata=_DESCRIPTION)
    contact = Text(allow_none=True, metadata=_CONTACT)
    enabled = Flag(allow_none=True, metadata=_ENABLED)
    on_request_only = Flag(allow_none=True, metadata=_ON_REQUEST_ONLY)
    cors_preflight = Flag(allow_none=True, metadata=_CORS_PREFLIGHT)
    accepts = Accepts(allow_none=True, metadata=_ACCEPTS)
    token_lifetime = Whole(allow_none=True, metadata=_TOKEN_LIFETIME)
    signing_algorithm = Text(allow_none=True, metadata=_SIGNING_ALGORITHM)
    typ = Text(allow_none=True, metadata=_TYP)
    registry_version = Whole(allow_none=True, metadata=_REGISTRY_VERSION)
    refresh_allowed = Flag(allow_none=True, metadata=_REFRESH_ALLOWED)
    refresh_lifetime = Whole(allow_none=True, metadata=_REFRESH_LIFETIME)
    claims = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_CLAIMS)
    account = Text(allow_none=True, metadata=_ACCOUNT)
    exchanges = fields.List(
        fields.Nested(ExchangeNew), allow_none=True, validate=NAMES, metadata=_EXCHANGES
    )
    scopes = fields.List(fields.Nested(ScopeNew), validate=NAMES, metadata=_SCOPES)


class ServiceNew(ServicePatch):
    """A service to create."""

    example: ClassVar[Example] = None

    name = Text(required=True, metadata=_NAME)
    audience = Text(metadata=_AUDIENCE)


class ServiceSchema(ResponseSchema):
    """A service."""

    optional_fields = EFFECTIVE

    id = Text(metadata=ID)
    name = Text(attribute="policy.name", metadata=_NAME)
    audience = Text(attribute="policy.audience", metadata=_AUDIENCE)
    audiences = fields.List(Text(), metadata=_AUDIENCES)
    title = Text(metadata=_TITLE)
    description = Text(metadata=_DESCRIPTION)
    contact = Text(metadata=_CONTACT)
    enabled = Flag(attribute="policy.enabled", metadata=_ENABLED)
    on_request_only = Flag(attribute="policy.on_request_only", metadata=_ON_REQUEST_ONLY)
    cors_preflight = Flag(attribute="policy.cors_preflight", metadata=_CORS_PREFLIGHT)
    accepts = Accepts(attribute="policy.accepts", metadata=_ACCEPTS)
    token_lifetime = Whole(
        attribute="policy.token_lifetime", allow_none=True, metadata=_TOKEN_LIFETIME
    )
    signing_algorithm = Text(
        attribute="policy.signing_algorithm", allow_none=True, metadata=_SIGNING_ALGORITHM
    )
    typ = Text(attribute="policy.typ", allow_none=True, metadata=_TYP)
    registry_version = Whole(
        attribute="policy.registry_version", allow_none=True, metadata=_REGISTRY_VERSION
    )
    refresh_allowed = Flag(attribute="policy.refresh_allowed", metadata=_REFRESH_ALLOWED)
    refresh_lifetime = Whole(
        attribute="policy.refresh_lifetime", allow_none=True, metadata=_REFRESH_LIFETIME
    )
    claims = fields.List(Text(), attribute="policy.claims", metadata=_CLAIMS)
    account = Text(allow_none=True, metadata=_ACCOUNT)
    exchanges = fields.List(fields.Nested(ExchangeSchema), metadata=_EXCHANGES)
    scopes = fields.List(fields.Nested(ScopeSchema), metadata=_SCOPES)
    created_at = Time(metadata=CREATED)
    updated_at = Time(metadata=UPDATED)
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


class ScopesSchema(ResponseSchema):
    """The scopes of a service."""

    optional_fields = EFFECTIVE

    scopes = fields.List(fields.Nested(ScopeSchema), metadata=_SCOPES)
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


class ScopesNew(StrictSchema):
    """All scopes that the service is to have."""

    scopes = fields.List(fields.Nested(ScopeNew), required=True, validate=NAMES, metadata=_SCOPES)


def scopes_of(shape: list[dict[str, Any]]) -> tuple[Scope, ...]:
    """Return the scopes that a loaded list of ``ScopeNew`` names."""
    return tuple(Scope(item["name"], item["description"]) for item in shape)


def exchanges_of(shape: list[dict[str, Any]]) -> tuple[Exchange, ...]:
    """Return the exchanges that a loaded list of ``ExchangeNew`` names."""
    return tuple(Exchange(item["service"], tuple(item["scopes"])) for item in shape)
