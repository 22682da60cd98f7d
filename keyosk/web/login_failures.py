"""Failed logins by account and by address, and who is throttled."""

from typing import Final

from flask import Response
from marshmallow import fields, validate

from keyosk.errors import Invalid
from keyosk.web import queries
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import Flag, LoneTime, Text, Time, Whole, described
from keyosk.web.operations import operation
from keyosk.web.responses import json_response
from keyosk.web.schemas import ACCOUNT_ID, PAST, ResponseSchema, StrictSchema

_HOUR: Final = 3_600
_KINDS: Final = validate.OneOf(
    ["account", "source", "account_and_source", "second_factor", "second_factor_and_source"]
)
_ID: Final = described("The id of the account; null if it is about no account.", ACCOUNT_ID)
_COUNT: Final = described(
    "Wrong passwords and API keys; what was refused unread is not counted.", 12
)
_SECOND_FACTORS: Final = described(
    "Wrong second factors in the console, each after the right password.", 0
)
_ORDER: Final = described(
    "The most wrong second factors first, then the most failed logins; 20 at most.", []
)
_USERNAME: Final = described("Its username.", "alice")


class LoginFailuresQuery(StrictSchema):
    """Which time."""

    since = LoneTime(metadata=described("From this time on; an hour ago by default.", PAST))


class ThrottledSchema(ResponseSchema):
    """Whose logins are refused unread now."""

    kind = Text(
        validate=_KINDS,
        metadata=described(
            "`account`: the account, from wherever it is not known to log in; `source`: the source "
            "for all accounts that never logged in from there; `account_and_source`: one of the "
            "other. `second_factor`: second factors of the account, from wherever it never showed "
            "a right one; `second_factor_and_source`: those from the source.",
            "account",
        ),
    )
    account_id = Text(allow_none=True, metadata=_ID)
    username = Text(allow_none=True, metadata=_USERNAME)
    source = Text(
        allow_none=True,
        metadata=described("An address, or the network of an IPv6 client.", "192.0.2.7"),
    )
    since = Time(
        metadata=described(
            "The minute of the first login that was refused unread; of the last failed one if none "
            "was yet.",
            PAST,
        )
    )
    until = Time(metadata=described("When there is one more attempt.", PAST))


class GuessedAccountSchema(ResponseSchema):
    """Failed logins at one account."""

    account_id = Text(
        allow_none=True, metadata=described("Its id; null for names without one.", ACCOUNT_ID)
    )
    username = Text(allow_none=True, metadata=_USERNAME)
    count = Whole(metadata=_COUNT)
    second_factors = Whole(metadata=_SECOND_FACTORS)
    last_at = Time(metadata=described("The minute of the last one.", PAST))


class GuessingAddressSchema(ResponseSchema):
    """Failed logins from one address."""

    address = Text(
        allow_none=True, metadata=described("The address; null if it is not known.", "192.0.2.7")
    )
    count = Whole(metadata=_COUNT)
    second_factors = Whole(metadata=_SECOND_FACTORS)
    last_at = Time(metadata=described("The minute of the last one.", PAST))


class LoginFailuresSchema(ResponseSchema):
    """Failed logins, and who is throttled."""

    since = Time(metadata=described("From this time on.", PAST))
    is_complete = Flag(
        metadata=described("False if there was more than is looked at: then only the latest.", True)
    )
    throttled = fields.List(
        fields.Nested(ThrottledSchema),
        metadata=described("Those for longest first, 20 at most.", []),
    )
    accounts = fields.List(
        fields.Nested(GuessedAccountSchema),
        metadata=_ORDER,
    )
    addresses = fields.List(
        fields.Nested(GuessingAddressSchema),
        metadata=_ORDER,
    )


# One instance, because each new one copies all fields (150 us).
_SHAPE: Final = LoginFailuresSchema()


class LoginFailuresResource(Endpoint):
    """Failed logins."""

    @operation(query=LoginFailuresQuery, response=LoginFailuresSchema, raises=(Invalid,))
    def get(self) -> Response:
        """Return failed logins by account and by address, and who is throttled now.

        The current minute is included. The rows behind it are in the audit log, as
        ``login.failed``, ``login.throttled`` and ``second_factor.failed``.
        """
        an_hour_ago = int(self.installation.clock()) - _HOUR
        moment = queries.load(LoginFailuresQuery).get("since", an_hour_ago)
        failures = self.installation.login_failures.since(moment)
        return json_response(_SHAPE.body_of(failures))
