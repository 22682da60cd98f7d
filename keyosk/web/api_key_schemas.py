"""The shapes of API keys."""

from typing import ClassVar, Final

from marshmallow import fields, validate

from keyosk.web.fields import Flag, Text, Time, Whole, described
from keyosk.web.schemas import (
    ACCOUNT_ID,
    API_KEY_ID,
    CREATED,
    EFFECTIVE,
    EFFECTIVE_AT,
    FUTURE,
    NAMES,
    PASSWORD,
    UPDATED,
    Example,
    PasswordProof,
    ResponseSchema,
    StrictSchema,
)

_KEY_NAME: Final = described("A name for people to read.", "nightly report")
_KEY_DESCRIPTION: Final = described("What the key is for.", "Reads the list at night.")
_KEY_SCOPES: Final = described(
    "The scopes that the key is limited to; null for all scopes of the account.", ["todo:read"]
)
_NETWORKS: Final = described(
    "The networks that the key can be used from, in CIDR notation; null for any.",
    ["192.0.2.0/24"],
)
_KEY_EXPIRES_AT: Final = described("When the key expires; null for never.", FUTURE)
_KEY_ENABLED: Final = described("Whether the key can be used.", True)


class ApiKeyNew(PasswordProof):
    """An API key to create."""

    name = Text(required=True, metadata=_KEY_NAME)
    description = Text(metadata=_KEY_DESCRIPTION)
    scopes = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_KEY_SCOPES)
    networks = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_NETWORKS)
    expires_at = Time(allow_none=True, metadata=_KEY_EXPIRES_AT)
    enabled = Flag(metadata=_KEY_ENABLED)


class ApiKeyPatch(PasswordProof):
    """A merge patch of an API key."""

    example: ClassVar[Example] = {"networks": None, "enabled": False, "current_password": PASSWORD}

    name = Text(allow_none=True, metadata=_KEY_NAME)
    description = Text(allow_none=True, metadata=_KEY_DESCRIPTION)
    scopes = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_KEY_SCOPES)
    networks = fields.List(Text(), allow_none=True, validate=NAMES, metadata=_NETWORKS)
    expires_at = Time(allow_none=True, metadata=_KEY_EXPIRES_AT)
    enabled = Flag(allow_none=True, metadata=_KEY_ENABLED)


class ApiKeySchema(ResponseSchema):
    """An API key, without its secret."""

    optional_fields = EFFECTIVE

    id = Text(metadata=described("A UUIDv7.", API_KEY_ID))
    name = Text(metadata=_KEY_NAME)
    description = Text(metadata=_KEY_DESCRIPTION)
    prefix = Text(metadata=described("The first characters of the secret.", "kysk_7Zb1mC8"))
    scopes = fields.List(Text(), allow_none=True, metadata=_KEY_SCOPES)
    networks = fields.List(Text(), allow_none=True, metadata=_NETWORKS)
    expires_at = Time(allow_none=True, metadata=_KEY_EXPIRES_AT)
    enabled = Flag(metadata=_KEY_ENABLED)
    last_used_at = Time(
        allow_none=True,
        metadata=described("When the key was last used; null if it never was.", None),
    )
    successor = Text(
        allow_none=True,
        metadata=described("The id of the key that replaces this one; null if none does.", None),
    )
    created_at = Time(metadata=CREATED)
    updated_at = Time(metadata=UPDATED)
    effective_at_latest = Time(metadata=EFFECTIVE_AT)


class OwnedApiKeySchema(ApiKeySchema):
    """An API key in the list of all accounts' keys, with whose it is."""

    account_id = Text(metadata=described("The id of the account that has it.", ACCOUNT_ID))
    username = Text(
        allow_none=True,
        metadata=described("Its username; null if it was deleted just now.", "alice"),
    )


#: Of the secret that is the example of a new key.
KEY_DIGEST: Final = "266455311109cc0504e7537f74cfb33aac376590cad3514bb41862528f72a0d6"
IS_DIGEST: Final = validate.Regexp(
    r"[0-9a-fA-F]{64}\Z", error="Must be a SHA-256: 64 hexadecimal digits."
)


class ApiKeySearch(StrictSchema):
    """An API key whose owner is searched for: its secret, or the beginning of it."""

    example: ClassVar[Example] = {"digest": KEY_DIGEST, "prefix": "kysk_7Zb1mC8"}

    secret = Text(
        validate=validate.Length(max=1000),
        load_only=True,
        metadata=described("The secret itself. It is neither stored nor logged."),
    )
    digest = Text(
        validate=IS_DIGEST,
        metadata=described("Instead of the secret, with `prefix`: its SHA-256, in hexadecimal."),
    )
    prefix = Text(
        validate=validate.Length(min=1, max=12),
        metadata=described("The first characters of the secret, 12 at most."),
    )


class FoundApiKeySchema(OwnedApiKeySchema):
    """An API key that was found, and whether it works."""

    works = Flag(metadata=described("Whether a login by the key is accepted now.", True))
    faults = fields.List(
        Text(),
        metadata=described(
            "Why it does not work: `account_disabled`, `account_expired`, `key_disabled`, "
            "`key_expired`.",
            [],
        ),
    )


class FoundApiKeysSchema(ResponseSchema):
    """The API keys that a search found."""

    matches = Text(
        validate=validate.OneOf(("secret", "prefix", "none")),
        metadata=described(
            "`secret`: the key has this very secret; `prefix`: these keys only begin like it; "
            "`none`: there is no such key.",
            "secret",
        ),
    )
    is_whole = Flag(
        metadata=described(
            "Whether the secret has the length and the checksum of an API key; true without one.",
            True,
        )
    )
    items = fields.List(fields.Nested(FoundApiKeySchema), metadata=described("The keys."))
    more = Flag(metadata=described("Whether more keys than these begin so.", False))


class ApiKeyMade(ApiKeySchema):
    """A new API key with its secret, which is never shown again."""

    # A repeated response (Idempotency-Key) has it for ten minutes only.
    optional_fields = EFFECTIVE | {"secret"}

    secret = Text(
        metadata=described(
            "The key itself; only this response contains it.",
            "kysk_7Zb1mC8sYt3wXqRk5vNd0LpGhJf2aTeU4oBi9z",
        )
    )


class ApiKeyRotationSchema(PasswordProof):
    """How to rotate an API key."""

    overlap = Whole(
        metadata=described(
            "For how many seconds the old key continues to work; 86400 by default.", 3600
        )
    )
