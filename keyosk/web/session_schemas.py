"""The shapes of sessions: refresh sessions, and those of the console."""

from typing import Final

from marshmallow import fields, validate

from keyosk.model import USUAL_CREDENTIALS, FactorKind
from keyosk.web.fields import Text, Time, Whole, described
from keyosk.web.schemas import ACCOUNT_ID, API_KEY_ID, FUTURE, PAST, ResponseSchema

#: A workload's token starts no session: it is the login, and there is no refresh token for it.
_CREDENTIALS: Final = validate.OneOf(sorted(USUAL_CREDENTIALS))
_OWNER_ID: Final = described("The id of the account that it is of.", ACCOUNT_ID)
_OWNER: Final = described("Its username; null if it was deleted just now.", "alice")
_AUDIENCE: Final = "https://todo.example.com"


class SessionSchema(ResponseSchema):
    """A refresh session: a login that continues without its secret."""

    id = Text(metadata=described("A UUIDv7.", API_KEY_ID))
    credential = Text(
        validate=_CREDENTIALS,
        metadata=described("The kind of credential that started the session.", "password"),
    )
    api_key_id = Text(
        allow_none=True,
        metadata=described("The id of that API key; null for a password.", None),
    )
    audiences = fields.List(Text(), metadata=described("The audiences of its tokens.", [_AUDIENCE]))
    scopes = fields.List(Text(), metadata=described("The scopes of its tokens.", ["todo:read"]))
    address = Text(
        allow_none=True,
        metadata=described("The IP address that the session was started from.", "192.0.2.7"),
    )
    created_at = Time(metadata=described("When the session was started.", PAST))
    last_used_at = Time(
        attribute="rotated_at", metadata=described("When it last issued a token.", PAST)
    )
    expires_at = Time(metadata=described("When the session expires.", FUTURE))


class ConsoleSessionSchema(ResponseSchema):
    """A console session: a person who logged in to the console with a browser."""

    id = Text(metadata=described("A UUIDv7.", API_KEY_ID))
    address = Text(
        allow_none=True,
        metadata=described("The IP address that the session was started from.", "192.0.2.7"),
    )
    agent = Text(metadata=described("The `User-Agent` of its browser.", "Mozilla/5.0"))
    amr = fields.List(
        Text(),
        metadata=described(
            "How its owner proved who they are, by RFC 8176; `mfa`: with a second factor.",
            ["pwd"],
        ),
    )
    created_at = Time(metadata=described("When the session was started.", PAST))
    last_used_at = Time(
        attribute="seen_at", metadata=described("When it was last used, to within a minute.", PAST)
    )
    expires_at = Time(metadata=described("When the session ends at the latest.", FUTURE))


class OwnedSessionSchema(SessionSchema):
    """A refresh session in the list of all accounts' sessions, with whose it is."""

    account_id = Text(metadata=_OWNER_ID)
    username = Text(allow_none=True, metadata=_OWNER)


class OwnedConsoleSessionSchema(ConsoleSessionSchema):
    """A console session in the list of all accounts' sessions, with whose it is."""

    account_id = Text(metadata=_OWNER_ID)
    username = Text(allow_none=True, metadata=_OWNER)


class SecondFactorSchema(ResponseSchema):
    """A second factor: what an account shows besides its password to log in to the console."""

    id = Text(metadata=described("A UUIDv7.", API_KEY_ID))
    kind = Text(
        validate=validate.OneOf([kind.value for kind in FactorKind]),
        metadata=described("An authenticator app is `totp`.", "totp"),
    )
    name = Text(metadata=described("What its owner calls it.", "Phone"))
    remaining = Whole(
        allow_none=True,
        metadata=described("How many recovery codes are left; null for other kinds.", None),
    )
    created_at = Time(metadata=described("When it was added.", PAST))
    last_used_at = Time(
        allow_none=True, metadata=described("When it was last used for a login.", None)
    )
