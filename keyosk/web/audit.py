"""The audit log."""

from typing import Any, Final

from flask import Response

from keyosk.model import AuditRow
from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.schemas import ACCOUNT_ID, FUTURE, PAST, AuditSchema

LISTS = paging.ListOptions(
    ("sequence", "time"),
    {
        "actor": paging.text("The id of the account that did it.", ACCOUNT_ID),
        "action": paging.text("What was done, as in `action` of a row.", "account.create"),
        "credential": paging.text(
            "`password`, or the id of the API key that was used.", "password"
        ),
        "target": paging.text("What it was done to.", f"account/{ACCOUNT_ID}"),
        "outcome": paging.text("`done` or `refused`.", "done"),
        "since": paging.moment("Only rows of this time and later.", PAST),
        "until": paging.moment("Only rows before this time.", FUTURE),
    },
    key="sequence",
    orders={"since": "time", "until": "time"},
)

# Made once: each new one copies all its fields (150 us).
_SHAPE: Final = AuditSchema()


class AuditResource(Endpoint):
    """The audit log."""

    @operation(response=AuditSchema, lists=LISTS)
    def get(self) -> Response:
        """List rows, oldest first; ``sort=-sequence`` lists the newest first.

        With ``since`` or ``until`` they are sorted by their time, unless ``sort`` says otherwise.
        """
        audit = self.installation.audit
        return self.page(audit.page, _body, audit.count)


def _body(row: AuditRow) -> dict[str, Any]:
    body: dict[str, Any] = _SHAPE.dump(row)
    return body
