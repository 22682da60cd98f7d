"""The lives of signing keys: published, signing, retired, gone.

Verifiers keep the key set for minutes, and several never look for a key that they do not know. So a
key is published long before it signs and long after its last token has expired. Every step is one
transaction under one lock, done by whichever process comes first: the others find it done, and one
that dies in the middle leaves it to the next.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from keyosk.audit import Audit
from keyosk.errors import Conflict, Invalid, NotFound, Unavailable
from keyosk.keys import material
from keyosk.keys.key_fetches import KeyFetches
from keyosk.keys.lifetimes import LONGEST_LIMIT, KeyLives
from keyosk.keys.material import PrivateKey
from keyosk.keys.private_keys import PrivateKeys
from keyosk.keys.signing_keys import MOST, SPREAD, SigningKeys, is_published, is_signing
from keyosk.model import OPERATOR, Caller, KeyState, SigningKey
from keyosk.revocations import Revocations
from keyosk.storage.database import Database
from keyosk.storage.signing_keys import SigningKeyStore

_DAY: Final = 86_400
#: Seconds that a rotation waits at the most for services that have not fetched the key.
LIMIT: Final = 7 * _DAY


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """How keys live, in seconds; ``every``: between two rotations, 0 for none by themselves."""

    publish_ahead: int
    retain: int
    every: int


class Rotation:
    """Plans and changes the lives of signing keys."""

    def __init__(
        self,
        database: Database,
        store: SigningKeyStore,
        keys: SigningKeys,
        private_keys: PrivateKeys,
        revocations: Revocations,
        audit: Audit,
        clock: Callable[[], float],
        *,
        policy: KeyPolicy,
    ) -> None:
        self._database = database
        self._store = store
        self._keys = keys
        self._private_keys = private_keys
        self._revocations = revocations
        self._audit = audit
        self._clock = clock
        self.policy = policy
        self._key_fetches = KeyFetches(store, clock)
        self._lives = KeyLives(store, revocations, ahead=policy.publish_ahead, retain=policy.retain)

    def all(self) -> tuple[SigningKey, ...]:
        """Every key with its life as of now, oldest first."""
        self.advance()
        return self._store.all()

    def get(self, kid: str) -> SigningKey:
        """One key. Raises ``NotFound``."""
        return _found(self.all(), kid)

    def not_seen_by(self, key: SigningKey) -> list[str]:
        """The services that have told who they are and not fetched a published key yet."""
        if not is_published(key, int(self._clock())):
            return []
        return self._key_fetches.lacking(key.kid)

    def saw(self, service: str, kids: tuple[str, ...]) -> None:
        """Remember that a service, by name or id, fetched these keys.

        It asks for nothing and waits for nothing: what is new is written in a moment.
        """
        self._key_fetches.note(service, kids)

    def rotate(
        self,
        by: Caller,
        algorithm: str | None = None,
        *,
        now: bool = False,
        when_seen: bool = False,
        limit: int = LIMIT,
    ) -> SigningKey:
        """Publish the key that is to sign next, ``algorithm``: the installation's unless given.

        ``now``: it signs as soon as every process has it, which may hurt verifiers that keep the
        set; also for one that is published already. ``when_seen``: it signs when every service that
        told who it is has fetched it, after ``limit`` seconds at the latest. Raises ``Conflict`` if
        a rotation is under way or the set is full, ``Invalid``.
        """
        wanted = algorithm or self._keys.algorithm
        if wanted not in (*material.ALGORITHMS, *material.OWN_SET_ALGORITHMS):
            raise Invalid.field("algorithm", "is none that tokens can be signed with")
        if now and when_seen:
            raise Invalid.field("when_seen", "cannot be together with now")
        if not self.policy.publish_ahead <= limit <= LONGEST_LIMIT:
            raise Invalid.field("limit", f"must be {self.policy.publish_ahead} to {LONGEST_LIMIT}")
        moment = int(self._clock())
        wait = SPREAD if now else limit if when_seen else self.policy.publish_ahead
        return self._publish(by, wanted, moment + wait, sooner=now, when_seen=when_seen)

    def import_key(self, by: Caller, private: PrivateKey, algorithm: str) -> SigningKey:
        """Publish a key from elsewhere as the next one. Raises ``Conflict``."""
        moment = int(self._clock()) + self.policy.publish_ahead
        return self._publish(by, algorithm, moment, private=private)

    @property
    def algorithm(self) -> str:
        """What signs tokens where no service says otherwise."""
        return self._keys.algorithm

    def publish_for(self, by: Caller, algorithm: str) -> None:
        """Publish a key for an algorithm that is newly wanted, unless there is one.

        Raises ``Invalid`` if none can be made for it, ``Conflict``, ``Unavailable``.
        """
        published = [key.algorithm for key in self._keys.current.keys]
        if algorithm not in published:
            self.check_algorithm(algorithm)
            self._publish(by, algorithm, int(self._clock()) + self.policy.publish_ahead)

    def check_algorithm(self, algorithm: str) -> None:
        """Raises ``Invalid`` for an algorithm that no key can be made for, ``Unavailable``."""
        if not self._private_keys.can_make(algorithm):
            raise Invalid.field("signing_algorithm", "is none that the HSM makes keys for")

    def retire(self, by: Caller, kid: str) -> SigningKey:
        """Have a key sign no more; one that never signed goes at once.

        Raises ``NotFound``, ``Conflict`` if it signs for the installation, or is retired already.
        """
        with self._changing():
            key = _found(self._store.all(), kid)
            now = int(self._clock())
            if key.state is KeyState.NEXT:
                self._go(key, now)
            elif key.state is not KeyState.ACTIVE:
                raise Conflict("kid", "This key signs no more.")
            elif kid == self._keys.current.default.kid:
                raise Conflict("kid", "This key signs for the installation: rotate it.")
            else:
                self._retire(key, now)
            self._record(by, "retire", key)
        return self._changed(kid)

    def compromise(self, by: Caller, kid: str) -> SigningKey:
        """Take a key out of the set at once, revoke all that it signed, and have the next sign.

        Raises ``NotFound``, ``Conflict`` if it is out already.
        """
        with self._changing():
            key = _found(self._store.all(), kid)
            now = int(self._clock())
            if key.state in (KeyState.COMPROMISED, KeyState.GONE):
                raise Conflict("kid", "This key is out of the set already.")
            left = self._private_keys.left_of(key)
            self._store.change(kid, state=KeyState.COMPROMISED, gone_at=now, sealed=left)
            effective_at = self._revocations.of_signing_key(kid)
            if key.state is KeyState.ACTIVE:
                following = self._of(KeyState.NEXT, key.algorithm)
                if following is not None:
                    self._store.change(following.kid, state=KeyState.ACTIVE, active_from=now)
                elif self._private_keys.can_make(key.algorithm):
                    self._add(key.algorithm, state=KeyState.ACTIVE, active_from=now)
            self._record(by, "compromise", key)
        return replace(self._changed(kid), effective_at=effective_at)

    def advance(self) -> None:
        """Do what is due by the clock, if anything is. Raises ``Unavailable``."""
        self._key_fetches.write()
        rows = self._store.all()
        if not self._is_due(rows, int(self._clock())):
            return
        with self._changing():
            now = int(self._clock())
            for kid in [key.kid for key in self._store.all()]:
                key = self._lives.corrected(_found(self._store.all(), kid), now)
                if key.state is KeyState.NEXT and is_signing(key, now):
                    self._activate(key)
                elif key.state is KeyState.NEXT and self._may_begin(key, now):
                    self._store.change(key.kid, active_from=now + SPREAD, when_seen=False)
                elif key.state is KeyState.RETIRED and not is_published(key, now):
                    self._go(key, key.gone_at or now)
                elif self._is_old(key, self._store.all(), now):
                    self._follow(key, now)
        self._destroy_gone()
        self._keys.refresh()

    def advance_quietly(self) -> None:
        """``advance`` for the background: what cannot be done now is done later."""
        try:
            self.advance()
        except Unavailable:
            return

    def rewrap(self) -> int:
        """Encrypt every private key under the first secret key; answers how many there are."""
        with self._changing():
            kept = [key for key in self._store.all() if key.sealed]
            for key in kept:
                sealed = self._private_keys.rewrapped(key.kid, key.sealed)
                self._store.change(key.kid, sealed=sealed)
        return len(kept)

    # ---- Steps -----------------------------------------------------------------------------------

    def _publish(
        self,
        by: Caller,
        algorithm: str,
        active_from: int,
        *,
        sooner: bool = False,
        when_seen: bool = False,
        private: PrivateKey | None = None,
    ) -> SigningKey:
        self.advance()
        with self._changing():
            known = self._of(KeyState.NEXT, algorithm)
            if known is not None and private is None and sooner:
                begins = min(active_from, known.active_from or active_from)
                self._store.change(known.kid, active_from=begins, when_seen=False)
                self._record(by, "rotate", replace(known, active_from=begins))
                kid = known.kid
            elif known is not None:
                raise Conflict("algorithm", "A rotation of this algorithm is under way.")
            else:
                now = int(self._clock())
                if sum(is_published(key, now) for key in self._store.all()) >= MOST:
                    raise Conflict("keys", f"{MOST} keys are published: wait until one is gone.")
                key = self._add(
                    algorithm,
                    state=KeyState.NEXT,
                    active_from=active_from,
                    when_seen=when_seen,
                    private=private,
                )
                self._record(by, "rotate" if private is None else "import", key)
                kid = key.kid
        return self._changed(kid)

    def _add(self, algorithm: str, *, when_seen: bool = False, **draft: Any) -> SigningKey:
        key = replace(self._keys.draft(algorithm, **draft), when_seen=when_seen)
        try:
            self._store.add(key)
        except Conflict:
            self._private_keys.discard(key)
            raise
        return key

    def _follow(self, key: SigningKey, now: int) -> None:
        """Publish what follows an old key; while the HSM is away the old one goes on."""
        at = now + self.policy.publish_ahead
        try:
            following = self._add(key.algorithm, state=KeyState.NEXT, active_from=at)
        except Unavailable:
            return
        self._record(OPERATOR, "rotate", following)

    def _activate(self, key: SigningKey) -> None:
        before = self._of(KeyState.ACTIVE, key.algorithm)
        if before is not None:
            self._retire(before, key.active_from or int(self._clock()))
        self._store.change(key.kid, state=KeyState.ACTIVE)

    def _retire(self, key: SigningKey, moment: int) -> None:
        # From now on, not from when it was due: until a moment ago some process may have signed.
        now = int(self._clock())
        gone_at = now + self._revocations.longest_lifetime() + self.policy.retain
        self._store.change(key.kid, state=KeyState.RETIRED, retired_at=moment, gone_at=gone_at)

    def _go(self, key: SigningKey, moment: int) -> None:
        # The public half stays: the audit log's checkpoints are verified with it for ever.
        left = self._private_keys.left_of(key)
        self._store.change(key.kid, state=KeyState.GONE, gone_at=moment, sealed=left)

    def _destroy_gone(self) -> None:
        # After the transaction, as nothing could roll it back.
        for key in self._private_keys.left_over(self._store.all()):
            if self._private_keys.destroy(key.kid):
                self._store.change(key.kid, sealed=b"")

    def _is_due(self, rows: tuple[SigningKey, ...], now: int) -> bool:
        if self._private_keys.left_over(rows) or self._lives.are_wrong(rows, now):
            return True
        return any(
            (key.state is KeyState.NEXT and (is_signing(key, now) or self._may_begin(key, now)))
            or (key.state is KeyState.RETIRED and not is_published(key, now))
            or self._is_old(key, rows, now)
            for key in rows
        )

    def _may_begin(self, key: SigningKey, now: int) -> bool:
        if not key.when_seen or now < key.published_at + self.policy.publish_ahead:
            return False
        return not self.not_seen_by(key)

    def _is_old(self, key: SigningKey, rows: tuple[SigningKey, ...], now: int) -> bool:
        if not self.policy.every or key.state is not KeyState.ACTIVE or key.active_from is None:
            return False
        if any(k.state is KeyState.NEXT and k.algorithm == key.algorithm for k in rows):
            return False
        if now < key.active_from + self.policy.every - self.policy.publish_ahead:
            return False
        try:
            return self._private_keys.can_make(key.algorithm)
        except Unavailable:
            return False

    def _of(self, state: KeyState, algorithm: str) -> SigningKey | None:
        rows = self._store.all()
        return next((k for k in rows if k.state is state and k.algorithm == algorithm), None)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._database.transaction():
            self._store.lock()
            yield

    def _changed(self, kid: str) -> SigningKey:
        self._destroy_gone()
        self._keys.refresh()
        return _found(self._store.all(), kid)

    def _record(self, by: Caller, action: str, key: SigningKey) -> None:
        after = {"algorithm": key.algorithm, "active_from": key.active_from}
        self._audit.record(by, f"signing_key.{action}", f"signing-key/{key.kid}", after=after)


def _found(keys: tuple[SigningKey, ...], kid: str) -> SigningKey:
    for key in keys:
        if key.kid == kid:
            return key
    raise NotFound("There is no such signing key.")
