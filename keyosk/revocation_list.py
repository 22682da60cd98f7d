"""The list of revocations that services poll, built once per change for all readers.

``revocations`` decides what is on it.
"""

import bisect
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

from keyosk.model import Claim, Revocation
from keyosk.revocations import Revocations
from keyosk.storage.revocations import RevocationStore

#: Seconds after which the entries are read again even if no number has changed.
_REREAD: Final = 60
_NEVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class Published:
    """The response to a poll: the entries above ``since``, and the highest number.

    ``since`` is 0 if these are all entries, also after a request for a number that does not exist.
    """

    sequence: int
    since: int
    revocations: tuple[Revocation, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All published entries ``at`` a time; none expires before ``until``.

    ``reread``: when all entries must be read again. ``rendered``: a cache of responses by request,
    shared by all readers.
    """

    published: Published
    at: int
    until: int
    reread: int
    rendered: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    #: The subjects of the entries, and perhaps more: entries with these may be superseded.
    subjects: set[str] = field(default_factory=set, repr=False, compare=False)

    def is_current(self, last: int, now: int) -> bool:
        """Return whether the snapshot is current, given the present highest number."""
        return self.published.sequence == last and self.at <= now < min(self.until, self.reread)


class RevocationList:
    """The revocations in force, in one process."""

    def __init__(
        self, revocations: Revocations, store: RevocationStore, clock: Callable[[], float]
    ) -> None:
        self._revocations = revocations
        self._store = store
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._building = threading.Lock()

    def published(self, since: int = 0) -> Published:
        """Return the revocations in force with numbers above ``since``."""
        published = self.snapshot().published
        entries = published.revocations
        start = since if since <= published.sequence else 0
        if entries and start < entries[0].sequence:
            start = 0  # all entries: the reader replaces what it has
        # In order, and most readers ask for the last few.
        first = bisect.bisect_right(entries, start, key=lambda entry: entry.sequence)
        return Published(published.sequence, start, entries[first:])

    def snapshot(self) -> "Snapshot":
        """Return all entries in force, which are read again only after a change.

        It queries the database for one number only.
        """
        last, now = self._store.last(), int(self._clock())
        current = self._snapshot
        if current is None or not current.is_current(last, now):
            with self._building:  # one thread builds it, the others wait
                current = self._snapshot
                if current is None or not current.is_current(last, now):
                    current = self._snapshot = self._read_snapshot(now)
        return current

    def _read_snapshot(self, now: int) -> "Snapshot":
        self._revocations.correct()
        # Read before the entries, so that an entry added in between is published twice, not missed.
        last = self._store.last()
        before = self._snapshot
        if (
            before is not None
            and before.published.sequence <= last
            and before.at <= now < before.reread
        ):
            extended = self._extend(before, last, now)
            if extended is not None:
                return extended
        entries = self._store.since(0, now)
        subjects = {name for entry in entries for name in (entry.value, entry.account) if name}
        published = Published(last, 0, entries)
        return Snapshot(published, now, _first_expiry(entries), now + _REREAD, subjects=subjects)

    def _extend(self, before: Snapshot, last: int, now: int) -> Snapshot | None:
        """Return the snapshot with the newer entries added, which are usually few.

        ``None`` if all entries must be read: their numbers changed, or no old one is left.
        """
        entries = before.published.revocations
        new = self._store.since(entries[-1].sequence if entries else before.published.sequence, now)
        if not 0 < self._store.first(now) <= before.published.sequence:
            return None
        until = before.until
        if now >= until:
            entries = tuple(entry for entry in entries if entry.expires > now)
            until = _first_expiry(entries)
        if any(entry.value in before.subjects for entry in new if entry.issued_before is not None):
            superseded, names = _superseded_by(new), {entry.value for entry in new}
            entries = tuple(
                entry
                for entry in entries
                if (entry.value not in names and entry.account not in names)
                or not superseded(entry)
            )
        before.subjects.update(
            name for entry in new for name in (entry.value, entry.account) if name
        )
        published = Published(last, 0, (*entries, *new))
        return Snapshot(
            published, now, min(until, _first_expiry(new)), before.reread, subjects=before.subjects
        )


def _first_expiry(entries: Collection[Revocation]) -> int:
    """Return when the first entry expires; a time far ahead if there is none."""
    return min((entry.expires for entry in entries), default=_NEVER)


def _superseded_by(new: Collection[Revocation]) -> Callable[[Revocation], bool]:
    """Return a predicate: does a new entry include an older one? Storage deletes those as well."""
    moments = {
        (entry.claim, entry.value): entry.issued_before
        for entry in new
        if entry.issued_before is not None
    }

    def superseded(entry: Revocation) -> bool:
        moment = moments.get((entry.claim, entry.value))
        if moment is not None and entry.issued_before is not None:
            return entry.issued_before <= moment
        # SECURITY: a token that may be newer than that keeps its own entry.
        moment = moments.get((Claim.SUB, entry.account or ""))
        return moment is not None and entry.issued_at is not None and entry.issued_at < moment

    return superseded
