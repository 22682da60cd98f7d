"""The gauges of an installation, which are read at each scrape.

It owns what is read from the database and from memory. It does not own the counters and the text of
``/metrics``: see ``metrics``.

A scrape never waits long: a thread reads the database, at most every few seconds. If the database
does not respond, the last numbers are shown and ``keyosk_database_up`` is 0.
"""

import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from keyosk import __version__
from keyosk.credentials import throttling
from keyosk.credentials.concurrency import HashingLimit
from keyosk.errors import KeyoskError
from keyosk.idempotency import KEPT
from keyosk.keys.key_fetches import KeyFetches
from keyosk.keys.lifetimes import KeyPolicy
from keyosk.keys.signing_keys import SigningKeys
from keyosk.metrics import FAMILIES, Key
from keyosk.metrics.families import ALGORITHMS, SERVICE_TOKENS, THROTTLED
from keyosk.model import KeyState, SigningKey
from keyosk.storage.database import Database
from keyosk.storage.monitoring import MonitoringStore

#: Seconds for which a reading of the database is used again.
_FRESH: Final = 5.0
#: Seconds for which a scrape waits for a reading.
_PATIENCE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Readings:
    """Numbers by metric and labels; ``services``: the names of services by audience, if known."""

    numbers: Mapping[Key, float]
    services: Mapping[str, str] | None = None


#: For a process that has no installation yet.
NOTHING: Final = Readings(
    {(family.name,): 0.0 for family in FAMILIES if family.kind == "gauge" and not family.labels}
)


@dataclass(slots=True)
class _LastRead:
    """The last numbers from the database."""

    numbers: dict[Key, float] = field(default_factory=dict)
    services: dict[str, str] | None = None
    is_up: bool = False


class Monitor:
    """Reads the state of an installation."""

    def __init__(
        self,
        database: Database,
        store: MonitoringStore,
        *,
        signing_keys: SigningKeys,
        key_fetches: KeyFetches,
        key_policy: KeyPolicy,
        hashing_limit: HashingLimit,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._store = store
        self._signing_keys = signing_keys
        self._key_fetches = key_fetches
        self._key_policy = key_policy
        self._hashing_limit = hashing_limit
        self._clock = clock
        self._last_read = _LastRead()
        self._read_at = float("-inf")
        self._reader: threading.Thread | None = None
        self._starting = threading.Lock()

    def readings(self) -> Readings:
        """Return the present numbers; those from the database may be some seconds old."""
        is_late = self._read_database()
        last_read = self._last_read
        return Readings(
            {
                **NOTHING.numbers,
                **last_read.numbers,
                ("keyosk_build_info", *_build(self._database)): 1.0,
                ("keyosk_hashing_slots",): float(self._hashing_limit.number),
                ("keyosk_database_up",): float(last_read.is_up and not is_late),
                **dict.fromkeys(
                    ((SERVICE_TOKENS, name) for name in (last_read.services or {}).values()), 0.0
                ),
            },
            last_read.services,
        )

    def _read_database(self) -> bool:
        """Read the database in a thread if that is due; returns whether it takes too long."""
        with self._starting:
            reader = self._reader
            if reader is None or not reader.is_alive():
                if time.monotonic() - self._read_at < _FRESH:
                    return False
                reader = self._reader = threading.Thread(
                    target=self._read, name="monitoring", daemon=True
                )
                reader.start()
        reader.join(_PATIENCE)
        return reader.is_alive()

    def _read(self) -> None:
        try:
            numbers = dict(self._from_database())
            services = self._store.services()
        except KeyoskError:
            self._last_read = _LastRead(self._last_read.numbers, self._last_read.services)
        else:
            self._last_read = _LastRead(numbers, services, is_up=True)
        finally:
            self._read_at = time.monotonic()
            self._database.close()

    def _from_database(self) -> Iterator[tuple[Key, float]]:
        now = int(self._clock())
        used, most = self._database.connections()
        waiting, oldest = self._store.unsealed()
        sealed = self._store.sealed()
        covered, signed_at = self._store.checkpoint()
        numbers = {
            "keyosk_database_size_bytes": self._database.size(),
            "keyosk_database_connections": used,
            "keyosk_database_connections_max": most,
            "keyosk_revocations": self._store.revocations(now),
            "keyosk_refresh_sessions": self._store.refresh_sessions(now),
            "keyosk_idempotency_stored_responses": self._store.stored_responses(now - KEPT),
            "keyosk_audit_unsealed_rows": waiting,
            "keyosk_audit_oldest_unsealed_timestamp_seconds": oldest,
            "keyosk_audit_sealed_rows": sealed,
            "keyosk_audit_checkpoint_timestamp_seconds": signed_at,
            "keyosk_audit_checkpoint_lag_rows": max(0, sealed - covered),
            "keyosk_database_read_timestamp_seconds": now,
        }
        for name, number in numbers.items():
            yield (name,), float(number)
        throttled = self._store.throttled(int(self._clock() * 1000))
        for kind in THROTTLED:
            yield ("keyosk_throttled", kind), float(throttled.get(throttling.ROOMS[kind], 0))
        keys = self._signing_keys.all()
        for algorithm in ALGORITHMS:
            yield from self._of_keys(algorithm, [k for k in keys if k.algorithm == algorithm])

    def _of_keys(self, algorithm: str, keys: list[SigningKey]) -> Iterator[tuple[Key, float]]:
        for state in KeyState:
            if state is not KeyState.GONE:
                number = sum(key.state is state for key in keys)
                yield ("keyosk_signing_keys", algorithm, state.value), float(number)
        active = next((key for key in keys if key.state is KeyState.ACTIVE), None)
        following = next((key for key in keys if key.state is KeyState.NEXT), None)
        began = (active.active_from if active is not None else None) or 0
        every = self._key_policy.rotate_every
        planned = began + every if began and every else 0
        if following is not None:
            planned = following.active_from or 0
        laggards = [] if following is None else self._key_fetches.services_without(following)
        for name, number in (
            ("active_timestamp_seconds", began),
            ("rotation_timestamp_seconds", planned),
            ("laggards", len(laggards)),
        ):
            yield (f"keyosk_signing_key_{name}", algorithm), float(number)


def _build(database: Database) -> tuple[str, str, str]:
    kind = "sqlite" if database.is_sqlite else "postgresql"
    return __version__, platform.python_version(), kind
