"""What an import is made of: its lines, and how each of them ended.

How they are written is the business of ``web/lines``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from keyosk.errors import Fault, Forbidden
from keyosk.model import Account, Grant
from keyosk.revocations import latest

# A batch is one transaction. 500 lines keep SQLite's only write lock for 30 to 80 ms, so that an
# admin beside the import hardly waits; with fewer, the time goes into the disk's confirmation of
# each (1 to 10 ms). The other two bounds are for lines that are large (memory) and for lines with
# a password, each of which is 20 ms of work before the batch is safe.
_LINES: Final = 500
_BYTES: Final = 1024 * 1024
_PASSWORDS: Final = 25


class OnConflict(StrEnum):
    """What to do with a line whose account is there already."""

    SKIP = "skip"
    UPDATE = "update"
    FAIL = "fail"


class Status(StrEnum):
    """How a line ended."""

    CREATED = "created"
    EXISTS = "exists"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    INVALID = "invalid"
    REFUSED = "refused"
    CONFLICT = "conflict"


#: The ends that need somebody to look at the line.
FAILED: Final = frozenset({Status.INVALID, Status.REFUSED, Status.CONFLICT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of an import.

    ``fields``: as ``accounts.drafted`` takes them, and ``password_hash``; ``grants``: ``None`` if
    the line names none; ``faults``: what is wrong with how it is written, and then the rest is
    empty. ``size`` in bytes.
    """

    number: int
    size: int
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    grants: tuple[Grant, ...] | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """How one line ended. ``account_id`` is ``None`` where there is no account, as in a dry run.

    ``warnings``: what was taken, and may be a slip. ``effective_at``: if it took rights away, the
    moment from which no service accepts a token from before it.
    """

    line: int
    status: Status
    account_id: str | None = None
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()
    effective_at: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A line that keeps all rules, and the account that it is to be. ``hash`` came with it.

    ``warnings``: what is taken, and may be a slip.
    """

    line: Line
    account: Account
    hash: str | None = field(repr=False)
    warnings: tuple[Fault, ...] = ()


@dataclass(slots=True)
class Tally:
    """How many lines ended how; ``effective_at``: the latest of theirs."""

    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    warned: int = 0
    effective_at: int | None = None

    def add(self, results: Iterable[Result]) -> None:
        """Count these as well."""
        for result in results:
            self.counts[result.status] += 1
            self.warned += bool(result.warnings)
            self.effective_at = latest(self.effective_at, result.effective_at)

    @property
    def lines(self) -> int:
        """How many lines there were, blank ones not counted."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """How many of them somebody has to look at."""
        return sum(self.counts[status] for status in FAILED)


def batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines in the portions that become one transaction each."""
    batch: list[Line] = []
    size = passwords = 0
    for line in lines:
        batch.append(line)
        size += line.size
        passwords += "password" in line.fields
        if len(batch) == _LINES or size >= _BYTES or passwords == _PASSWORDS:
            yield batch
            batch, size, passwords = [], 0, 0
    if batch:
        yield batch


def refused(line: Line, error: Forbidden) -> Result:
    """Return the end of a line that a rule forbids."""
    return Result(line.number, Status.REFUSED, faults=(Fault("line", error.detail),))
