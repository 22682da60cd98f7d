"""Shapes of questions about tokens that nobody has yet, and of their answers."""

from marshmallow import fields, validate

from keyosk.model import CredentialKind
from keyosk.permissions import Reason
from keyosk.web.fields import Flag, Object, Text, Time, Whole
from keyosk.web.schemas import Shape, Shown

_REASONS = [reason.value for reason in Reason]


class ExplainRequest(Shape):
    """A token request without its secret."""

    account = Text()
    credential = Text(validate=validate.OneOf([kind.value for kind in CredentialKind]))
    api_key = Text()
    audience = fields.List(Text())
    scope = Text()
    lifetime = Whole(validate=validate.Range(min=1))


class GivenScopeShape(Shown):
    """A scope that the token would have, and through what."""

    name = Text()
    through = Text()
    until = Time(allow_none=True)


class MissingScopeShape(Shown):
    """A scope that the token would not have, and why. Programs go by ``reason``."""

    name = Text()
    reason = Text(validate=validate.OneOf(_REASONS))
    message = Text()


class ExplanationShape(Shown):
    """What the token endpoint would answer."""

    granted = Flag()
    error = Text(allow_none=True)
    error_description = Text(allow_none=True)
    reason = Text(allow_none=True, validate=validate.OneOf([*_REASONS, None]))
    claims = Object(allow_none=True)
    size = Whole(allow_none=True)
    scopes = fields.List(fields.Nested(GivenScopeShape))
    missing = fields.List(fields.Nested(MissingScopeShape))
