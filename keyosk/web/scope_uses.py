"""Which scopes accounts hold, when these were last in a token, and which are unused."""

from typing import ClassVar, Final

from flask import Response
from marshmallow import fields, validate

from keyosk.errors import Invalid
from keyosk.ids import is_id
from keyosk.model import Kind
from keyosk.scope_uses import DAY
from keyosk.times import rfc3339
from keyosk.web import paging, queries
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import Date, Flag, Text, Time, Whole, described
from keyosk.web.operations import operation
from keyosk.web.responses import json_response
from keyosk.web.schemas import ACCOUNT_ID, PAST, Example, ResponseSchema, StrictSchema

_DAYS: Final = 90
_MOST_DAYS: Final = 3_650
_ISSUED: Final = "issued"
_NAMED: Final = "named"
_DATE: Final = PAST[:10]


class HeldScopeSchema(ResponseSchema):
    """A scope that an account holds."""

    name = Text(metadata=described("The scope.", "todo:read"))
    service = Text(metadata=described("The name of its service.", "todo"))
    is_granted = Flag(metadata=described("Whether it is granted by itself.", True))
    roles = fields.List(Text(), metadata=described("The granted roles that contain it.", []))
    held_since = Time(
        metadata=described(
            "Since when the account holds it; at the latest since Keyosk notes uses.", PAST
        )
    )
    last_issued_on = Date(
        attribute="issued_on",
        allow_none=True,
        metadata=described(
            "The last day (UTC) on which a token of the account had it, whatever the token was "
            "used for; null if none had.",
            _DATE,
        ),
    )
    last_named_on = Date(
        attribute="named_on",
        allow_none=True,
        metadata=described(
            "The last day on which a token request named it in `scope`, or Keyosk's own API let "
            "the account do something by it; null if none did.",
            _DATE,
        ),
    )


class HeldScopesSchema(ResponseSchema):
    """The scopes that an account holds now."""

    example: ClassVar[Example] = None

    items = fields.List(fields.Nested(HeldScopeSchema), metadata=described("The scopes, by name."))


class UnusedScopesQuery(StrictSchema):
    """How long scopes were unused, and which scopes."""

    days = Whole(
        validate=validate.Range(
            min=1, max=_MOST_DAYS, error=f"Must be a whole number from 1 to {_MOST_DAYS}."
        ),
        metadata=described("Days without a use, 90 by default.", _DAYS),
    )
    use = Text(
        validate=validate.OneOf([_ISSUED, _NAMED]),
        metadata=described(
            "What counts as a use: `issued`, the default: a token had the scope; `named`: a "
            "request named it.",
            _ISSUED,
        ),
    )
    service = Text(
        validate=validate.Length(max=paging.LONGEST),
        metadata=described("Only scopes of the service with this name.", "todo"),
    )
    scope = Text(
        validate=validate.Length(max=paging.LONGEST),
        metadata=described("Only this scope.", "todo:read"),
    )
    limit = Whole(
        validate=validate.Range(
            min=1, max=paging.MOST, error=f"Must be a whole number from 1 to {paging.MOST}."
        ),
        metadata=described("Accounts in a page, 50 by default.", 50),
    )
    cursor = Text(
        validate=validate.Length(max=paging.LONGEST_CURSOR),
        metadata=described("`next` of the page before.", ACCOUNT_ID),
    )


class AccountScopesSchema(ResponseSchema):
    """An account with the scopes that it does not use."""

    account_id = Text(attribute="id", metadata=described("The id of the account.", ACCOUNT_ID))
    username = Text(metadata=described("Its username.", "alice"))
    kind = Text(
        validate=validate.OneOf([kind.value for kind in Kind]),
        metadata=described("`person` or `machine`.", "person"),
    )
    scopes = fields.List(
        fields.Nested(HeldScopeSchema), metadata=described("The unused scopes, by name.")
    )


class UnusedScopesSchema(ResponseSchema):
    """A page of accounts that hold scopes without using them."""

    example: ClassVar[Example] = None

    since = Text(metadata=described("The first day (UTC) on which a use would count.", _DATE))
    items = fields.List(
        fields.Nested(AccountScopesSchema),
        metadata=described("The accounts, in the order of creation."),
    )
    next = Text(
        allow_none=True,
        metadata=described("What `cursor` is for the next page; null on the last one.", ACCOUNT_ID),
    )


# One instance, because each new one copies all fields (150 us).
_HELD_SCOPE: Final = HeldScopeSchema()
_ACCOUNT_SCOPES: Final = AccountScopesSchema()


class HeldScopesResource(Endpoint):
    """The scopes of an account."""

    @operation(response=HeldScopesSchema)
    def get(self, account: str) -> Response:
        """Return the scopes that the account holds now, and when it last used each.

        Services verify tokens offline: Keyosk knows which tokens had a scope, and not what was
        done with them. `keyosk:admin` is used by whatever uses a scope that it stands for.
        """
        holder = self.installation.accounts.get(account)
        held = self.installation.scope_uses.of_account(holder.id)
        return json_response({"items": _HELD_SCOPE.dump(held, many=True)})


class UnusedScopesResource(Endpoint):
    """The scopes that accounts hold and do not use."""

    @operation(query=UnusedScopesQuery, response=UnusedScopesSchema, raises=(Invalid,))
    def get(self) -> Response:
        """Return the enabled accounts that hold scopes and did not use them for some days.

        Scopes that an account holds for a shorter time are left out. A page looks at a limited
        number of accounts, so it may be short or empty although `next` says that there is more.
        """
        query = queries.load(UnusedScopesQuery)
        cursor = query.get("cursor", "")
        if cursor and not is_id(cursor):
            raise Invalid.field("cursor", "is not a cursor of this list")
        days = query.get("days", _DAYS)
        items, following = self.installation.scope_uses.unused(
            days,
            after=cursor,
            limit=query.get("limit", paging.DEFAULT),
            named=query.get("use") == _NAMED,
            service=query.get("service"),
            scope=query.get("scope"),
        )
        since = (int(self.installation.clock()) // DAY - days) * DAY
        body = {"since": rfc3339(since)[:10], "items": _ACCOUNT_SCOPES.dump(items, many=True)}
        return json_response({**body, "next": following})
