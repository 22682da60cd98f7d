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
from keyosk.keys.confirmation import Confirmation
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
        self._remembered: float | None = None
        #: By name and by id; ``None`` for the algorithm of the installation.
        self._known: dict[str, str | None] = {}
        self._wanted: list[str] = []
        self._confirmation = Confirmation(self._ask)

    def start(self) -> None:
        """Start the thread that asks the database, in a server."""
        self._confirmation.start()

    def of(self, service: str) -> tuple[str | None, bool]:
        """Return the algorithm of a service, and whether the database confirms it.

        The algorithm is ``None`` for that of the installation. ``service``: a name or an id. If the
        database does not respond in time, it is as it was last known, and not confirmed: the
        service may have another now, or be deleted. Raises ``NotFound``, ``Unavailable``.
        """
        if not (is_id(service) or NAME.fullmatch(service)):
            raise NotFound(_NONE)
        reference = service.lower()
        # Before it asks, so that every question from now on includes it.
        self._wanted.append(reference)
        try:
            found = self._confirmation.answer(None)
        finally:
            self._wanted.remove(reference)
        if found is None:
            if reference not in self._known:
                raise Unavailable("The database is not available.")
            return self._known[reference], False
        if reference not in found:
            self._known.pop(reference, None)
            raise NotFound(_NONE)
        self._known[reference] = found[reference]
        return found[reference], True

    def remember(self) -> None:
        """Read the algorithms of all services, once a minute; others before that do nothing."""
        now = self._monotonic()
        if self._remembered is not None and now - self._remembered < _FRESH:
            return
        with suppress(Unavailable):
            self._known = self._store.algorithms(_MOST)
            self._remembered = now

    def _ask(self) -> Mapping[str, str | None]:
        """Ask the database for the services that are wanted; leave out those that do not exist."""
        found: dict[str, str | None] = {}
        for reference in set(self._wanted):
            with suppress(NotFound):
                found[reference] = self._store.algorithm_of(reference)
        return found
