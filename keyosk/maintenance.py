"""Looking after the database: a copy of it, and whether all that is in it holds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from keyosk.audit import Audit
from keyosk.errors import DatabaseDamaged, Invalid, WrongSecretKey
from keyosk.keys.signing_keys import SigningKeys
from keyosk.storage import maintenance, service_identifiers
from keyosk.storage.database import Database


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and what is wrong with it."""

    name: str
    faults: tuple[str, ...]


def _found(look: Callable[[], Iterable[str]]) -> Iterable[str]:
    """What is wrong with one part; damage in its way is a finding, and the other parts go on."""
    try:
        return look()
    except DatabaseDamaged as error:
        return [f"cannot be read: {error.reason}"]


class Maintenance:
    """What an operator does to keep an installation."""

    def __init__(self, database: Database, keys: SigningKeys, audit: Audit) -> None:
        self._database = database
        self._keys = keys
        self._audit = audit

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
        """Look at everything: files, references, services, signing keys, the audit log's chain."""
        database = self._database
        parts: dict[str, Callable[[], Iterable[str]]] = {
            "integrity": lambda: maintenance.faults_of_files(database),
            "references": lambda: maintenance.faults_of_references(database),
            "services": lambda: service_identifiers.shared(database),
            "signing keys": self._keys.unreadable,
            "audit log": self._faults_of_audit,
        }
        return [Finding(name, tuple(_found(look))) for name, look in parts.items()]

    def _faults_of_audit(self) -> list[str]:
        try:
            fault = self._audit.verify().fault
        except WrongSecretKey:
            return ["cannot be proven without the signing keys"]
        return [] if fault is None else [fault]
