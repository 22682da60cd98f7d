"""What happens to signing keys by itself: they sign, retire, are removed and get successors.

Verifiers cache the key set for minutes, and several never refetch it for an unknown key. So a key
is published long before it signs and long after its last token has expired. If a process dies in
the middle of a step, the next one makes it.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

from keyosk.errors import Unavailable
from keyosk.keys.key_changes import KeyChanges, KeyTransaction
from keyosk.keys.key_fetches import KeyFetches
from keyosk.keys.lifetimes import KeyLives, KeyPolicy
from keyosk.keys.private_keys import PrivateKeys
from keyosk.keys.signing_keys import SPREAD, is_due_to_go, is_signing
from keyosk.model import OPERATOR, KeyState, SigningKey
from keyosk.storage.signing_keys import SigningKeyStore


class KeySchedule:
    """Makes the steps of keys that are due."""

    def __init__(
        self,
        store: SigningKeyStore,
        changes: KeyChanges,
        *,
        key_fetches: KeyFetches,
        private_keys: PrivateKeys,
        lives: KeyLives,
        policy: KeyPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._changes = changes
        self._key_fetches = key_fetches
        self._private_keys = private_keys
        self._lives = lives
        self._policy = policy
        self._clock = clock

    def advance(self) -> None:
        """Make the steps that are due, if any are. Raises ``Unavailable``."""
        self._key_fetches.write()
        rows = self._store.all()
        now = int(self._clock())
        if not self._is_due(rows, now):
            return
        with ExitStack() as stack:
            successors = {}
            corrected = tuple(self._lives.corrected(key, now) for key in rows)
            for algorithm in {
                key.algorithm for key in corrected if self._is_old(key, corrected, now)
            }:
                with suppress(Unavailable):  # the HSM is unavailable: the old key still signs
                    draft = stack.enter_context(self._changes.draft(algorithm))
                    successors[algorithm] = draft
            with self._changes.transaction() as keys:
                self.advance_in(keys, successors)

    def advance_quietly(self) -> None:
        """Call ``advance``; if the database is away, a later call makes the steps."""
        with suppress(Unavailable):
            self.advance()

    def advance_in(self, keys: KeyTransaction, successors: Mapping[str, SigningKey | None]) -> None:
        """Make the steps that are due; ``successors``: of old keys, by algorithm."""
        now = keys.now
        for kid in [key.kid for key in keys.rows]:
            key = keys.correct(kid)
            if key.state is KeyState.NEXT and is_signing(key, now):
                keys.activate(key)
            elif key.state is KeyState.NEXT and self._was_seen_by_all(key, now):
                keys.change(kid, active_from=now + SPREAD, when_seen=False)
            elif key.state is KeyState.RETIRED and is_due_to_go(key, now):
                keys.remove(key, KeyState.GONE, key.gone_at or now)
            elif (draft := successors.get(key.algorithm)) and self._is_old(key, keys.rows, now):
                new = keys.add(draft, active_from=now + self._policy.publish_ahead)
                keys.record(OPERATOR, "signing_key.rotate", new)

    def _is_due(self, rows: tuple[SigningKey, ...], now: int) -> bool:
        if self._private_keys.not_destroyed(rows) or self._lives.are_wrong(rows, now):
            return True
        return any(
            (
                key.state is KeyState.NEXT
                and (is_signing(key, now) or self._was_seen_by_all(key, now))
            )
            or (key.state is KeyState.RETIRED and is_due_to_go(key, now))
            or self._is_old(key, rows, now)
            for key in rows
        )

    def _was_seen_by_all(self, key: SigningKey, now: int) -> bool:
        """Return whether a key that waits for services may sign, because all have fetched it."""
        if not key.when_seen or now < key.published_at + self._policy.publish_ahead:
            return False
        return not self._key_fetches.services_without(key)

    def _is_old(self, key: SigningKey, rows: tuple[SigningKey, ...], now: int) -> bool:
        """Return whether a key is due for a rotation that has not begun and is possible."""
        if (
            not self._policy.rotate_every
            or key.state is not KeyState.ACTIVE
            or key.active_from is None
        ):
            return False
        if any(k.state is KeyState.NEXT and k.algorithm == key.algorithm for k in rows):
            return False
        if now < key.active_from + self._policy.rotate_every - self._policy.publish_ahead:
            return False
        try:
            return self._private_keys.can_make(key.algorithm)
        except Unavailable:
            return False
