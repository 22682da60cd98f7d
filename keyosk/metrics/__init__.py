"""Metrics for Prometheus, over all workers of one ``keyosk serve``.

It owns what is counted, the table of all metrics (``families``) and their text. It does not own
what is read from the database at a scrape, which ``monitoring`` gives it.

Counts are numbers in memory that the processes share (``shared_counts``): allocated before the
workers start, with every page written, so that neither a full file system nor a limit can stop the
counting. Each worker has its own part, and a scrape adds them up; the successor of a worker that
died continues with its part. No label contains data from a client, such as names, addresses and
secrets.
"""

import json
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Final

from keyosk.metrics.families import (
    BUCKETS,
    DATABASE_FAILURES,
    FAMILIES,
    HASHING,
    HASHING_REFUSED,
    HASHING_SECONDS,
    HASHING_WAITING,
    IN_FLIGHT,
    LIMITS,
    LOGINS_REFUSED,
    PASSING,
    QUERY_SECONDS,
    REPEATED,
    REQUEST_SECONDS,
    REQUESTS,
    SERVICE_TOKENS,
    SUM,
    TOKENS,
    TOKENS_REFUSED,
    Family,
    Key,
)
from keyosk.metrics.shared_counts import NUMBER, SharedCounts

__all__ = ["FAMILIES", "Family", "Key", "Metrics", "SharedCounts", "release"]

#: The most audiences that a process counts separately, because the memory is limited.
_MOST_AUDIENCES: Final = 300
_TOKENS: Final[Key] = (TOKENS,)


def release(counts: SharedCounts, process: int) -> None:
    """Keep the counts of a process that ended, for its successor."""
    counts.release(process, passing=PASSING)


class Metrics:
    """The counters of one process. Without shared memory, as in commands, it counts nothing.

    No method raises for lack of a resource: a request is served even if it cannot be counted.
    """

    def __init__(self, shared: SharedCounts | None = None, *, claim: bool = True) -> None:
        """``claim``: false for a process that will be forked before it counts."""
        self._shared = shared
        self._part: int | None = None
        self._lock = threading.Lock()
        self._audiences: set[str] = set()
        self._counted: dict[Key, int] = {}
        self._places: dict[Key, int | None] = {}
        self._queries: tuple[memoryview[float], tuple[int, ...], int] | None = None
        if claim:
            self.claim()

    def claim(self) -> None:
        """Claim a part of the memory for this process, which counts nothing before."""
        shared = self._shared
        if shared is None:
            return
        self._part = shared.claim()
        if self._part is not None:
            self._places = {
                tuple(json.loads(name)): place // NUMBER
                for name, place, _ in shared.entries(self._part)
            }
        self._queries = self._place_queries()

    def _place_queries(self) -> "tuple[memoryview[float], tuple[int, ...], int] | None":
        """Return the numbers, and the places of those that ``query`` adds to."""
        if self._shared is None:
            return None
        keys = [*((QUERY_SECONDS, limit) for limit in LIMITS), (QUERY_SECONDS, SUM)]
        self._add(*[(key, 0) for key in keys])
        places = [place for place in map(self._places.get, keys) if place is not None]
        if len(places) < len(keys):  # no part, or no room in it
            return None
        return self._shared.numbers, tuple(places[:-1]), places[-1]

    def request_began(self) -> None:
        """Count a request that has no response yet; ``request`` or ``request_ended`` follows."""
        self._add(((IN_FLIGHT,), 1))

    def request_ended(self) -> None:
        """Count that a request has ended without a response of its own."""
        self._add(((IN_FLIGHT,), -1))

    def request(self, method: str, route: str, status: str, *, seconds: float) -> None:
        """Count a response. ``route``: the path in the URL table, or ``none``."""
        self._add(
            ((IN_FLIGHT,), -1),
            ((REQUESTS, method, route, status), 1),
            ((REQUEST_SECONDS, route, LIMITS[bisect_left(BUCKETS, seconds)]), 1),
            ((REQUEST_SECONDS, route, SUM), seconds),
        )

    def token_issued(
        self, credential: str, algorithm: str, *, grant_type: str, audiences: tuple[str, ...]
    ) -> None:
        """Count an access token. ``audiences``: of services; none for a proof of identity."""
        counted = self._audiences
        if len(counted) < _MOST_AUDIENCES:
            counted.update(audiences)
        self._add(
            ((TOKENS, credential, algorithm, grant_type), 1),
            *[
                ((SERVICE_TOKENS, audience if audience in counted else "", "of"), 1)
                for audience in audiences
            ],
            *(() if audiences else (((SERVICE_TOKENS, "none"), 1),)),
        )
        with self._lock:  # as ``_count``, without a call: every token passes here
            self._counted[_TOKENS] = self._counted.get(_TOKENS, 0) + 1

    def token_refused(self, reason: str) -> None:
        """Count a token request that was refused, by the error code of its response."""
        self._add(((TOKENS_REFUSED, reason), 1))
        self._count((TOKENS_REFUSED, reason))

    def login_refused(self, *, throttled: bool) -> None:
        """Count a login that was refused."""
        refused = (LOGINS_REFUSED, "throttled" if throttled else "wrong")
        self._add((refused, 1))
        self._count(refused)

    def query(self, seconds: float) -> None:
        """Count a statement or a commit in the database."""
        if self._queries is None:
            return
        # Not by ``_add``: each request passes here several times.
        numbers, places, total = self._queries
        place = places[bisect_left(BUCKETS, seconds)]
        with self._lock:
            numbers[place] += 1
            numbers[total] += seconds

    def database_failed(self) -> None:
        """Count a statement or a commit for which the database was not available."""
        self._add(((DATABASE_FAILURES,), 1))

    def hash_waits(self) -> None:
        """Count a login that waits for a hashing slot; one of the next two follows."""
        self._add(((HASHING_WAITING,), 1))

    def hash_begins(self) -> None:
        """Count that a waiting login got a slot; ``hash_ended`` follows."""
        self._add(((HASHING_WAITING,), -1), ((HASHING,), 1))

    def hash_refused(self) -> None:
        """Count that a waiting login got no slot."""
        self._add(((HASHING_WAITING,), -1), ((HASHING_REFUSED,), 1))

    def hash_ended(self, seconds: float) -> None:
        """Count that a login released its slot."""
        self._add(
            ((HASHING,), -1),
            ((HASHING_SECONDS, LIMITS[bisect_left(BUCKETS, seconds)]), 1),
            ((HASHING_SECONDS, SUM), seconds),
        )

    def repeatable_request(self, result: str) -> None:
        """Count a request with an Idempotency-Key: ``first``, ``repeated`` or ``refused``."""
        self._add(((REPEATED, result), 1))

    def take_counted(self) -> Mapping[Key, int]:
        """Return and reset the tokens and refusals since the last call, for ``activity``.

        They are counted without shared memory too.
        """
        with self._lock:
            counted, self._counted = self._counted, {}
        return counted

    def page(
        self,
        accept: str,
        readings: Mapping[Key, float],
        *,
        services: Mapping[str, str] | None = None,
        summarise: Callable[[Mapping[Key, float]], Mapping[Key, float]] = lambda _: {},
    ) -> tuple[str, bytes]:
        """Return all metrics of all workers, as media type and text.

        In Prometheus's own format or as OpenMetrics, as the ``Accept`` header prefers.

        Args:
            accept: The header.
            readings: The gauges, and series that exist at 0.
            services: The names of the services by audience; ``None`` if they are not known.
            summarise: Computes further series from all numbers.
        """
        numbers = {**readings, **self._counts(services)}
        from keyosk.metrics import exposition  # noqa: PLC0415 - many processes are never asked

        return exposition.render({**numbers, **summarise(numbers)}, accept)

    def _counts(self, services: Mapping[str, str] | None) -> dict[Key, float]:
        if self._shared is None:
            return {}
        counts: dict[Key, float] = {
            ("keyosk_start_timestamp_seconds",): self._shared.started_at,
            ("keyosk_workers",): float(self._shared.processes()),
        }
        for name, number in self._shared.totals().items():
            key = tuple(json.loads(name))
            if key[0] == SERVICE_TOKENS and len(key) > 2:
                if services is None:
                    continue
                key = (SERVICE_TOKENS, services.get(key[1], "other"))
            counts[key] = counts.get(key, 0.0) + number
        return counts

    def _count(self, key: Key) -> None:
        with self._lock:
            self._counted[key] = self._counted.get(key, 0) + 1

    def _add(self, *amounts: tuple[Key, float]) -> None:
        # No calls except into C: each request passes here several times.
        shared = self._shared
        if shared is None or self._part is None:
            return
        with self._lock:
            places, numbers = self._places, shared.numbers
            for key, amount in amounts:
                place = places.get(key, -1)
                if place == -1:
                    inserted = shared.insert(self._part, json.dumps(key))
                    place = places[key] = None if inserted is None else inserted // NUMBER
                if place is not None:
                    numbers[place] += amount
