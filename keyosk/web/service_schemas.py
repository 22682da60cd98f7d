"""The shapes of services and their scopes."""

from typing import Any

from marshmallow import fields

from keyosk.model import Exchange, Scope
from keyosk.web.fields import Accepts, Flag, Text, Time, Whole
from keyosk.web.schemas import EFFECTIVE, NAMES, Named, Shape, Shown


class ScopeShape(Shown):
    """A scope of a service."""

    name = Text()
    description = Text()


class ScopeNew(Named):
    """A scope to make or keep; its bare name is taken as well."""

    description = Text(load_default="")


class ExchangeShape(Shown):
    """That tokens for the service may be exchanged for tokens for another."""

    service = Text()
    scopes = fields.List(Text())


class ExchangeNew(Shape):
    """Allow tokens for the service to be exchanged for tokens for another."""

    service = Text(required=True)
    scopes = fields.List(Text(), load_default=list, validate=NAMES)


class ServicePatch(Shape):
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


class ServiceShape(Shown):
    """A service."""

    may_lack = EFFECTIVE

    id = Text()
    name = Text(attribute="terms.name")
    audience = Text(attribute="terms.audience")
    audiences = fields.List(Text())
    title = Text()
    description = Text()
    contact = Text()
    enabled = Flag(attribute="terms.enabled")
    on_request_only = Flag(attribute="terms.on_request_only")
    cors_preflight = Flag(attribute="terms.cors_preflight")
    accepts = Accepts(attribute="terms.accepts")
    token_lifetime = Whole(attribute="terms.token_lifetime", allow_none=True)
    signing_algorithm = Text(attribute="terms.signing_algorithm", allow_none=True)
    typ = Text(attribute="terms.typ", allow_none=True)
    refresh_allowed = Flag(attribute="terms.refresh_allowed")
    refresh_lifetime = Whole(attribute="terms.refresh_lifetime", allow_none=True)
    claims = fields.List(Text(), attribute="terms.claims")
    account = Text(allow_none=True)
    exchanges = fields.List(fields.Nested(ExchangeShape))
    scopes = fields.List(fields.Nested(ScopeShape))
    created_at = Time()
    updated_at = Time()
    effective_at_latest = Time()


class ScopesShape(Shown):
    """The scopes of a service."""

    may_lack = EFFECTIVE

    scopes = fields.List(fields.Nested(ScopeShape))
    effective_at_latest = Time()


class ScopesNew(Shape):
    """The scopes that a service is to have."""

    scopes = fields.List(fields.Nested(ScopeNew), required=True, validate=NAMES)


def scopes_of(shape: list[dict[str, Any]]) -> tuple[Scope, ...]:
    """The scopes that a loaded list of ``ScopeNew`` names."""
    return tuple(Scope(item["name"], item["description"]) for item in shape)


def exchanges_of(shape: list[dict[str, Any]]) -> tuple[Exchange, ...]:
    """The exchanges that a loaded list of ``ExchangeNew`` names."""
    return tuple(Exchange(item["service"], tuple(item["scopes"])) for item in shape)
