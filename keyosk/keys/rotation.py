"""What callers do with signing keys: list, rotate, import, retire and compromise them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Final

from keyosk.errors import Conflict, Invalid
from keyosk.keys.key_changes import KeyChanges, KeyTransaction, key_by_kid
from keyosk.keys.key_fetches import KeyFetches
from keyosk.keys.lifetimes import LONGEST_LIMIT, KeyPolicy
from keyosk.keys.material import PrivateKey
from keyosk.keys.private_keys import PrivateKeys
from keyosk.keys.schedule import KeySchedule
from keyosk.keys.signing_keys import MOST, SPREAD, SigningKeys, is_full
from keyosk.model import (
    SIGNING_ALGORITHMS,
    AuditAction,
    Caller,
    KeyState,
    ListQuery,
    SigningKey,
)
from keyosk.revocations import Revocations
from keyosk.storage.signing_keys import SigningKeyStore

_DAY: Final = 86_400
#: The most seconds for which a rotation waits for services that have not fetched the key.
LIMIT: Final = 7 * _DAY


class Rotation:
    """Lists signing keys, and changes their states for a caller."""

    def __init__(
        self,
        store: SigningKeyStore,
        keys: SigningKeys,
        changes: KeyChanges,
        *,
        schedule: KeySchedule,
        key_fetches: KeyFetches,
        private_keys: PrivateKeys,
        revocations: Revocations,
        policy: KeyPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._keys = keys
        self._changes = changes
        self._schedule = schedule
        self._key_fetches = key_fetches
        self._private_keys = private_keys
        self._revocations = revocations
        self.policy = policy
        self._clock = clock

    def all(self) -> tuple[SigningKey, ...]:
        """Return every key with its current state, oldest first."""
        self._schedule.advance()
        return self._store.all()

    def page(self, list_query: ListQuery) -> list[SigningKey]:
        """Return a page of keys with their current states."""
        self._schedule.advance()
        return self._store.page(list_query)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of keys."""
        return self._store.count(list_query)

    def get(self, kid: str) -> SigningKey:
        """Return one key. Raises ``NotFound``."""
        return key_by_kid(self.all(), kid)

    def rotate(
        self,
        caller: Caller,
        algorithm: str | None = None,
        *,
        now: bool = False,
        when_seen: bool = False,
        limit: int = LIMIT,
        draft: SigningKey | None = None,
    ) -> SigningKey:
        """Publish the next key.

        Args:
            caller: Who asks for it.
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
        algorithm = algorithm or self._keys.algorithm
        if algorithm not in SIGNING_ALGORITHMS:
            raise Invalid.field("algorithm", "is not an algorithm that can sign tokens")
        if now and when_seen:
            raise Invalid.field("when_seen", "cannot be combined with now")
        if not self.policy.publish_ahead <= limit <= LONGEST_LIMIT:
            raise Invalid.field("limit", f"must be {self.policy.publish_ahead} to {LONGEST_LIMIT}")
        moment = int(self._clock())
        wait = SPREAD if now else limit if when_seen else self.policy.publish_ahead
        with ExitStack() as stack:
            return self._publish(
                caller,
                algorithm,
                draft or stack.enter_context(self.draft_for_rotation(algorithm)),
                active_from=moment + wait,
                bring_forward=now,
                when_seen=when_seen,
            )

    @contextmanager
    def draft_for_rotation(self, algorithm: str | None = None) -> Iterator[SigningKey | None]:
        """Generate the key for ``rotate`` to publish, before a transaction begins.

        ``None`` if it will apparently publish none. Raises ``Unavailable``.
        """
        algorithm = algorithm or self._keys.algorithm
        keys = self._keys.last_read
        is_needed = (
            algorithm in SIGNING_ALGORITHMS
            and not _has_next(keys, algorithm)
            and not is_full(keys, algorithm, int(self._clock()))
        )
        with self._changes.draft(algorithm if is_needed else None) as draft:
            yield draft

    def import_key(self, caller: Caller, private: PrivateKey, algorithm: str) -> SigningKey:
        """Publish an imported key as the next one. Raises ``Conflict``."""
        moment = int(self._clock()) + self.policy.publish_ahead
        draft = self._keys.draft(algorithm, private=private)
        return self._publish(
            caller, algorithm, draft, active_from=moment, action="signing_key.import"
        )

    @property
    def algorithm(self) -> str:
        """The algorithm that signs tokens for services without their own."""
        return self._keys.algorithm

    def publish_for(
        self, caller: Caller, algorithm: str, *, draft: SigningKey | None = None
    ) -> None:
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
            self._publish(caller, algorithm, key, active_from=moment)

    @contextmanager
    def draft_for(self, algorithm: str | None) -> Iterator[SigningKey | None]:
        """Generate the key for ``publish_for`` to publish, before a transaction begins.

        ``None`` if none will be needed, or none can be generated. Raises ``Unavailable``.
        """
        is_needed = (
            algorithm is not None
            and not self._is_published(algorithm)
            and self._private_keys.can_make(algorithm)
        )
        with self._changes.draft(algorithm if is_needed else None) as draft:
            yield draft

    def check_algorithm(self, algorithm: str) -> None:
        """Raise ``Invalid`` if no key can be generated for an algorithm. Raises ``Unavailable``."""
        if not self._private_keys.can_make(algorithm):
            raise Invalid.field(
                "signing_algorithm", "is not an algorithm that the HSM can make keys for"
            )

    def retire(self, caller: Caller, kid: str) -> SigningKey:
        """Stop a key from signing; one that never signed is removed at once.

        Raises ``NotFound``, ``Conflict`` if it signs for the installation, or is already retired.
        """
        with self._changes.transaction() as keys:
            key = keys.get(kid)
            if key.state is KeyState.NEXT:
                keys.remove(key, KeyState.GONE, keys.now)
            elif key.state is not KeyState.ACTIVE:
                raise Conflict("kid", "This key no longer signs.")
            elif kid == self._keys.current.default.kid:
                raise Conflict("kid", "This key signs for the installation: rotate it.")
            else:
                keys.retire(key, keys.now)
            keys.record(caller, "signing_key.retire", key)
        return keys.get(kid)

    def compromise(
        self, caller: Caller, kid: str, *, draft: SigningKey | None = None
    ) -> SigningKey:
        """Remove a key from the set at once, revoke everything it signed, and sign with the next.

        ``draft``: the result of ``draft_for_compromise``, for callers with an open transaction.
        Raises ``NotFound``, ``Conflict`` if it is already removed.
        """
        with ExitStack() as stack:
            spare = draft or stack.enter_context(self.draft_for_compromise(kid))
            with self._changes.transaction() as keys:
                key = keys.get(kid)
                if key.state in (KeyState.COMPROMISED, KeyState.GONE):
                    raise Conflict("kid", "This key is no longer published.")
                keys.remove(key, KeyState.COMPROMISED, keys.now)
                effective_at = self._revocations.revoke_signing_key(kid)
                if key.state is KeyState.ACTIVE:
                    self._activate_next(keys, key.algorithm, spare=spare)
                keys.record(caller, "signing_key.compromise", key)
            return replace(keys.get(kid), effective_at=effective_at)

    @contextmanager
    def draft_for_compromise(self, kid: str) -> Iterator[SigningKey | None]:
        """Generate the key that signs after ``compromise``, before a transaction begins.

        ``None`` if it apparently needs none. Raises ``Unavailable``.
        """
        keys = self._keys.last_read
        signing = next(
            (key for key in keys if key.kid == kid and key.state is KeyState.ACTIVE), None
        )
        algorithm = None if signing is None else signing.algorithm
        is_needed = (
            algorithm is not None
            and not _has_next(keys, algorithm)
            and self._private_keys.can_make(algorithm)
        )
        with self._changes.draft(algorithm if is_needed else None) as draft:
            yield draft

    def _publish(
        self,
        caller: Caller,
        algorithm: str,
        draft: SigningKey | None,
        *,
        active_from: int,
        bring_forward: bool = False,
        when_seen: bool = False,
        action: AuditAction = "signing_key.rotate",
    ) -> SigningKey:
        self._key_fetches.write()
        with self._changes.transaction() as keys:
            self._schedule.advance_in(keys, {})
            following = keys.in_state(KeyState.NEXT, algorithm)
            if following is not None and bring_forward:
                earlier = min(active_from, following.active_from or active_from)
                key = keys.change(following.kid, active_from=earlier, when_seen=False)
            elif following is not None:
                raise Conflict(
                    "algorithm",
                    f"A rotation of {algorithm} is in progress: {following.kid} is its next key.",
                )
            elif is_full(keys.rows, algorithm, keys.now):
                raise Conflict(
                    "keys",
                    f"{MOST} keys of {algorithm} are published: wait until one of them is removed.",
                )
            else:
                # Another process may have changed a moment ago whether a key is needed.
                new = draft or self._keys.draft(algorithm)
                key = keys.add(new, active_from=active_from, when_seen=when_seen)
            keys.record(caller, action, key)
        return keys.get(key.kid)

    def _activate_next(
        self, keys: KeyTransaction, algorithm: str, *, spare: SigningKey | None
    ) -> None:
        """Let the next key of an algorithm sign at once; without one, the spare or a new key."""
        following = keys.in_state(KeyState.NEXT, algorithm)
        if following is not None:
            keys.change(following.kid, state=KeyState.ACTIVE, active_from=keys.now)
        elif self._private_keys.can_make(algorithm):
            new = spare or self._keys.draft(algorithm)
            keys.add(new, state=KeyState.ACTIVE, active_from=keys.now)

    def _is_published(self, algorithm: str) -> bool:
        return any(key.algorithm == algorithm for key in self._keys.current.keys)


def _has_next(keys: tuple[SigningKey, ...], algorithm: str) -> bool:
    return any(key.state is KeyState.NEXT and key.algorithm == algorithm for key in keys)
