"""The objects that manifests created, and their owners."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import peewee
from peewee import JOIN

from keyosk.storage import tables
from keyosk.storage.database import Database


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """One object that a manifest created.

    ``object_id`` is that of a service, role or account; for a grant it is that of its account, with
    ``scope`` or ``role`` as its name (otherwise both are empty).
    """

    owner: str
    object_id: str
    scope: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class RecordedObject:
    """A created object now; one of its names is set, or none if it was deleted.

    ``rule``: its name with that of its issuer in front, as in manifests.
    """

    record: ManifestRecord
    service: str | None
    role: str | None
    account: str | None
    issuer: str | None
    rule: str | None

    @property
    def is_grant(self) -> bool:
        """Whether this is a grant to ``account``."""
        return bool(self.record.scope or self.record.role)


class ManifestRecordStore:
    """Reads and writes which manifests created which objects."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[RecordedObject]:
        """Return all records, in the order in which the objects were created."""
        return [
            RecordedObject(
                ManifestRecord(row["owner"], row["object_id"], row["scope"], row["role"]),
                service=row["service_name"],
                role=row["role_name"],
                account=row["username"],
                issuer=row["issuer_name"],
                rule=None
                if row["rule_name"] is None
                else f"{row['of_rule_name']}/{row['rule_name']}",
            )
            for row in self._database.rows(_with_names())
        ]

    def remember(self, record: ManifestRecord) -> None:
        """Record the owner of an object, replacing any other record of it."""
        table = tables.ManifestRecord
        self._database.write(
            table.insert(
                object_id=record.object_id, scope=record.scope, role=record.role, owner=record.owner
            )
            .on_conflict(
                conflict_target=[table.object_id, table.scope, table.role],
                preserve=[table.owner],
            )
            .returning()
        )

    def forget(self, items: Iterable[ManifestRecord]) -> None:
        """Delete the records of these objects."""
        table = tables.ManifestRecord
        for record in items:
            self._database.write(
                table.delete().where(
                    (table.object_id == record.object_id)
                    & (table.scope == record.scope)
                    & (table.role == record.role)
                )
            )


def _with_names() -> "peewee.ModelSelect[Any]":
    """Return the query of all records, each with the names of its object."""
    table: Any = tables.ManifestRecord
    of_rule = tables.TrustedIssuer.alias()
    query: peewee.ModelSelect[Any] = (
        table.select(
            table,
            tables.Service.name.alias("service_name"),
            tables.Role.name.alias("role_name"),
            tables.Account.username,
            tables.TrustedIssuer.name.alias("issuer_name"),
            tables.WorkloadRule.name.alias("rule_name"),
            of_rule.name.alias("of_rule_name"),
        )
        .join(tables.Service, JOIN.LEFT_OUTER, on=(tables.Service.id == table.object_id))
        .switch(table)
        .join(tables.Role, JOIN.LEFT_OUTER, on=(tables.Role.id == table.object_id))
        .switch(table)
        .join(tables.Account, JOIN.LEFT_OUTER, on=(tables.Account.id == table.object_id))
        .switch(table)
        .join(
            tables.TrustedIssuer,
            JOIN.LEFT_OUTER,
            on=(tables.TrustedIssuer.id == table.object_id),
        )
        .switch(table)
        .join(
            tables.WorkloadRule,
            JOIN.LEFT_OUTER,
            on=(tables.WorkloadRule.id == table.object_id),
        )
        .join(of_rule, JOIN.LEFT_OUTER, on=(of_rule.id == tables.WorkloadRule.issuer))
        .order_by(table.object_id, table.scope, table.role)
    )
    return query
