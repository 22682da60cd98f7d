"""The keys of issuers: given by an admin, or fetched and kept in the database for all nodes.

A request never waits for a fetch if there is a matching key: a stale set is fetched again in the
background. For an unknown ``kid``, one node fetches at most every half minute. The same holds for a
wrong signature, because some issuers reuse a ``kid`` for another key. While the issuer cannot be
reached, the last valid set is used for a day.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from keyosk import clocks, delays
from keyosk.errors import Unavailable
from keyosk.model import TrustedIssuer
from keyosk.storage.database import Database
from keyosk.storage.workloads import FetchedKeys, IssuerStore
from keyosk.workloads import assertions
from keyosk.workloads.assertions import Assertion
from keyosk.workloads.documents import TIMEOUT, FetchFailed

_log = logging.getLogger(__name__)

#: Seconds for which the last valid set is used.
KEPT: Final = 86_400
#: Seconds between two fetches, after a success and after a failure.
_PAUSE: Final = 30
_PAUSE_AFTER_FAULT: Final = 10
#: Seconds for which a request waits for keys, and between two reads of the database meanwhile.
_WAIT: Final = TIMEOUT + 1
_LOOK: Final = 0.05
#: The most requests of a process that wait for keys. SECURITY: each occupies a thread, and a slow
#: issuer must not occupy all of them.
_MOST_WAITING: Final = 2
METADATA_PATH: Final = "/.well-known/openid-configuration"

Keys = Sequence[Mapping[str, Any]]


class KeysUnavailable(Unavailable):
    """The keys of an issuer are unavailable now.

    SECURITY: anyone can send a token that names the issuer. The ``reason`` reveals something about
    the network here, so only admins see it.
    """


@dataclass(frozen=True, slots=True)
class KeySetState:
    """The state of an issuer's keys.

    Attributes:
        age: Seconds since the set in use was fetched; ``None`` if there is none.
        fault: Why the last fetch failed; ``None`` if it succeeded, or there was none.
    """

    age: int | None
    fault: str | None


class KeySets:
    """Finds the keys that may have signed a token."""

    def __init__(
        self, database: Database, issuers: IssuerStore, *, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._issuers = issuers
        self._clock = clock
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        #: By issuer: the JSON text of its set, and the parsed keys.
        self._parsed: dict[str, tuple[str, Keys]] = {}

    def candidates(self, issuer: TrustedIssuer, assertion: Assertion) -> Keys:
        """Return the keys of an issuer that may have signed a token; none if there is no such key.

        Raises ``InvalidGrant`` if its algorithm is not accepted, and ``KeysUnavailable``.
        """
        if issuer.keys is not None:
            return assertions.candidates(assertion, issuer, assertions.parse_keys(issuer.keys))
        fetched, now = self._fetched(issuer), int(self._clock())
        keys = self._keys(issuer, fetched, now)
        matching = assertions.candidates(assertion, issuer, keys)
        if matching:
            if not _is_fresh(fetched, now):
                self._start(issuer, fetched, now, pause=_PAUSE_AFTER_FAULT)
            return matching
        self._wait(issuer, fetched, now, pause=_PAUSE if keys else _PAUSE_AFTER_FAULT)
        fetched = self._fetched(issuer)
        keys = self._keys(issuer, fetched, now)
        if not keys:
            fault = None if fetched is None else fetched.fault
            raise KeysUnavailable(
                "The keys of the token's issuer are not available.",
                reason=fault or "they are being fetched",
            )
        return assertions.candidates(assertion, issuer, keys)

    def doubt(self, issuer: TrustedIssuer) -> None:
        """Fetch the keys again in the background, because none of them verifies a signature."""
        if issuer.keys is None:
            self._start(issuer, self._fetched(issuer), int(self._clock()), pause=_PAUSE)

    def inspect(self, issuer: TrustedIssuer) -> KeySetState:
        """Fetch the keys of an issuer as a test, without storing them."""
        fault = None
        try:
            self._download(issuer)
        except FetchFailed as error:
            fault = str(error)
        return self._state(issuer, fault)

    def last_state(self, issuer: TrustedIssuer) -> KeySetState:
        """Return the state after the last fetch of an issuer's keys."""
        fetched = self._fetched(issuer)
        return self._state(issuer, None if fetched is None else fetched.fault)

    def _state(self, issuer: TrustedIssuer, fault: str | None) -> KeySetState:
        fetched, now = self._fetched(issuer), int(self._clock())
        if fetched is None or fetched.fetched_at is None or not self._keys(issuer, fetched, now):
            return KeySetState(None, fault)
        return KeySetState(now - fetched.fetched_at, fault)

    def _fetched(self, issuer: TrustedIssuer) -> FetchedKeys | None:
        return self._issuers.fetched_keys(issuer.id)

    def _keys(self, issuer: TrustedIssuer, fetched: FetchedKeys | None, now: int) -> Keys:
        if fetched is None or fetched.document is None or fetched.fetched_at is None:
            return ()
        if now - fetched.fetched_at > KEPT:
            return ()
        text, keys = self._parsed.get(issuer.id, ("", ()))
        if text != fetched.document:
            text, keys = fetched.document, assertions.parse_keys(json.loads(fetched.document))
            self._parsed[issuer.id] = (text, keys)
        return keys

    def _wait(
        self, issuer: TrustedIssuer, fetched: FetchedKeys | None, now: int, *, pause: int
    ) -> None:
        """Wait until a fetch that is due has ended, on any node."""
        delays.before_waiting()
        if not self._waiting.acquire(blocking=False):
            raise KeysUnavailable("Other requests are waiting for the keys of an issuer.")
        try:
            self._start(issuer, fetched, now, pause=pause)
            ends = time.monotonic() + _WAIT
            while (
                _is_running(self._fetched(issuer), int(self._clock())) and time.monotonic() < ends
            ):
                time.sleep(_LOOK)
        finally:
            self._waiting.release()

    def _start(
        self, issuer: TrustedIssuer, fetched: FetchedKeys | None, now: int, *, pause: int
    ) -> None:
        """Begin to fetch the keys, unless any node began less than ``pause`` seconds ago."""
        latest = now + clocks.APART
        # SECURITY: a read first, because a claim writes, and anyone can cause this.
        if fetched is not None and now - pause < fetched.tried_at <= latest:
            return
        if self._issuers.claim_fetch(issuer.id, now=now, not_after=now - pause, latest=latest):
            threading.Thread(target=self._fetch, args=(issuer,), daemon=True).start()

    def _fetch(self, issuer: TrustedIssuer) -> None:
        try:
            document, fresh = self._download(issuer)
        except FetchFailed as error:
            _log.warning("the keys of the issuer %s were not fetched: %s", issuer.name, error)
            self._note(partial(self._issuers.store_fault, issuer, str(error)))
        else:
            now = int(self._clock())
            store = partial(self._issuers.store_keys, now=now, fresh_until=now + fresh)
            self._note(partial(store, issuer, document))

    def _download(self, issuer: TrustedIssuer) -> tuple[str, int]:
        """Return the text of the key set, and for how many seconds it is fresh."""
        from keyosk.workloads import fetching  # noqa: PLC0415 - it is an HTTP client

        url = issuer.jwks_uri
        if url is None:
            address = issuer.issuer.rstrip("/") + METADATA_PATH
            metadata, _ = fetching.fetch_json(address, allow_private=issuer.allow_private)
            url = _jwks_uri(metadata, issuer.issuer)
        document, fresh = fetching.fetch_json(url, allow_private=issuer.allow_private)
        try:
            keys = assertions.parse_keys(document)
        except ValueError as error:
            raise FetchFailed(str(error)) from None
        return json.dumps({"keys": keys}), fresh

    def _note(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Unavailable:
            _log.warning("the keys of an issuer were not kept: the database is not available")
        finally:
            self._database.close()  # the connection of this thread


def _is_fresh(fetched: FetchedKeys | None, now: int) -> bool:
    if fetched is None or fetched.fresh_until is None or fetched.fetched_at is None:
        return False
    return now < fetched.fresh_until and not clocks.is_ahead(fetched.fetched_at, now)


def _is_running(fetched: FetchedKeys | None, now: int) -> bool:
    """Return whether some node is fetching right now."""
    if fetched is None or fetched.fault is not None:
        return False
    is_over = (
        fetched.fetched_at is not None
        and fetched.tried_at <= fetched.fetched_at <= now + clocks.APART
    )
    return not is_over and now - fetched.tried_at <= _WAIT


def _jwks_uri(metadata: Any, issuer: str) -> str:
    """Return where an issuer's metadata says its keys are (OpenID Connect Discovery 1.0, 4.3)."""
    if not isinstance(metadata, dict) or metadata.get("issuer") != issuer:
        raise FetchFailed("its metadata is that of another issuer")
    url = metadata.get("jwks_uri")
    if not isinstance(url, str):
        raise FetchFailed("its metadata has no jwks_uri")
    # SECURITY: plain http is for loopback, which only the admin's own URL may name.
    if issuer.startswith("https:") and not url.startswith("https:"):
        raise FetchFailed("the URL in its metadata is not https")
    return url
