"""The signing keys of an installation: which keys sign, and which are published.

Each process keeps them in memory, so neither a token nor the key set waits for the database. The
stored keys and the clock determine which key signs, so every process on every machine changes over
at the same planned moment, even if it has not just read the keys. ``rotation`` plans the life of a
key; ``private_keys`` stores the private keys.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from keyosk import clocks, delays
from keyosk.errors import Conflict, DatabaseDamaged, Invalid, NotFound, Unavailable
from keyosk.keys.bounded_read import BoundedRead
from keyosk.keys.hsm import HsmKey
from keyosk.keys.key_set import KeySet, Signer, Verifier, verifier_of
from keyosk.keys.material import PrivateKey
from keyosk.keys.private_keys import PrivateKeys
from keyosk.model import COMMON_ALGORITHMS, KeyState, SigningKey
from keyosk.storage.signing_keys import SigningKeyStore

#: The most published keys of one algorithm: the next, the active, and retired ones.
MOST: Final = 5
#: Seconds between two reads of the keys, which other processes may change.
FRESH: Final = 1.0
#: Seconds after which every process has read a new key.
SPREAD: Final = 2
_FAR: Final = 2**62
_OVER: Final = (KeyState.GONE, KeyState.COMPROMISED)

_log = logging.getLogger(__name__)


class SigningKeys:
    """The installation's signing keys in one process."""

    def __init__(
        self,
        store: SigningKeyStore,
        private_keys: PrivateKeys,
        *,
        algorithm: str,
        clock: Callable[[], float],
    ) -> None:
        """Set ``algorithm``: the algorithm of new tokens, one of ``COMMON_ALGORITHMS``."""
        self._store = store
        self._private_keys = private_keys
        self.algorithm = algorithm
        self._clock = clock
        self._rows: tuple[SigningKey, ...] = ()
        self._private: dict[str, PrivateKey | HsmKey] = {}
        self._current: KeySet | None = None
        self._refreshed = 0.0
        self._in_background = False
        self._compromised = BoundedRead(store.compromised)
        self._reading = threading.RLock()
        self._replacing = threading.Lock()

    @property
    def current(self) -> KeySet:
        """Return the present key set, from the keys as they were last read.

        The keys are read every second. Raises ``Unavailable`` before the first key, and
        ``DatabaseDamaged`` if no key that could sign can be used.
        """
        if self._current is None:
            self.refresh()
        elif not (self._in_background or clocks.is_recent(self._refreshed, self._clock(), FRESH)):
            self._refresh_quietly()
        if self._is_over():
            self._build()
        if self._current is None:
            for fault in faults(self._rows):
                raise DatabaseDamaged("There is no signing key.", reason=fault)
            raise Unavailable("There is no signing key.")
        return self._current

    def confirmed(self, since: float | None = None) -> tuple[KeySet, bool]:
        """Return the key set, and whether the database confirms that no key in it is stolen.

        If the database does not respond in time, it is not confirmed: a key in it may have been
        declared stolen elsewhere, so nobody may keep it for longer than a key set may be out of
        date here (``FRESH``). ``since``: the time of the request by ``time.monotonic``. A read that
        began after it counts, even one for another request.
        """
        compromised = self._compromised.result(since)
        if compromised is None:
            return self.current, False
        try:
            return self._current_with(compromised), True
        except Unavailable:
            return self.current, False

    def signer(self, algorithm: str | None, *, compromised: int | None = None) -> Signer:
        """Return the key that signs with an algorithm, ``None`` for the installation's.

        The first key of an algorithm is generated when it is needed. Until a published key begins
        to sign, the installation's key signs. ``compromised``: the number of compromised keys that
        the caller has just read; if it is new, the keys are read again. Raises ``Unavailable``.
        """
        keys = self.current if compromised is None else self._current_with(compromised)
        signer = _signer_of(keys, algorithm)
        if signer is None:
            self.ensure(algorithm)
            keys = self.current
            signer = keys.signers.get(algorithm or self.algorithm)
        if signer is None:
            raise DatabaseDamaged(
                f"No key of {algorithm} can be used.", reason=", ".join(faults(self._rows)) or None
            )
        # SECURITY: the response waits until every process has published the key. The very first
        # key is an exception, because there was no other. The stored second may just have begun.
        is_first = not keys.compromised and signer.published_at <= keys.every[0].published_at
        wait = signer.published_at + 1 + SPREAD - self._clock()
        # A longer wait means that a clock that was ahead published the key, which was earlier.
        if 0 < wait <= 1 + SPREAD and not is_first:
            delays.delay_response(wait)
        return signer

    def known_signer(self, algorithm: str | None) -> Signer | None:
        """Return the same as ``signer``, but ``None`` for an algorithm without a key."""
        return _signer_of(self.current, algorithm)

    def verifier(self, kid: str, *, published: bool) -> Verifier | None:
        """Return the public key of a key; ``published``: only while it is in the set."""
        keys = self.current
        kid = self.kid_of(kid)
        if published:
            return keys.verifiers.get(kid)
        return next((verifier_of(key) for key in keys.every if key.kid == kid), None)

    def kid_of(self, key_id: str) -> str:
        """Return the ``kid`` of the key that a token's header names.

        The header may name it as version 2 of the container registry does.
        """
        # Only such a ``kid`` has colons.
        return self.current.of_registries.get(key_id, key_id) if ":" in key_id else key_id

    def refresh(self) -> None:
        """Read the keys again. Raises ``WrongSecretKey``, ``Unavailable``."""
        delays.before_waiting()  # a new one may have to be opened in an HSM
        # SECURITY: rows that were read before another thread's must not come to replace them.
        with self._reading:
            self.adopt(self._store.all())

    def _current_with(self, compromised: int) -> KeySet:
        """Return the key set, read anew unless it knows of this many compromised keys."""
        # SECURITY: only this set is used below, because another thread may store an older one.
        keys = self.current
        if keys.compromised == compromised:
            return keys
        delays.before_waiting()
        with self._reading:  # of several requests at once, one reads them
            if self.current.compromised != compromised:
                self.refresh()
            return self.current

    def adopt(self, rows: tuple[SigningKey, ...]) -> None:
        """Use all keys as the database has them now. Raises ``WrongSecretKey``."""
        is_same = rows is self._rows
        before, self._rows = self._rows, rows
        for fault in {*faults(rows)} - {*faults(before)}:
            _log.error("signing key %s", fault)
        self._refreshed = self._clock()
        # Otherwise every process would parse the whole set each second.
        if not is_same or self._is_over():
            self._build()

    def refresh_in_background(
        self, *, then: Callable[[], None], until: Callable[[], bool] = lambda: False
    ) -> None:
        """Start a thread that reads the keys every second and calls ``then``.

        It ends when ``until`` returns true, which it calls each time before it reads.

        No request waits for it; while the database is unavailable the set stays as it was.
        """
        self._in_background = True
        self._compromised.start()

        def run() -> None:
            while True:
                time.sleep(FRESH)
                try:
                    if until():
                        return
                    self._refresh_quietly()
                    then()
                except Exception as error:  # noqa: BLE001 - whatever it is, the next turn may help
                    _log.error("the signing keys were not maintained: %s", type(error).__name__)

        threading.Thread(target=run, name="signing-keys", daemon=True).start()

    def ensure(self, algorithm: str | None = None) -> None:
        """Create the first key of an algorithm, ``None`` for the installation's, if there is none.

        It signs at once. Raises ``WrongSecretKey`` if the secret key does not open the existing
        keys, ``Unavailable`` if none can be generated.
        """
        algorithm = algorithm or self.algorithm
        self.refresh()
        if self._current is not None and algorithm in self._current.signers:
            return
        try:
            key = self.draft(algorithm)
        except Invalid as error:  # a service used it before there was an HSM
            raise Unavailable(f"No key can be made for {algorithm}.") from error
        key = replace(key, state=KeyState.ACTIVE, active_from=int(self._clock()))
        try:
            self._store.add(key)
        except Conflict:
            _log.info("another process created the first key for %s", algorithm)
            self._private_keys.discard(key)
        self.refresh()

    def draft(self, algorithm: str, *, private: PrivateKey | None = None) -> SigningKey:
        """Generate the next key of an algorithm, without storing it; ``private``: an imported key.

        Generating takes up to a second, in an HSM longer: do not call it in a transaction. Raises
        ``Invalid`` if no key can be generated for the algorithm, ``Unavailable``.
        """
        if private is None:
            public, sealed = self._private_keys.make(algorithm)
        else:
            public, sealed = self._private_keys.keep(private, algorithm)
        now = int(self._clock())
        return SigningKey(
            kid=public["kid"],
            algorithm=algorithm,
            state=KeyState.NEXT,
            public=public,
            published_at=now,
            active_from=None,
            retired_at=None,
            created_at=now,
            sealed=sealed,
        )

    def can_sign(self) -> bool:
        """Return whether the database has a key that signs. Raises as ``refresh``."""
        self.refresh()
        return self._current is not None

    @property
    def last_read(self) -> tuple[SigningKey, ...]:
        """Return every key with its state, oldest first, as this process last read them."""
        if self._current is None:
            self.refresh()
        return self._rows

    def all(self) -> tuple[SigningKey, ...]:
        """Return every key with its state, oldest first, from the database."""
        return self._store.all()

    def private_key(self, kid: str) -> PrivateKey | HsmKey:
        """Return the private key of a key that signs or will sign. Raises ``NotFound``."""
        for key in self.current.keys:
            if key.kid == kid and key.sealed:
                return self._private_keys.open(kid, key.algorithm, key.sealed)
        raise NotFound("There is no such signing key.")

    def unreadable(self) -> list[str]:
        """Return what is wrong with the keys that are needed."""
        keys = self._store.all()
        sound = (key for key in keys if key.sealed and key.fault is None)
        of_private_keys = map(self._private_keys.fault_of, sound)
        return [*faults(keys), *(fault for fault in of_private_keys if fault is not None)]

    def check(self) -> None:
        """Check when Keyosk starts that the needed keys can be opened.

        Raises ``ConfigurationError``.
        """
        self._private_keys.check(self.algorithm)
        for key in self._store.all():
            if key.state in (KeyState.ACTIVE, KeyState.NEXT):
                self._private_keys.check_key(key.kid, key.sealed)

    def close(self) -> None:
        """Close what a process must not share through a fork."""
        self._private_keys.close()

    def _refresh_quietly(self) -> None:
        self._refreshed = self._clock()
        with suppress(Unavailable):  # the log has a line when that begins
            self.refresh()

    def _is_over(self) -> bool:
        """Return whether the key set is for another time than the present, earlier or later."""
        key_set = self._current
        return key_set is None or not key_set.made_at <= int(self._clock()) < key_set.changes_at

    def _build(self) -> None:
        """Build the key set of this moment from the stored keys."""
        while True:
            rows = self._rows
            built = self._key_set(rows)
            # SECURITY: another thread may have read newer rows meanwhile, without a stolen key.
            with self._replacing:
                if self._rows is rows:
                    self._current = built
                    return

    def _key_set(self, rows: tuple[SigningKey, ...]) -> KeySet | None:
        now = int(self._clock())
        published = [key for key in rows if is_published(key, now)]
        signing: dict[str, SigningKey] = {}
        for key in published:
            other = signing.get(key.algorithm)
            if is_signing(key, now) and (other is None or _began(other) < _began(key)):
                signing[key.algorithm] = key
        common = [key for key in signing.values() if key.algorithm in COMMON_ALGORITHMS]
        if not common:
            return None
        # A new algorithm of the installation may have no key that signs yet: the old key still
        # signs.
        first = signing.get(self.algorithm) or max(common, key=_began)
        signers = {algorithm: self._signer(key) for algorithm, key in signing.items()}
        order = {id(key): number for number, key in enumerate(signing.values(), 1)}
        order[id(first)] = 0
        published.sort(key=lambda key: (order.get(id(key), len(order) + 1), -key.created_at))
        changes = [*(_began(key) for key in published), *(key.gone_at or _FAR for key in published)]
        return KeySet(
            keys=tuple(published),
            signers=signers,
            default=signers[first.algorithm],
            every=tuple(key for key in rows if key.fault is None),
            compromised=sum(key.state is KeyState.COMPROMISED for key in rows),
            made_at=now,
            changes_at=min((each for each in changes if each > now), default=_FAR),
        )

    def _signer(self, key: SigningKey) -> Signer:
        if key.kid not in self._private:
            opened = self._private_keys.open(key.kid, key.algorithm, key.sealed)
            self._private[key.kid] = opened
        private = self._private[key.kid]
        return Signer(key.kid, key.algorithm, private, key.published_at, key.public)


def is_full(keys: Iterable[SigningKey], algorithm: str, now: int) -> bool:
    """Return whether no further key of the algorithm may be published at ``now``.

    Counted for each algorithm: those in use by themselves could fill a common limit.
    """
    return sum(key.algorithm == algorithm and is_published(key, now) for key in keys) >= MOST


def faults(keys: Iterable[SigningKey]) -> list[str]:
    """Return what is wrong with keys that are needed and whose rows are damaged."""
    return [
        f"{key.kid} {key.fault}" for key in keys if key.fault is not None and key.state not in _OVER
    ]


def is_published(key: SigningKey, now: int) -> bool:
    """Return whether a key is in the set at ``now``."""
    if key.state in _OVER or key.fault is not None:
        return False
    return not is_due_to_go(key, now)


def is_due_to_go(key: SigningKey, now: int) -> bool:
    """Return whether the last token of a key has expired at ``now``."""
    return key.gone_at is not None and key.gone_at <= now


def is_signing(key: SigningKey, now: int) -> bool:
    """Return whether a key may sign at ``now``, unless another of its algorithm started later."""
    if key.fault is not None:
        return False
    # A key that is stored as active stays active, even if a clock was set back.
    return key.state is KeyState.ACTIVE or (key.state is KeyState.NEXT and _began(key) <= now)


def _signer_of(keys: KeySet, algorithm: str | None) -> Signer | None:
    signer = keys.default if algorithm is None else keys.signers.get(algorithm)
    if signer is None and any(key.algorithm == algorithm for key in keys.keys):
        return keys.default
    return signer


def _began(key: SigningKey) -> int:
    return _FAR if key.active_from is None else key.active_from
