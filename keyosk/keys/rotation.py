"""The life of a signing key: published, signing, retired, removed.

Verifiers cache the key set for minutes, and several never refetch it for an unknown key. So a key
is published long before it signs and long after its last token has expired. Every step is one
transaction under one lock. The first process makes it and the others find it done; if a process
dies in the middle, the next one makes the step. Generating a key is slow and would
make every writer wait, so it happens before the transaction; a key that turns out to be unnecessary
is discarded.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
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
from keyosk.keys.signing_keys import MOST, SPREAD, SigningKeys, is_full, is_published, is_signing
from keyosk.model import OPERATOR, AuditAction, Caller, KeyState, ListQuery, SigningKey
from keyosk.revocations import Revocations
from keyosk.storage.database import Database
from keyosk.storage.signing_keys import SigningKeyStore

_DAY: Final = 86_400
#: The most seconds for which a rotation waits for services that have not fetched the key.
LIMIT: Final = 7 * _DAY


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """The times of a key's life in seconds; ``rotate_every`` is 0 without scheduled rotations."""

    publish_ahead: int
    retain: int
    rotate_every: int


class Rotation:
    """Schedules and changes the states of signing keys."""

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
        """Return every key with its current state, oldest first."""
        self.advance()
        return self._store.all()

    def page(self, list_query: ListQuery) -> list[SigningKey]:
        """Return a page of keys with their current states."""
        self.advance()
        return self._store.page(list_query)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of keys."""
        return self._store.count(list_query)

    def get(self, kid: str) -> SigningKey:
        """Return one key. Raises ``NotFound``."""
        return _key_by_kid(self.all(), kid)

    def not_seen_by(self, key: SigningKey) -> list[str]:
        """Return the services that identified themselves and have not fetched a published key."""
        if not is_published(key, int(self._clock())):
            return []
        return self._key_fetches.services_without(key.kid)

    def record_fetch(self, service: str, kids: tuple[str, ...]) -> None:
        """Record that a service, by name or id, fetched these keys.

        It never waits for the database: new fetches are stored a moment later.
        """
        self._key_fetches.record(service, kids)

    def record_fetch_by_login(
        self, services: Callable[[], Iterable[str]], kids: tuple[str, ...]
    ) -> None:
        """Record the same for a login; ``services``: see ``KeyFetches.record_login``."""
        self._key_fetches.record_login(services, kids)

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
        """Publish the next key.

        Args:
            by: The caller.
            algorithm: The algorithm; the installation's by default.
            now: Sign as soon as every process has the key, even if it is already published.
                Verifiers with a cached key set may refuse its tokens.
            when_seen: Sign once every service that identified itself has fetched the key.
            limit: The most seconds to wait for those services.
            draft: The result of ``draft_for_rotation``, for callers with an open transaction.

        Raises:
            Conflict: A rotation is in progress or the set is full.
            Invalid: No key can be generated for the algorithm.
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
                bring_forward=now,
                when_seen=when_seen,
            )

    @contextmanager
    def draft_for_rotation(self, algorithm: str | None = None) -> Iterator[SigningKey | None]:
        """Generate the key for ``rotate`` to publish, before a transaction begins.

        ``None`` if it will apparently publish none. Raises ``Unavailable``.
        """
        wanted = algorithm or self._keys.algorithm
        now = int(self._clock())
        keys = self._keys.known
        is_under_way = any(k.state is KeyState.NEXT and k.algorithm == wanted for k in keys)
        is_known = wanted in (*material.ALGORITHMS, *material.OWN_SET_ALGORITHMS)
        is_refused = is_under_way or is_full(keys, wanted, now)
        with self._drafted(wanted if is_known and not is_refused else None) as draft:
            yield draft

    def import_key(self, by: Caller, private: PrivateKey, algorithm: str) -> SigningKey:
        """Publish an imported key as the next one. Raises ``Conflict``."""
        moment = int(self._clock()) + self.policy.publish_ahead
        draft = self._keys.draft(algorithm, private=private)
        return self._publish(by, algorithm, draft, active_from=moment, action="signing_key.import")

    @property
    def algorithm(self) -> str:
        """The algorithm that signs tokens for services without their own."""
        return self._keys.algorithm

    def publish_for(self, by: Caller, algorithm: str, *, draft: SigningKey | None = None) -> None:
        """Publish a key for an algorithm that is needed now, unless there is one.

        ``draft``: the result of ``draft_for``, for callers with an open transaction. Raises
        ``Invalid`` if none can be generated for it, ``Conflict``, ``Unavailable``.
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
        """Generate the key for ``publish_for`` to publish, before a transaction begins.

        ``None`` if none will be needed, or none can be generated. Raises ``Unavailable``.
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
        """Raise ``Invalid`` if no key can be generated for an algorithm. Raises ``Unavailable``."""
        if not self._private_keys.can_make(algorithm):
            raise Invalid.field(
                "signing_algorithm", "is not an algorithm that the HSM can make keys for"
            )

    def retire(self, by: Caller, kid: str) -> SigningKey:
        """Stop a key from signing; one that never signed is removed at once.

        Raises ``NotFound``, ``Conflict`` if it signs for the installation, or is already retired.
        """
        with self._changing() as keys:
            key = keys.get(kid)
            now = int(self._clock())
            if key.state is KeyState.NEXT:
                self._remove(keys, key, now)
            elif key.state is not KeyState.ACTIVE:
                raise Conflict("kid", "This key no longer signs.")
            elif kid == self._keys.current.default.kid:
                raise Conflict("kid", "This key signs for the installation: rotate it.")
            else:
                self._retire(keys, key, now)
            self._record(by, "signing_key.retire", key)
        return self._after_commit(keys).get(kid)

    def compromise(self, by: Caller, kid: str, *, draft: SigningKey | None = None) -> SigningKey:
        """Remove a key from the set at once, revoke everything it signed, and sign with the next.

        ``draft``: the result of ``draft_for_compromise``, for callers with an open transaction.
        Raises ``NotFound``, ``Conflict`` if it is already removed.
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
                effective_at = self._revocations.revoke_signing_key(kid)
                if key.state is KeyState.ACTIVE:
                    self._activate_next(keys, key.algorithm, now, spare=spare)
                self._record(by, "signing_key.compromise", key)
            return replace(self._after_commit(keys).get(kid), effective_at=effective_at)

    @contextmanager
    def draft_for_compromise(self, kid: str) -> Iterator[SigningKey | None]:
        """Generate the key that signs after ``compromise``, before a transaction begins.

        ``None`` if it apparently needs none. Raises ``Unavailable``.
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
        """Make the steps that are due, if any are. Raises ``Unavailable``."""
        self._key_fetches.write()
        rows = self._store.all()
        now = int(self._clock())
        if not self._is_due(rows, now):
            return
        with ExitStack() as stack:
            drafts = {}
            known = tuple(self._lives.corrected(key, now) for key in rows)
            for algorithm in {
                key.algorithm for key in known if self._is_due_for_rotation(key, known, now)
            }:
                with suppress(Unavailable):  # the HSM is unavailable: the old key still signs
                    drafts[algorithm] = stack.enter_context(self._drafted(algorithm))
            with self._changing() as keys:
                self._advance(keys, drafts)
            self._after_commit(keys)

    def advance_quietly(self) -> None:
        """Call ``advance``; if the database is away, a later call makes the steps."""
        try:
            self.advance()
        except Unavailable:
            return

    def rewrap(self) -> int:
        """Encrypt every private key under the first secret key; returns the number of keys."""
        with self._changing() as keys:
            kept = [key for key in keys.rows if key.sealed]
            for key in kept:
                keys.change(key.kid, sealed=self._private_keys.rewrapped(key.kid, key.sealed))
        return len(kept)

    # ---- Steps -----------------------------------------------------------------------------------

    @contextmanager
    def _drafted(self, algorithm: str | None) -> Iterator[SigningKey | None]:
        """Generate a key for an algorithm, if one is named.

        It is destroyed in the HSM if it is not stored.
        """
        draft = None if algorithm is None else self._keys.draft(algorithm)
        try:
            yield draft
        finally:
            if draft is not None:
                self._discard_unused(draft)

    def _discard_unused(self, draft: SigningKey) -> None:
        if not self._private_keys.is_in_hsm(draft.kid, draft.sealed):
            return
        # If the database cannot tell now, an unused key in the HSM is the lesser evil.
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
        bring_forward: bool = False,
        when_seen: bool = False,
        action: AuditAction = "signing_key.rotate",
    ) -> SigningKey:
        self._key_fetches.write()
        with self._changing() as keys:
            self._advance(keys, {})
            known = keys.in_state(KeyState.NEXT, algorithm)
            now = int(self._clock())
            if known is not None and bring_forward:
                earlier = min(active_from, known.active_from or active_from)
                key = keys.change(known.kid, active_from=earlier, when_seen=False)
            elif known is not None:
                raise Conflict("algorithm", "A rotation of this algorithm is in progress.")
            elif is_full(keys.rows, algorithm, now):
                raise Conflict(
                    "keys",
                    f"{MOST} keys of {algorithm} are published: wait until one of them is removed.",
                )
            else:
                # Another process may have changed a moment ago whether a key is needed.
                new = draft or self._keys.draft(algorithm)
                key = keys.add(new, now, active_from=active_from, when_seen=when_seen)
            self._record(by, action, key)
        return self._after_commit(keys).get(key.kid)

    def _advance(self, keys: "_Keys", drafts: Mapping[str, SigningKey | None]) -> None:
        """Make the steps that are due; ``drafts``: successors of old keys, by algorithm."""
        now = int(self._clock())
        for kid in [key.kid for key in keys.rows]:
            key = self._corrected(keys, kid, now)
            if key.state is KeyState.NEXT and is_signing(key, now):
                self._activate(keys, key)
            elif key.state is KeyState.NEXT and self._was_seen_by_all(key, now):
                keys.change(kid, active_from=now + SPREAD, when_seen=False)
            elif key.state is KeyState.RETIRED and not is_published(key, now):
                self._remove(keys, key, key.gone_at or now)
            elif (draft := drafts.get(key.algorithm)) and self._is_due_for_rotation(
                key, keys.rows, now
            ):
                new = keys.add(draft, now, active_from=now + self.policy.publish_ahead)
                self._record(OPERATOR, "signing_key.rotate", new)

    def _corrected(self, keys: "_Keys", kid: str, now: int) -> SigningKey:
        """Return a key after the correction of times that a wrong clock gave it."""
        key = keys.get(kid)
        corrected = self._lives.corrected(key, now)
        if corrected == key:
            return key
        return keys.change(
            kid,
            published_at=corrected.published_at,
            active_from=corrected.active_from,
            retired_at=corrected.retired_at,
            gone_at=corrected.gone_at,
        )

    def _activate_next(
        self, keys: "_Keys", algorithm: str, now: int, *, spare: SigningKey | None
    ) -> None:
        """Let the next key of an algorithm sign at once; without one, the spare or a new key."""
        following = keys.in_state(KeyState.NEXT, algorithm)
        if following is not None:
            keys.change(following.kid, state=KeyState.ACTIVE, active_from=now)
        elif self._private_keys.can_make(algorithm):
            new = spare or self._keys.draft(algorithm)
            keys.add(new, now, state=KeyState.ACTIVE, active_from=now)

    def _activate(self, keys: "_Keys", key: SigningKey) -> None:
        before = keys.in_state(KeyState.ACTIVE, key.algorithm)
        if before is not None:
            self._retire(keys, before, key.active_from or int(self._clock()))
        keys.change(key.kid, state=KeyState.ACTIVE)

    def _retire(self, keys: "_Keys", key: SigningKey, moment: int) -> None:
        # From now, not from its planned time: some process may have signed with it until now.
        now = int(self._clock())
        gone_at = now + self._revocations.longest_lifetime() + self.policy.retain
        keys.change(key.kid, state=KeyState.RETIRED, retired_at=moment, gone_at=gone_at)

    def _remove(self, keys: "_Keys", key: SigningKey, moment: int) -> None:
        # The public key stays, because it verifies checkpoints of the audit log.
        left = self._private_keys.left_of(key)
        keys.change(key.kid, state=KeyState.GONE, gone_at=moment, sealed=left)

    def _after_commit(self, keys: "_Keys") -> "_Keys":
        """After the transaction, destroy what no rollback can restore, and use the new keys."""
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
            (
                key.state is KeyState.NEXT
                and (is_signing(key, now) or self._was_seen_by_all(key, now))
            )
            or (key.state is KeyState.RETIRED and not is_published(key, now))
            or self._is_due_for_rotation(key, rows, now)
            for key in rows
        )

    def _was_seen_by_all(self, key: SigningKey, now: int) -> bool:
        """Return whether a key that waits for services may sign, because all have fetched it."""
        if not key.when_seen or now < key.published_at + self.policy.publish_ahead:
            return False
        return not self.not_seen_by(key)

    def _is_due_for_rotation(self, key: SigningKey, rows: tuple[SigningKey, ...], now: int) -> bool:
        if (
            not self.policy.rotate_every
            or key.state is not KeyState.ACTIVE
            or key.active_from is None
        ):
            return False
        if any(k.state is KeyState.NEXT and k.algorithm == key.algorithm for k in rows):
            return False
        if now < key.active_from + self.policy.rotate_every - self.policy.publish_ahead:
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
    """All keys in one transaction. They are read once; each change is written at once."""

    def __init__(self, store: SigningKeyStore) -> None:
        self._store = store
        self.rows = store.all()

    def get(self, kid: str) -> SigningKey:
        """Return one key. Raises ``NotFound``."""
        return _key_by_kid(self.rows, kid)

    def in_state(self, state: KeyState, algorithm: str) -> SigningKey | None:
        """Return the key of an algorithm in this state; there is at most one."""
        return next((k for k in self.rows if k.state is state and k.algorithm == algorithm), None)

    def add(self, draft: SigningKey, now: int, **columns: Any) -> SigningKey:
        """Store a new key that is published ``now``, with these columns. Raises ``Conflict``."""
        key = replace(draft, published_at=now, created_at=now, **columns)
        self._store.add(key)
        self.rows = (*self.rows, key)
        return key

    def change(self, kid: str, **columns: Any) -> SigningKey:
        """Update columns of a key."""
        self._store.change(kid, **columns)
        key = replace(self.get(kid), **columns)
        self.rows = tuple(key if row.kid == kid else row for row in self.rows)
        return key


def _key_by_kid(keys: tuple[SigningKey, ...], kid: str) -> SigningKey:
    for key in keys:
        if key.kid == kid:
            return key
    raise NotFound("There is no such signing key.")
