"""The signing algorithm of each service, which chooses its key set (``KeySet.document_of``).

A service that fetches its own key set must not lose it in an outage. So what the database last said
of the services stays in memory, in every process, whether or not a service ever asked that one.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from keyosk.errors import NotFound, Unavailable
from keyosk.ids import is_id
from keyosk.keys.bounded_read import BoundedRead
from keyosk.model import NAME
from keyosk.storage.services import ServiceStore

#: Seconds between two reads of the algorithms of all services.
_FRESH: Final = 60
#: The most services that a process reads: 2 MB, and 20 ms a minute.
_MOST: Final = 10_000
_NONE: Final = "There is no such service."


class ServiceAlgorithms:
    """The algorithms of the services, as the database has them, or had them last."""

    def __init__(
        self, store: ServiceStore, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._remembered_at: float | None = None
        #: By name and by id; ``None`` for the algorithm of the installation.
        self._remembered: dict[str, str | None] = {}
        #: The names and ids that requests wait for, one entry for each request.
        self._requested: list[str] = []
        self._of_requested = BoundedRead(self._read_requested)

    def start(self) -> None:
        """Start the thread that reads the database, in a server."""
        self._of_requested.start()

    def of(self, service: str) -> tuple[str | None, bool]:
        """Return the algorithm of a service, and whether the database confirms it.

        The algorithm is ``None`` for that of the installation. ``service``: a name or an id. If the
        database does not respond in time, it is the remembered one, and not confirmed: the service
        may have another now, or be deleted. Raises ``NotFound``, ``Unavailable``.
        """
        if not (is_id(service) or NAME.fullmatch(service)):
            raise NotFound(_NONE)
        reference = service.lower()
        # Before it waits, so that every read from now on includes it.
        self._requested.append(reference)
        try:
            algorithms = self._of_requested.result(None)
        finally:
            self._requested.remove(reference)
        if algorithms is None:
            if reference not in self._remembered:
                raise Unavailable("The database is not available.")
            return self._remembered[reference], False
        if reference not in algorithms:
            self._remembered.pop(reference, None)
            raise NotFound(_NONE)
        self._remembered[reference] = algorithms[reference]
        return algorithms[reference], True

    def remember(self) -> None:
        """Read the algorithms of all services, once a minute; others before that do nothing."""
        now = self._monotonic()
        if self._remembered_at is not None and now - self._remembered_at < _FRESH:
            return
        with suppress(Unavailable):
            self._remembered = self._store.algorithms(_MOST)
            self._remembered_at = now

    def _read_requested(self) -> Mapping[str, str | None]:
        """Read the algorithms of the requested services, without those that do not exist."""
        algorithms: dict[str, str | None] = {}
        for reference in set(self._requested):
            with suppress(NotFound):
                algorithms[reference] = self._store.algorithm_of(reference)
        return algorithms
