"""The lives of signing keys: published, signing, retired, gone.

Verifiers keep the key set for minutes, and several never look for a key that they do not know. So a
key is published long before it signs and long after its last token has expired. Every step is one
transaction under one lock, done by whichever process comes first: the others find it done, and one
that dies in the middle leaves it to the next. Generating a key takes long, and everybody who writes
would wait: it is done before the transaction, and what turns out not to be needed is thrown away.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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
from keyosk.model import OPERATOR, AuditAction, Caller, KeyState, SigningKey
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
        *,
        private_keys: PrivateKeys,
        revocations: Revocations,
        audit: Audit,
        clock: Callable[[], float],
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
        self._lives = KeyLives(revocations, ahead=policy.publish_ahead, retain=policy.retain)

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
        draft: SigningKey | None = None,
    ) -> SigningKey:
        """Publish the key that is to sign next, ``algorithm``: the installation's unless given.

        ``now``: it signs as soon as every process has it, which may hurt verifiers that keep the
        set; also for one that is published already. ``when_seen``: it signs when every service that
        told who it is has fetched it, after ``limit`` seconds at the latest. ``draft``: as
        ``draft_for_rotation`` gives it, for callers that have a transaction open. Raises
        ``Conflict`` if a rotation is under way or the set is full, ``Invalid``.
        """
        wanted = algorithm or self._keys.algorithm
        if wanted not in (*material.ALGORITHMS, *material.OWN_SET_ALGORITHMS):
            raise Invalid.field("algorithm", "is not an algorithm that can sign tokens")
        if now and when_seen:
            raise Invalid.field("when_seen", "cannot be combined with now")
        if not self.policy.publish_ahead <= limit <= LONGEST_LIMIT:
            raise Invalid.field("limit", f"must be {self.policy.publish_ahead} to {LONGEST_LIMIT}")
        moment = int(self._clock())
        wait = SPREAD if now else limit if when_seen else self.policy.publish_ahead
        with ExitStack() as stack:
            return self._publish(
                by,
                wanted,
                draft or stack.enter_context(self.draft_for_rotation(wanted)),
                active_from=moment + wait,
                sooner=now,
                when_seen=when_seen,
            )

    @contextmanager
    def draft_for_rotation(self, algorithm: str | None = None) -> Iterator[SigningKey | None]:
        """The key for ``rotate`` to publish, made before there is a transaction.

        ``None`` if it will publish none, as far as is known. Raises ``Unavailable``.
        """
        wanted = algorithm or self._keys.algorithm
        now = int(self._clock())
        keys = self._keys.known
        is_under_way = any(k.state is KeyState.NEXT and k.algorithm == wanted for k in keys)
        is_full = sum(is_published(key, now) for key in keys) >= MOST
        is_known = wanted in (*material.ALGORITHMS, *material.OWN_SET_ALGORITHMS)
        with self._drafted(wanted if is_known and not (is_under_way or is_full) else None) as draft:
            yield draft

    def import_key(self, by: Caller, private: PrivateKey, algorithm: str) -> SigningKey:
        """Publish a key from elsewhere as the next one. Raises ``Conflict``."""
        moment = int(self._clock()) + self.policy.publish_ahead
        draft = self._keys.draft(algorithm, private=private)
        return self._publish(by, algorithm, draft, active_from=moment, action="signing_key.import")

    @property
    def algorithm(self) -> str:
        """What signs tokens where no service says otherwise."""
        return self._keys.algorithm

    def publish_for(self, by: Caller, algorithm: str, *, draft: SigningKey | None = None) -> None:
        """Publish a key for an algorithm that is newly wanted, unless there is one.

        ``draft``: as ``draft_for`` gives it, for callers that have a transaction open. Raises
        ``Invalid`` if none can be made for it, ``Conflict``, ``Unavailable``.
        """
        if self._is_published(algorithm):
            return
        self.check_algorithm(algorithm)
        moment = int(self._clock()) + self.policy.publish_ahead
        with ExitStack() as stack:
            key = draft or stack.enter_context(self.draft_for(algorithm))
            self._publish(by, algorithm, key, active_from=moment)

    @contextmanager
    def draft_for(self, algorithm: str | None) -> Iterator[SigningKey | None]:
        """The key for ``publish_for`` to publish, made before there is a transaction.

        ``None`` if none will be needed, or none can be made. Raises ``Unavailable``.
        """
        is_known = algorithm in (*material.ALGORITHMS, *material.OWN_SET_ALGORITHMS)
        is_wanted = (
            algorithm is not None
            and is_known
            and not self._is_published(algorithm)
            and self._private_keys.can_make(algorithm)
        )
        with self._drafted(algorithm if is_wanted else None) as draft:
            yield draft

    def check_algorithm(self, algorithm: str) -> None:
        """Raises ``Invalid`` for an algorithm that no key can be made for, ``Unavailable``."""
        if not self._private_keys.can_make(algorithm):
            raise Invalid.field(
                "signing_algorithm", "is not an algorithm that the HSM can make keys for"
            )

    def retire(self, by: Caller, kid: str) -> SigningKey:
        """Stop a key from signing; one that never signed goes at once.

        Raises ``NotFound``, ``Conflict`` if it signs for the installation, or is retired already.
        """
        with self._changing() as keys:
            key = keys.get(kid)
            now = int(self._clock())
            if key.state is KeyState.NEXT:
                self._go(keys, key, now)
            elif key.state is not KeyState.ACTIVE:
                raise Conflict("kid", "This key no longer signs.")
            elif kid == self._keys.current.default.kid:
                raise Conflict("kid", "This key signs for the installation: rotate it.")
            else:
                self._retire(keys, key, now)
            self._record(by, "signing_key.retire", key)
        return self._finished(keys).get(kid)

    def compromise(self, by: Caller, kid: str, *, draft: SigningKey | None = None) -> SigningKey:
        """Take a key out of the set at once, revoke all that it signed, and have the next sign.

        ``draft``: as ``draft_for_compromise`` gives it, for callers that have a transaction open.
        Raises ``NotFound``, ``Conflict`` if it is out already.
        """
        with ExitStack() as stack:
            spare = draft or stack.enter_context(self.draft_for_compromise(kid))
            with self._changing() as keys:
                key = keys.get(kid)
                now = int(self._clock())
                if key.state in (KeyState.COMPROMISED, KeyState.GONE):
                    raise Conflict("kid", "This key is no longer published.")
                left = self._private_keys.left_of(key)
                keys.change(kid, state=KeyState.COMPROMISED, gone_at=now, sealed=left)
                effective_at = self._revocations.of_signing_key(kid)
                if key.state is KeyState.ACTIVE:
                    following = keys.of(KeyState.NEXT, key.algorithm)
                    if following is not None:
                        keys.change(following.kid, state=KeyState.ACTIVE, active_from=now)
                    elif self._private_keys.can_make(key.algorithm):
                        new = spare or self._keys.draft(key.algorithm)
                        keys.add(new, now, state=KeyState.ACTIVE, active_from=now)
                self._record(by, "signing_key.compromise", key)
            return replace(self._finished(keys).get(kid), effective_at=effective_at)

    @contextmanager
    def draft_for_compromise(self, kid: str) -> Iterator[SigningKey | None]:
        """The key that signs after ``compromise``, made before there is a transaction.

        ``None`` if it needs none, as far as is known. Raises ``Unavailable``.
        """
        known = self._keys.known
        wanted = next(
            (key.algorithm for key in known if key.kid == kid and key.state is KeyState.ACTIVE),
            None,
        )
        if any(key.state is KeyState.NEXT and key.algorithm == wanted for key in known):
            wanted = None
        if wanted is not None and not self._private_keys.can_make(wanted):
            wanted = None
        with self._drafted(wanted) as draft:
            yield draft

    def advance(self) -> None:
        """Do what is due by the clock, if anything is. Raises ``Unavailable``."""
        self._key_fetches.write()
        rows = self._store.all()
        now = int(self._clock())
        if not self._is_due(rows, now):
            return
        with ExitStack() as stack:
            drafts = {}
            known = tuple(self._lives.corrected(key, now) for key in rows)
            for algorithm in {key.algorithm for key in known if self._is_old(key, known, now)}:
                with suppress(Unavailable):  # the HSM is away: the old key goes on
                    drafts[algorithm] = stack.enter_context(self._drafted(algorithm))
            with self._changing() as keys:
                self._advance(keys, drafts)
            self._finished(keys)

    def advance_quietly(self) -> None:
        """``advance`` for the background: what cannot be done now is done later."""
        try:
            self.advance()
        except Unavailable:
            return

    def rewrap(self) -> int:
        """Encrypt every private key under the first secret key; answers how many there are."""
        with self._changing() as keys:
            kept = [key for key in keys.rows if key.sealed]
            for key in kept:
                keys.change(key.kid, sealed=self._private_keys.rewrapped(key.kid, key.sealed))
        return len(kept)

    # ---- Steps -----------------------------------------------------------------------------------

    @contextmanager
    def _drafted(self, algorithm: str | None) -> Iterator[SigningKey | None]:
        """A new key of an algorithm, if one is named; destroyed in the HSM if it is not stored."""
        draft = None if algorithm is None else self._keys.draft(algorithm)
        try:
            yield draft
        finally:
            if draft is not None and self._private_keys.is_in_hsm(draft.kid, draft.sealed):
                # Where that cannot be known now, a key too many in the HSM is the lesser evil.
                with suppress(Unavailable):
                    if not self._store.has(draft.kid):
                        self._private_keys.destroy(draft.kid)

    def _publish(
        self,
        by: Caller,
        algorithm: str,
        draft: SigningKey | None,
        *,
        active_from: int,
        sooner: bool = False,
        when_seen: bool = False,
        action: AuditAction = "signing_key.rotate",
    ) -> SigningKey:
        self._key_fetches.write()
        with self._changing() as keys:
            self._advance(keys, {})
            known = keys.of(KeyState.NEXT, algorithm)
            now = int(self._clock())
            if known is not None and sooner:
                begins = min(active_from, known.active_from or active_from)
                key = keys.change(known.kid, active_from=begins, when_seen=False)
            elif known is not None:
                raise Conflict("algorithm", "A rotation of this algorithm is in progress.")
            elif sum(is_published(key, now) for key in keys.rows) >= MOST:
                raise Conflict(
                    "keys", f"{MOST} keys are published: wait until one of them is removed."
                )
            else:
                # Another process may have changed, a moment ago, that none was needed.
                new = draft or self._keys.draft(algorithm)
                key = keys.add(new, now, active_from=active_from, when_seen=when_seen)
            self._record(by, action, key)
        return self._finished(keys).get(key.kid)

    def _advance(self, keys: "_Keys", drafts: Mapping[str, SigningKey | None]) -> None:
        """Do what is due; ``drafts``: by algorithm, to follow keys that are old."""
        now = int(self._clock())
        for kid in [key.kid for key in keys.rows]:
            key = keys.get(kid)
            right = self._lives.corrected(key, now)
            if right != key:
                key = keys.change(
                    kid,
                    published_at=right.published_at,
                    active_from=right.active_from,
                    retired_at=right.retired_at,
                    gone_at=right.gone_at,
                )
            if key.state is KeyState.NEXT and is_signing(key, now):
                self._activate(keys, key)
            elif key.state is KeyState.NEXT and self._may_begin(key, now):
                keys.change(kid, active_from=now + SPREAD, when_seen=False)
            elif key.state is KeyState.RETIRED and not is_published(key, now):
                self._go(keys, key, key.gone_at or now)
            elif self._is_old(key, keys.rows, now):
                draft = drafts.get(key.algorithm)
                if draft is not None:
                    at = now + self.policy.publish_ahead
                    self._record(
                        OPERATOR, "signing_key.rotate", keys.add(draft, now, active_from=at)
                    )

    def _activate(self, keys: "_Keys", key: SigningKey) -> None:
        before = keys.of(KeyState.ACTIVE, key.algorithm)
        if before is not None:
            self._retire(keys, before, key.active_from or int(self._clock()))
        keys.change(key.kid, state=KeyState.ACTIVE)

    def _retire(self, keys: "_Keys", key: SigningKey, moment: int) -> None:
        # From now on, not from when it was due: until a moment ago some process may have signed.
        now = int(self._clock())
        gone_at = now + self._revocations.longest_lifetime() + self.policy.retain
        keys.change(key.kid, state=KeyState.RETIRED, retired_at=moment, gone_at=gone_at)

    def _go(self, keys: "_Keys", key: SigningKey, moment: int) -> None:
        # The public half stays: the audit log's checkpoints are verified with it for ever.
        left = self._private_keys.left_of(key)
        keys.change(key.kid, state=KeyState.GONE, gone_at=moment, sealed=left)

    def _finished(self, keys: "_Keys") -> "_Keys":
        """After the transaction: destroy what nothing can roll back, and sign by the new keys."""
        for key in self._private_keys.left_over(keys.rows):
            if self._private_keys.destroy(key.kid):
                keys.change(key.kid, sealed=b"")
        self._keys.adopt(keys.rows)
        return keys

    def _is_published(self, algorithm: str) -> bool:
        return any(key.algorithm == algorithm for key in self._keys.current.keys)

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

    @contextmanager
    def _changing(self) -> Iterator["_Keys"]:
        with self._database.transaction():
            self._store.lock()
            yield _Keys(self._store)

    def _record(self, by: Caller, action: AuditAction, key: SigningKey) -> None:
        after = {"algorithm": key.algorithm, "active_from": key.active_from}
        self._audit.record(by, action, f"signing-key/{key.kid}", after=after)


class _Keys:
    """All keys as one transaction has them: read once, each change written at once."""

    def __init__(self, store: SigningKeyStore) -> None:
        self._store = store
        self.rows = store.all()

    def get(self, kid: str) -> SigningKey:
        """One key. Raises ``NotFound``."""
        return _found(self.rows, kid)

    def of(self, state: KeyState, algorithm: str) -> SigningKey | None:
        """The key of an algorithm that is in this state, of which there is one at most."""
        return next((k for k in self.rows if k.state is state and k.algorithm == algorithm), None)

    def add(self, draft: SigningKey, now: int, **columns: Any) -> SigningKey:
        """Store a new key that is published ``now``, with these columns. Raises ``Conflict``."""
        key = replace(draft, published_at=now, created_at=now, **columns)
        self._store.add(key)
        self.rows = (*self.rows, key)
        return key

    def change(self, kid: str, **columns: Any) -> SigningKey:
        """Write columns of a key."""
        self._store.change(kid, **columns)
        key = replace(self.get(kid), **columns)
        self.rows = tuple(key if each.kid == kid else each for each in self.rows)
        return key


def _found(keys: tuple[SigningKey, ...], kid: str) -> SigningKey:
    for key in keys:
        if key.kid == kid:
            return key
    raise NotFound("There is no such signing key.")
