"""Counts of issued tokens and refusals per minute, for some days, and the list of nodes.

It owns the counts that outlive a process and are summed over all nodes, for people. It does not own
``/metrics``, which has the counters of one node.

No request waits for it: a request adds to a number in memory, and a thread of each process writes
the sums every ``EVERY`` seconds. If a process dies, the counts of these seconds are lost.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from keyosk.errors import KeyoskError
from keyosk.metrics import Metrics
from keyosk.metrics.families import LOGINS_REFUSED, TOKENS, TOKENS_REFUSED
from keyosk.model import ActivityCount, Node
from keyosk.storage.activity import ActivityStore
from keyosk.storage.database import Database

_log = logging.getLogger(__name__)

#: Seconds between two writes.
EVERY: Final = 10
#: Seconds for which counts and nodes are kept.
KEPT: Final = 2 * 86_400
#: Seconds after which a node that has not reported counts as down.
SEEN: Final = 120
_MINUTE: Final = 60
_HEARTBEAT: Final = 45
#: Seconds between two deletions of old counts.
_FORGET_EVERY: Final = 3_600
#: The most counts (minute and kind) that wait while the database is unavailable.
_MOST: Final = 1_000


class Activity:
    """Writes and reads the counts and the nodes."""

    def __init__(
        self,
        database: Database,
        store: ActivityStore,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._waiting: Counter[tuple[int, str]] = Counter()
        self._forgot_at = 0

    def write(self, node: Node | None = None) -> None:
        """Store the counts since the last call, and that ``node`` is running.

        Raises ``Unavailable``; the counts then wait for the next call.
        """
        now = int(self._clock())
        for key, count in self._metrics.take_counted().items():
            if len(self._waiting) < _MOST:
                self._waiting[now // _MINUTE * _MINUTE, " ".join(key)] += count
        if self._waiting:
            self._store.add(self._waiting)
            self._waiting.clear()
        if node is not None:
            self._store.see(replace(node, seen_at=now), every=_HEARTBEAT)
        if abs(now - self._forgot_at) >= _FORGET_EVERY:
            self._store.forget(now - KEPT, now + KEPT)
            self._forgot_at = now

    def write_in_background(self, name: str, version: str, *, then: Callable[[], None]) -> None:
        """Start the thread of this process that writes the counts.

        ``name`` and ``version``: those of its node; ``then``: called after each write.
        """
        now = int(self._clock())
        node = Node(name=name, version=version, started_at=now, seen_at=now)

        def run() -> None:
            while True:
                try:
                    self.write(node)
                    then()
                except KeyoskError:  # a request that needs the database reports it
                    pass
                except Exception as error:  # noqa: BLE001 - the next turn may help
                    _log.error("the activity was not written: %s", type(error).__name__)
                finally:
                    self._database.close()  # this thread rarely needs a connection
                time.sleep(EVERY)

        threading.Thread(target=run, name="activity", daemon=True).start()

    def counts(self, since: int, until: int, step: int) -> list[ActivityCount]:
        """Return the counts of each ``step`` seconds, including those in which nothing happened."""
        start = since // step * step
        by_moment: dict[int, dict[str, dict[str, int]]] = {
            moment: {TOKENS: {}, TOKENS_REFUSED: {}, LOGINS_REFUSED: {}}
            for moment in range(start, until, step)
        }
        for moment, kind, count in self._store.totals(start, until, step):
            name, _, reason = kind.partition(" ")
            if moment in by_moment and name in by_moment[moment]:
                by_moment[moment][name][reason] = count
        return [
            ActivityCount(
                time=moment,
                tokens_issued=sum(kinds[TOKENS].values()),
                tokens_refused=kinds[TOKENS_REFUSED],
                logins_refused=kinds[LOGINS_REFUSED],
            )
            for moment, kinds in by_moment.items()
        ]

    def nodes(self) -> list[tuple[Node, bool]]:
        """Return the nodes, by name, and whether each is up."""
        now = int(self._clock())
        return [(node, abs(now - node.seen_at) <= SEEN) for node in self._store.nodes()]
