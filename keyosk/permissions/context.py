"""What every change of the domain works with, as one value."""

from collections.abc import Callable
from dataclasses import dataclass

from keyosk.audit import Audit
from keyosk.permissions.safeguards import Safeguards
from keyosk.revocations import Revocations
from keyosk.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A change is one transaction, keeps the rules, revokes what it takes away, and is recorded."""

    database: Database
    safeguards: Safeguards
    revocations: Revocations
    audit: Audit
    clock: Callable[[], float]
