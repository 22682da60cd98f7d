"""Records which signing keys the services have fetched, if they identify themselves."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from keyosk import clocks
from keyosk.errors import KeyoskError
from keyosk.ids import is_id
from keyosk.keys.signing_keys import is_published
from keyosk.model import NAME, SigningKey
from keyosk.storage.signing_keys import SigningKeyStore

#: Seconds after which a service's fetch is stored again.
_RESOLUTION: Final = 300
#: The most names that wait to be looked up, because anyone can invent names.
_MOST: Final = 1_000
#: The most logins that wait to be looked up, because each costs a few statements.
_MOST_LOGINS: Final = 50


class KeyFetches:
    """Remembers fetches in memory, and stores new ones."""

    def __init__(self, store: SigningKeyStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._unwritten: dict[str, tuple[str, ...]] = {}
        self._written: dict[str, tuple[tuple[str, ...], float]] = {}
        self._logins: deque[tuple[Callable[[], Iterable[str]], tuple[str, ...]]] = deque()

    def record(self, service: str, kids: tuple[str, ...]) -> None:
        """Record that a service, by name or id, fetched these keys. This never waits."""
        if not (NAME.fullmatch(service) or is_id(service)):
            return
        service = service.lower()
        now = self._clock()
        written_kids, written_at = self._written.get(service, ((), 0.0))
        is_stale = not clocks.is_recent(written_at, now, _RESOLUTION)
        if (written_kids != kids or is_stale) and len(self._unwritten) < _MOST:
            self._unwritten[service] = kids

    def record_login(self, services: Callable[[], Iterable[str]], kids: tuple[str, ...]) -> None:
        """Record that the services of a login fetched these keys. This never waits.

        ``services`` returns them, by name or id, and is called later. It may wait, and may raise
        ``KeyoskError`` for a login that proves nothing.
        """
        if len(self._logins) < _MOST_LOGINS:
            self._logins.append((services, kids))

    def write(self) -> None:
        """Store the new fetches."""
        self._identify()
        while self._unwritten:
            service, kids = self._unwritten.popitem()
            now = self._clock()
            if self._store.record_fetch(service, kids, int(now)):
                self._written[service] = (kids, now)

    def _identify(self) -> None:
        for _ in range(len(self._logins)):
            try:
                services, kids = self._logins.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                for service in services():
                    self.record(service, kids)
            except KeyoskError:
                pass  # the keys are public, so no error is reported

    def services_without(self, key: SigningKey) -> list[str]:
        """Return the services that identified themselves and have not fetched a published key."""
        if not is_published(key, int(self._clock())):
            return []
        self.write()
        fetches = self._store.key_fetches()
        return sorted(name for name, kids in fetches.items() if key.kid not in kids)
