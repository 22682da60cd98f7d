"""The shapes of services and their scopes."""

from typing import Any

from marshmallow import fields

from keyosk.model import Exchange, Scope
from keyosk.web.fields import Accepts, Flag, Text, Time, Whole
from keyosk.web.schemas import EFFECTIVE, NAMES, NamedSchema, ResponseSchema, StrictSchema


class ScopeSchema(ResponseSchema):
    """A scope of a service."""

    name = Text()
    description = Text()


class ScopeNew(NamedSchema):
    """A scope to make or keep; its bare name is taken as well."""

    description = Text(load_default="")


class ExchangeSchema(ResponseSchema):
    """That tokens for the service may be exchanged for tokens for another."""

    service = Text()
    scopes = fields.List(Text())


class ExchangeNew(StrictSchema):
    """Allow tokens for the service to be exchanged for tokens for another."""

    service = Text(required=True)
    scopes = fields.List(Text(), load_default=list, validate=NAMES)


class ServicePatch(StrictSchema):
    """A merge patch of a service."""

    name = Text(allow_none=True)
    audience = Text(allow_none=True)
    audiences = fields.List(Text(), allow_none=True, validate=NAMES)
    title = Text(allow_none=True)
    description = Text(allow_none=True)
    contact = Text(allow_none=True)
    enabled = Flag(allow_none=True)
    on_request_only = Flag(allow_none=True)
    cors_preflight = Flag(allow_none=True)
    accepts = Accepts(allow_none=True)
    token_lifetime = Whole(allow_none=True)
    signing_algorithm = Text(allow_none=True)
    typ = Text(allow_none=True)
    registry_version = Whole(allow_none=True)
    refresh_allowed = Flag(allow_none=True)
    refresh_lifetime = Whole(allow_none=True)
    claims = fields.List(Text(), allow_none=True, validate=NAMES)
    account = Text(allow_none=True)
    exchanges = fields.List(fields.Nested(ExchangeNew), allow_none=True, validate=NAMES)
    scopes = fields.List(fields.Nested(ScopeNew), validate=NAMES)


class ServiceNew(ServicePatch):
    """A service to make."""

    name = Text(required=True)
    audience = Text()


class ServiceSchema(ResponseSchema):
    """A service."""

    optional_fields = EFFECTIVE

    id = Text()
    name = Text(attribute="policy.name")
    audience = Text(attribute="policy.audience")
    audiences = fields.List(Text())
    title = Text()
    description = Text()
    contact = Text()
    enabled = Flag(attribute="policy.enabled")
    on_request_only = Flag(attribute="policy.on_request_only")
    cors_preflight = Flag(attribute="policy.cors_preflight")
    accepts = Accepts(attribute="policy.accepts")
    token_lifetime = Whole(attribute="policy.token_lifetime", allow_none=True)
    signing_algorithm = Text(attribute="policy.signing_algorithm", allow_none=True)
    typ = Text(attribute="policy.typ", allow_none=True)
    registry_version = Whole(attribute="policy.registry_version", allow_none=True)
    refresh_allowed = Flag(attribute="policy.refresh_allowed")
    refresh_lifetime = Whole(attribute="policy.refresh_lifetime", allow_none=True)
    claims = fields.List(Text(), attribute="policy.claims")
    account = Text(allow_none=True)
    exchanges = fields.List(fields.Nested(ExchangeSchema))
    scopes = fields.List(fields.Nested(ScopeSchema))
    created_at = Time()
    updated_at = Time()
    effective_at_latest = Time()


class ScopesSchema(ResponseSchema):
    """The scopes of a service."""

    optional_fields = EFFECTIVE

    scopes = fields.List(fields.Nested(ScopeSchema))
    effective_at_latest = Time()


class ScopesNew(StrictSchema):
    """The scopes that a service is to have."""

    scopes = fields.List(fields.Nested(ScopeNew), required=True, validate=NAMES)


def scopes_of(shape: list[dict[str, Any]]) -> tuple[Scope, ...]:
    """The scopes that a loaded list of ``ScopeNew`` names."""
    return tuple(Scope(item["name"], item["description"]) for item in shape)


def exchanges_of(shape: list[dict[str, Any]]) -> tuple[Exchange, ...]:
    """The exchanges that a loaded list of ``ExchangeNew`` names."""
    return tuple(Exchange(item["service"], tuple(item["scopes"])) for item in shape)
