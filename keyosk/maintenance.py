"""Maintenance of the database: a backup, and a check of its integrity."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from keyosk.audit_verification import AuditVerifier
from keyosk.errors import DatabaseDamaged, Invalid, WrongSecretKey
from keyosk.keys.signing_keys import SigningKeys
from keyosk.storage import maintenance, service_identifiers
from keyosk.storage.database import Database


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: the part, and what is wrong with it."""

    name: str
    faults: tuple[str, ...]


def _found(look: Callable[[], Iterable[str]]) -> Iterable[str]:
    """Return the faults of one part; a part that cannot be read is a fault, not an error."""
    try:
        return look()
    except DatabaseDamaged as error:
        return [f"cannot be read: {error.reason}"]


class Maintenance:
    """Backs up and checks the database."""

    def __init__(
        self, database: Database, keys: SigningKeys, audit_verifier: AuditVerifier
    ) -> None:
        self._database = database
        self._keys = keys
        self._audit_verifier = audit_verifier

    def backup(self, target: Path) -> None:
        """Copy the database to a new file, as it is at one moment. SQLite only.

        Raises ``Invalid`` for PostgreSQL and for a file that cannot be made, ``Unavailable``.
        """
        if not self._database.is_sqlite:
            raise Invalid.field(
                "database",
                "is PostgreSQL's: use its own tools, such as pg_dump --format=custom, which copies "
                "one moment while Keyosk runs",
            )
        maintenance.backup(self._database, target)

    def check(self) -> list[Finding]:
        """Check files, references, rows, services, signing keys and the chain of the audit log."""
        database = self._database
        parts: dict[str, Callable[[], Iterable[str]]] = {
            "integrity": lambda: maintenance.faults_of_files(database),
            "references": lambda: maintenance.faults_of_references(database),
            "rows": lambda: maintenance.faults_of_json(database),
            "services": lambda: service_identifiers.shared(database),
            "signing keys": self._keys.unreadable,
            "audit log": self._faults_of_audit,
        }
        return [Finding(name, tuple(_found(look))) for name, look in parts.items()]

    def _faults_of_audit(self) -> list[str]:
        try:
            fault = self._audit_verifier.verify().fault
        except WrongSecretKey:
            return ["cannot be proven without the signing keys"]
        return [] if fault is None else [fault]
