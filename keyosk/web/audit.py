"""The audit log."""

import difflib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any, Final, get_args

from flask import Response, request
from marshmallow import ValidationError

from keyosk.errors import Invalid, NotFound
from keyosk.ids import is_id
from keyosk.installation import Installation
from keyosk.model import AuditAction, AuditRow, ListQuery
from keyosk.times import rfc3339
from keyosk.web import lines, paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import Text, Time, Whole, described
from keyosk.web.operations import operation
from keyosk.web.responses import json_response, streamed
from keyosk.web.schemas import (
    ACCOUNT_ID,
    FUTURE,
    PAST,
    AuditSchema,
    ResponseSchema,
    StrictSchema,
    example_of,
)

_ACTIONS: Final = get_args(AuditAction)
#: The most characters of an unknown action that are compared with those that exist.
_LONGEST_NAME: Final = 40


def _check_action(name: str) -> None:
    # An empty list would say that nothing was done.
    if name not in _ACTIONS:
        near = difflib.get_close_matches(name[:_LONGEST_NAME], _ACTIONS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValidationError(f"Must be an action of the audit log{hint}")


LISTS = paging.ListOptions(
    ("sequence", "time"),
    {
        "actor": paging.text("The id of the account that did it.", ACCOUNT_ID),
        "action": Text(
            validate=_check_action,
            metadata=described("What was done, as in `action` of a row.", "account.create"),
        ),
        "credential": paging.text(
            "`password`, or the id of the API key that was used.", "password"
        ),
        "target": paging.text(
            "What it was done to; of an account also `account/` and its username.",
            f"account/{ACCOUNT_ID}",
        ),
        "outcome": paging.word("`done` or `refused`.", "refused", "done"),
        "since": paging.moment("Only rows of this time and later.", PAST),
        "until": paging.moment("Only rows before this time.", FUTURE),
    },
    key="sequence",
    orders={"since": "time", "until": "time"},
)

#: An export takes the filters of the list.
ExportQuery: Final = StrictSchema.from_dict(dict(LISTS.filters), name="AuditExportQuery")


class ChainSchema(ResponseSchema):
    """The state of the chain of the audit log."""

    first = Whole(
        allow_none=True,
        metadata=described("The `sequence` of the oldest row that is kept; null for none.", 1),
    )
    last = Whole(metadata=described("That of the newest row.", 41))
    checkpoint = Whole(
        allow_none=True,
        metadata=described("Up to which row the chain was last signed; null for never.", 40),
    )
    checkpoint_at = Time(allow_none=True, metadata=described("When that was.", PAST))
    verified = Whole(
        metadata=described("Up to which row all since then are as they were written.", 41)
    )
    fault = Text(
        allow_none=True,
        metadata=described("What is wrong with one of them; null if nothing is.", None),
    )


# One instance, because each new one copies all fields (150 us).
_body: Final = AuditSchema().body_of
_LINE: Final = lines.json_line(example_of(AuditSchema))


class AuditResource(Endpoint):
    """The audit log."""

    @operation(response=AuditSchema, lists=LISTS)
    def get(self) -> Response:
        """List rows, oldest first; ``sort=-sequence`` lists the newest first.

        With ``since`` or ``until`` they are sorted by their time, unless ``sort`` says otherwise.
        No index serves most pairs of filters. Where many rows pass each, a page looks at some of
        them only: it may be short or empty although ``next`` says that there is more.
        """
        audit, by_id = self.installation.audit, self._by_id
        return self.page(
            lambda query: audit.page(by_id(query)),
            _body,
            lambda query: audit.count(by_id(query)),
            horizon=lambda query: audit.horizon(by_id(query)),
        )

    def _by_id(self, query: ListQuery) -> ListQuery:
        return replace(query, filters=by_id(self.installation, query.filters))


class AuditExportResource(Endpoint):
    """The audit log as a whole."""

    @operation(query=ExportQuery, media_types={lines.TYPES[0]: _LINE}, raises=(Invalid,))
    def get(self) -> Response:
        """Export rows, oldest first, one a line (JSON Lines); the filters are those of the list."""
        filters = by_id(self.installation, paging.filters(LISTS))
        sort = "time" if filters.keys() & LISTS.orders.keys() else "sequence"
        if request.method == "HEAD":  # it reads nothing
            return Response(iter(()), mimetype=lines.TYPES[0])
        pages = self.installation.audit.export(ListQuery(sort=sort, filters=filters))
        first = next(pages, [])  # an error at the beginning has a response of its own
        body = ("".join(map(_line, page)).encode() for page in chain([first], pages))
        return streamed(body, lines.TYPES[0], self.installation.bulk.exclusive())


class ChainResource(Endpoint):
    """The state of the chain of the audit log."""

    @operation(response=ChainSchema)
    def get(self) -> Response:
        """Return how far the log is sealed and signed.

        The rows since the last checkpoint are verified, 500 at most. ``keyosk audit verify``
        verifies all.
        """
        chain = self.installation.audit_verifier.chain()
        point = chain.checkpoint
        return json_response(
            {
                "first": chain.first,
                "last": chain.last,
                "checkpoint": point.sequence if point else None,
                "checkpoint_at": rfc3339(point.time) if point else None,
                "verified": chain.verified,
                "fault": chain.fault,
            }
        )


def by_id(installation: Installation, filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters of a query with the id of an account in ``target`` for its username.

    Rows have the id, which stays if the account gets another name.
    """
    kind, separator, reference = str(filters.get("target", "")).partition("/")
    if kind == "account" and separator and not is_id(reference):
        with suppress(NotFound):
            account = installation.accounts.get(reference)
            return {**filters, "target": f"account/{account.id}"}
    return dict(filters)


def _line(row: AuditRow) -> str:
    return lines.json_line(_body(row))
