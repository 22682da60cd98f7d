"""Counters for Prometheus, over all workers of one ``keyosk serve``.

They are numbers in memory that the processes share: allocated before the workers start, with every
page in place, so that no full file system and no limit can stop the counting. Each worker has its
own part of it, and the scrape adds them up; the successor of a worker that died continues with its
part. No label contains data from a client, such as names, addresses and secrets.
"""

import json
import mmap
import os
import struct
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LIMITS: Final = (*map(str, _SECONDS), "+Inf")
_REQUESTS: Final = "keyosk_http_requests"
_TIMES: Final = "keyosk_http_request_seconds"
_TOKENS: Final = "keyosk_tokens_issued"
_REFUSED: Final = "keyosk_logins_refused"
#: The name of a metric, what it counts and its labels.
_COUNTERS: Final = (
    (_REQUESTS, "Requests answered.", ("method", "route", "status")),
    (
        _TOKENS,
        "Access tokens issued, by what the login was proven with.",
        ("credential", "algorithm"),
    ),
    (
        _REFUSED,
        "Logins refused: wrong, or throttled before the password was looked at.",
        ("reason",),
    ),
)
#: Bytes of each part; some thousand counters have room in it.
_PART: Final = 256 * 1024
_HEAD: Final = struct.Struct("=qq")  # the process that has the part; the bytes that are used
_ENTRY: Final = struct.Struct("=dq")  # the number, and the length of its name, which follows
_NUMBER: Final = 8  # bytes


class SharedCounts:
    """Named numbers of several processes, in memory. Created by the process that starts them."""

    def __init__(self, processes: int) -> None:
        """Allocate parts for ``processes`` workers, and as many again for their replacement."""
        parts = min(2 * processes + 2, 255)
        self._memory = mmap.mmap(-1, parts * _PART)
        self._numbers = memoryview(self._memory).cast("d")  # each number stands where one may
        # Each page is written now: one that the machine had no room for later would be a SIGBUS.
        for place in range(0, parts * _PART, mmap.PAGESIZE):
            self._memory[place] = 0
        for part in range(parts):
            _HEAD.pack_into(self._memory, part * _PART, 0, _HEAD.size)
        # A byte for each part that is free: whoever reads one has it, and nobody else.
        self._free, self._give = os.pipe()
        os.set_blocking(self._free, False)
        os.write(self._give, bytes(range(parts)))
        self._parts = parts
        self._mine: tuple[int, int] | None = None

    def claim(self) -> int | None:
        """Return the part of this process, always the same; ``None`` if none is left."""
        if self._mine is not None and self._mine[0] == os.getpid():
            return self._mine[1]
        with suppress(OSError):
            for part in os.read(self._free, 1):
                self._mine = (os.getpid(), part)
                used = _HEAD.unpack_from(self._memory, part * _PART)[1]
                _HEAD.pack_into(self._memory, part * _PART, os.getpid(), used)
                return part
        return None

    def release(self, process: int) -> None:
        """Release the part of a process that ended, for its successor."""
        for part in range(self._parts):
            owner, used = _HEAD.unpack_from(self._memory, part * _PART)
            if owner == process:
                _HEAD.pack_into(self._memory, part * _PART, 0, used)
                with suppress(OSError):
                    os.write(self._give, bytes((part,)))

    def entries(self, part: int) -> Iterator[tuple[str, int, float]]:
        """Return the names in a part, with the places and values of their numbers."""
        start = part * _PART
        end = start + _HEAD.unpack_from(self._memory, start)[1]
        place = start + _HEAD.size
        while place < end:
            number, length = _ENTRY.unpack_from(self._memory, place)
            name = self._memory[place + _ENTRY.size : place + _ENTRY.size + length]
            yield name.decode(), place, number
            place += _ENTRY.size + -(-length // 8) * 8

    def insert(self, part: int, name: str) -> int | None:
        """Add a number, 0, and return its place; ``None`` if the part is full."""
        start = part * _PART
        owner, used = _HEAD.unpack_from(self._memory, start)
        text = name.encode()
        after = used + _ENTRY.size + -(-len(text) // 8) * 8
        if after > _PART:
            return None
        place: int = start + used
        _ENTRY.pack_into(self._memory, place, 0.0, len(text))
        self._memory[place + _ENTRY.size : place + _ENTRY.size + len(text)] = text
        _HEAD.pack_into(self._memory, start, owner, after)  # only now is it seen
        return place

    def add(self, place: int, amount: float) -> None:
        """Add to the number at a place."""
        self._numbers[place // _NUMBER] += amount

    def totals(self) -> dict[str, float]:
        """Return all numbers by their names, added up over all parts."""
        found: dict[str, float] = defaultdict(float)
        for part in range(self._parts):
            for name, _, number in self.entries(part):
                found[name] += number
        return found


class Metrics:
    """The counters of one process. Without shared memory, as in commands, it counts nothing.

    No method raises for lack of a resource: a request is served even if it cannot be counted.
    """

    def __init__(self, shared: SharedCounts | None = None) -> None:
        self._shared = shared
        self._part = None if shared is None else shared.claim()
        self._lock = threading.Lock()
        self._places: dict[tuple[str, ...], int | None] = {}
        if shared is not None and self._part is not None:
            self._places = {
                tuple(json.loads(name)): place for name, place, _ in shared.entries(self._part)
            }

    def request(self, method: str, route: str, status: str, *, seconds: float) -> None:
        """Count a response. ``route``: the path in the URL table, or ``none``."""
        limit = _LIMITS[bisect_left(_SECONDS, seconds)]
        self._add(
            ((_REQUESTS, method, route, status), 1),
            ((_TIMES, route, limit), 1),
            ((_TIMES, route, "sum"), seconds),
        )

    def token_issued(self, credential: str, algorithm: str) -> None:
        """Count an access token."""
        self._add(((_TOKENS, credential, algorithm), 1))

    def login_refused(self, *, throttled: bool) -> None:
        """Count a login that was refused."""
        self._add(((_REFUSED, "throttled" if throttled else "wrong"), 1))

    def page(self, accept: str) -> tuple[str, bytes]:
        """Return all counters of all workers, as media type and text.

        In Prometheus's own format or as OpenMetrics, as the ``Accept`` header prefers.
        """
        registry = CollectorRegistry()
        registry.register(self)
        write, media_type = exposition.choose_encoder(accept)
        return media_type, write(registry)

    def collect(self) -> Iterable[Any]:
        """Return the metrics in the form that ``prometheus_client`` expects from a collector."""
        shared = {} if self._shared is None else self._shared.totals()
        totals = {tuple(json.loads(name)): number for name, number in shared.items()}
        for name, text, labels in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=labels)
            for key, number in totals.items():
                if key[0] == name:
                    counter.add_metric(key[1:], number)
            yield counter
        times = HistogramMetricFamily(
            _TIMES, "Time from a whole request to the beginning of its response.", labels=("route",)
        )
        for route in dict.fromkeys(key[1] for key in totals if key[0] == _TIMES):
            below, buckets = 0.0, []
            for limit in _LIMITS:
                below += totals.get((_TIMES, route, limit), 0.0)
                buckets.append((limit, below))
            times.add_metric((route,), buckets, totals.get((_TIMES, route, "sum"), 0.0))
        yield times

    def _add(self, *amounts: tuple[tuple[str, ...], float]) -> None:
        if self._shared is None or self._part is None:
            return
        with self._lock:
            for key, amount in amounts:
                if key not in self._places:
                    self._places[key] = self._shared.insert(self._part, json.dumps(key))
                place = self._places[key]
                if place is not None:
                    self._shared.add(place, amount)
