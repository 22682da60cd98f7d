"""/audit."""

from typing import Any

from flask import Response

from keyosk.model import AuditRow
from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.schemas import AuditSchema

LISTS = paging.ListOptions(
    ("sequence",),
    {
        "actor": paging.text,
        "action": paging.text,
        "target": paging.text,
        "outcome": paging.text,
        "since": paging.moment,
        "until": paging.moment,
    },
    key="sequence",
)


class AuditResource(Endpoint):
    """The audit log."""

    @operation(response=AuditSchema, lists=LISTS)
    def get(self) -> Response:
        """A page of rows, oldest first; ``sort=-sequence`` for the newest."""
        audit = self.installation.audit
        return self.page(audit.page, _body, audit.count)


def _body(row: AuditRow) -> dict[str, Any]:
    body: dict[str, Any] = AuditSchema().dump(row)
    return body
