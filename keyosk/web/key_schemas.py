"""The shapes of signing keys."""

from typing import ClassVar, Final

from marshmallow import fields, validate

from keyosk.model import SIGNING_ALGORITHMS, KeyState
from keyosk.web.fields import Flag, Text, Time, Whole, described
from keyosk.web.schemas import EFFECTIVE, EFFECTIVE_AT, PAST, Example, ResponseSchema, StrictSchema

#: An RFC 7638 thumbprint.
KID: Final = "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg"
_ALGORITHMS = validate.OneOf(SIGNING_ALGORITHMS)
_STATES = validate.OneOf([state.value for state in KeyState])


class SigningKeySchema(ResponseSchema):
    """The public side of a signing key, and its life cycle."""

    optional_fields = EFFECTIVE

    kid = Text(metadata=described("The RFC 7638 thumbprint of the public key.", KID))
    algorithm = Text(
        validate=_ALGORITHMS, metadata=described("The algorithm that the key signs with.", "ES256")
    )
    state = Text(
        validate=_STATES,
        metadata=described(
            "`next`: published, does not sign yet; `active`: signs; `retired`: published until its "
            "last token has expired; `gone`: no longer published; `compromised`: revoked.",
            "next",
        ),
    )
    published_at = Time(metadata=described("When the key was added to the key set.", PAST))
    active_from = Time(
        allow_none=True,
        metadata=described("When the key starts, or started, to sign.", "2026-02-07T12:00:00Z"),
    )
    retired_at = Time(allow_none=True, metadata=described("When the key stopped signing.", None))
    gone_at = Time(
        allow_none=True, metadata=described("When the key leaves, or left, the key set.", None)
    )
    not_seen_by = fields.List(
        Text(),
        metadata=described(
            "The services that identify themselves when they fetch keys and have not fetched this "
            "one yet.",
            ["todo"],
        ),
    )
    created_at = Time(metadata=described("When the key was created.", PAST))
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


class RotationRequest(StrictSchema):
    """How to rotate a signing key."""

    example: ClassVar[Example] = {"when_seen": True, "limit": 604_800}

    algorithm = Text(
        validate=_ALGORITHMS,
        metadata=described("The algorithm of the new key; the default algorithm if absent."),
    )
    now = Flag(
        metadata=described("Sign with the new key as soon as every Keyosk process has loaded it.")
    )
    when_seen = Flag(
        metadata=described(
            "Wait until every service that identifies itself has fetched the new key."
        )
    )
    limit = Whole(metadata=described("With `when_seen`: the longest wait in seconds."))


class KeyImport(StrictSchema):
    """A private key from elsewhere, to sign next."""

    private_key = Text(
        required=True,
        # SECURITY: no real key. Whoever tries the example as it is must not sign with a known key.
        metadata=described(
            "The unencrypted private key, as PEM or as a JWK.",
            "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n",
        ),
    )
    algorithm = Text(
        validate=_ALGORITHMS,
        metadata=described(
            "The algorithm to sign with; required if the key fits several.", "ES256"
        ),
    )
