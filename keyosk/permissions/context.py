"""What every change in the domain needs, as one value."""

from collections.abc import Callable
from dataclasses import dataclass

from keyosk.audit import Audit
from keyosk.permissions.safeguards import Safeguards
from keyosk.revocations import Revocations
from keyosk.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A change is one transaction, obeys the safeguards, revokes lost rights, and is audited."""

    database: Database
    safeguards: Safeguards
    revocations: Revocations
    audit: Audit
    clock: Callable[[], float]
