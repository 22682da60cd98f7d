"""The result of the last test of each service with bad tokens."""

import json
from dataclasses import asdict

import peewee
from peewee import EXCLUDED

from keyosk.errors import NotFound
from keyosk.model import Verification
from keyosk.storage import tables
from keyosk.storage.database import Database


class VerificationStore:
    """Reads and writes the verification table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_service(self, service_id: str) -> Verification | None:
        """Return the result of the last test, ``None`` if there was none."""
        table = tables.Verification
        row = self._database.row(table.select().where(table.service == service_id))
        if row is None:
            return None
        del row["service"]
        return Verification(**{**row, "failed": tuple(json.loads(row["failed"]))})

    def replace(self, service_id: str, verification: Verification) -> None:
        """Store a result, replacing the one before. Raises ``NotFound``."""
        table = tables.Verification
        row = {
            **asdict(verification),
            "service": service_id,
            "failed": json.dumps(verification.failed),
        }
        fields = [field for field in table._meta.sorted_fields if field is not table.service]
        query = (
            table.insert(row)
            .on_conflict(
                conflict_target=[table.service],
                update={field: getattr(EXCLUDED, field.name) for field in fields},
            )
            .returning()
        )
        try:
            self._database.write(query)
        except peewee.IntegrityError as error:
            raise NotFound("There is no such service.") from error
