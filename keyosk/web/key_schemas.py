"""The shapes of signing keys."""

from marshmallow import fields, validate

from keyosk.keys.material import ALGORITHMS, OWN_SET_ALGORITHMS
from keyosk.model import KeyState
from keyosk.web.fields import Flag, Text, Time, Whole
from keyosk.web.schemas import EFFECTIVE, ResponseSchema, StrictSchema

_ALGORITHMS = validate.OneOf((*ALGORITHMS, *OWN_SET_ALGORITHMS))


class SigningKeySchema(ResponseSchema):
    """A signing key's public side and life."""

    optional_fields = EFFECTIVE

    kid = Text()
    algorithm = Text(validate=_ALGORITHMS)
    state = Text(validate=validate.OneOf([state.value for state in KeyState]))
    published_at = Time()
    active_from = Time(allow_none=True)
    retired_at = Time(allow_none=True)
    gone_at = Time(allow_none=True)
    not_seen_by = fields.List(Text())
    created_at = Time()
    effective_at_latest = Time()


class SigningKeysSchema(ResponseSchema):
    """All signing keys, oldest first."""

    items = fields.List(fields.Nested(SigningKeySchema))
    next = Text(allow_none=True)


class RotationRequest(StrictSchema):
    """How to rotate a signing key."""

    algorithm = Text(validate=_ALGORITHMS)
    now = Flag()
    when_seen = Flag()
    limit = Whole()


class KeyImport(StrictSchema):
    """A private key from elsewhere, to sign next."""

    private_key = Text(required=True)
    algorithm = Text(validate=_ALGORITHMS)
