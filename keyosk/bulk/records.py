"""The lines of an import and their results.

``web/lines`` parses and writes them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from keyosk.errors import Fault, Forbidden
from keyosk.model import Grant
from keyosk.revocations import latest

# A batch is one transaction. 500 lines hold SQLite's write lock for 30 to 80 ms, so that others
# hardly wait; smaller batches spend their time on commits (1 to 10 ms each). The other two bounds
# limit memory, and the time for hashing passwords (20 ms each).
_LINES: Final = 500
_BYTES: Final = 1024 * 1024
_PASSWORDS: Final = 25


class OnConflict(StrEnum):
    """What to do with a line whose account exists already."""

    SKIP = "skip"
    UPDATE = "update"
    FAIL = "fail"


class Status(StrEnum):
    """The status of a line's result."""

    CREATED = "created"
    EXISTS = "exists"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    INVALID = "invalid"
    REFUSED = "refused"
    CONFLICT = "conflict"


#: The statuses of lines that need attention.
FAILED: Final = frozenset({Status.INVALID, Status.REFUSED, Status.CONFLICT})


# The three classes for each line are not frozen: creating a frozen object takes five times as long.
@dataclass(slots=True, kw_only=True)
class Line:
    """One line of an import.

    ``fields``: the arguments of ``accounts.new_account``, and ``password_hash``; ``grants``:
    ``None`` if the line has none; ``faults``: the errors of its form; then the rest is empty.
    ``size``: in bytes.
    """

    number: int
    size: int
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    grants: tuple[Grant, ...] | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(slots=True)
class Result:
    """The result of one line. ``account_id`` is ``None`` if there is no account, as in a dry run.

    ``warnings``: about values that were accepted and may be mistakes. ``effective_at``: set if the
    line removed rights; from then on no service accepts a token from before it.
    """

    line: int
    status: Status
    account_id: str | None = None
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()
    effective_at: int | None = None


@dataclass(slots=True)
class Candidate:
    """A valid line with the account that it describes; ``hash``: the password hash of the line.

    ``account``: as of ``accounts.new_account_values``. ``warnings``: about values that are accepted
    and may be mistakes.
    """

    line: Line
    account: Mapping[str, Any]
    hash: str | None = field(repr=False)
    warnings: tuple[Fault, ...] = ()


@dataclass(slots=True)
class Tally:
    """The number of lines by status; ``effective_at``: the latest of all."""

    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    warned: int = 0
    effective_at: int | None = None

    def add(self, results: Iterable[Result]) -> None:
        """Add the results of a batch."""
        for result in results:
            self.counts[result.status] += 1
            self.warned += bool(result.warnings)
            self.effective_at = latest(self.effective_at, result.effective_at)

    @property
    def lines(self) -> int:
        """The number of lines, without blank ones."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """The number of lines that failed."""
        return sum(self.counts[status] for status in FAILED)


def batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Yield the lines in batches, one for each transaction."""
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
    """Return the result of a line that a rule forbids."""
    return Result(line.number, Status.REFUSED, faults=(Fault("line", error.detail),))
