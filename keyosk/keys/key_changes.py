"""Transactions that change signing keys, and the keys that are generated before one begins.

Every change of a state is one transaction under one lock: the first process makes it and the
others find it done. Generating a key is slow and would make every writer wait, so it happens before
the transaction; a key that turns out to be unnecessary is discarded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from keyosk.audit import Audit
from keyosk.errors import NotFound, Unavailable
from keyosk.keys.lifetimes import KeyLives
from keyosk.keys.private_keys import PrivateKeys
from keyosk.keys.signing_keys import SigningKeys
from keyosk.model import AuditAction, Caller, KeyState, SigningKey
from keyosk.storage.database import Database
from keyosk.storage.signing_keys import SigningKeyStore


class KeyTransaction:
    """All keys in one transaction. They are read once; each change is written at once."""

    def __init__(
        self,
        store: SigningKeyStore,
        private_keys: PrivateKeys,
        *,
        lives: KeyLives,
        audit: Audit,
        now: int,
    ) -> None:
        self._store = store
        self._private_keys = private_keys
        self._lives = lives
        self._audit = audit
        self.now = now
        self.rows = store.all()

    def get(self, kid: str) -> SigningKey:
        """Return one key. Raises ``NotFound``."""
        return key_by_kid(self.rows, kid)

    def in_state(self, state: KeyState, algorithm: str) -> SigningKey | None:
        """Return the key of an algorithm in this state; there is at most one."""
        return next((k for k in self.rows if k.state is state and k.algorithm == algorithm), None)

    def add(self, draft: SigningKey, **columns: Any) -> SigningKey:
        """Store a new key that is published now, with these columns. Raises ``Conflict``."""
        now = self.now
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

    def correct(self, kid: str) -> SigningKey:
        """Return a key after the correction of times that a wrong clock gave it."""
        key = self.get(kid)
        corrected = self._lives.corrected(key, self.now)
        if corrected == key:
            return key
        return self.change(
            kid,
            published_at=corrected.published_at,
            active_from=corrected.active_from,
            retired_at=corrected.retired_at,
            gone_at=corrected.gone_at,
        )

    def activate(self, key: SigningKey) -> None:
        """Let a key sign whose time has come, and retire the one that signed before."""
        before = self.in_state(KeyState.ACTIVE, key.algorithm)
        if before is not None:
            self.retire(before, key.active_from or self.now)
        self.change(key.kid, state=KeyState.ACTIVE)

    def retire(self, key: SigningKey, retired_at: int) -> None:
        """Stop a key from signing."""
        # From now, not from its planned time: some process may have signed with it until now.
        gone_at = self._lives.gone_at(self.now)
        self.change(key.kid, state=KeyState.RETIRED, retired_at=retired_at, gone_at=gone_at)

    def remove(self, key: SigningKey, state: KeyState, gone_at: int) -> None:
        """Remove a key from the set, as gone or as compromised."""
        # The public key stays, because it verifies checkpoints of the audit log.
        sealed = self._private_keys.sealed_after_removal(key)
        self.change(key.kid, state=state, gone_at=gone_at, sealed=sealed)

    def record(self, caller: Caller, action: AuditAction, key: SigningKey) -> None:
        """Write the audit log's row of a change."""
        after = {"algorithm": key.algorithm, "active_from": key.active_from}
        self._audit.record(caller, action, f"signing-key/{key.kid}", after=after)


class KeyChanges:
    """Begins transactions that change keys, and generates the keys that these store."""

    def __init__(
        self,
        database: Database,
        store: SigningKeyStore,
        keys: SigningKeys,
        *,
        private_keys: PrivateKeys,
        lives: KeyLives,
        audit: Audit,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._store = store
        self._keys = keys
        self._private_keys = private_keys
        self._lives = lives
        self._audit = audit
        self._clock = clock

    @contextmanager
    def transaction(self) -> Iterator[KeyTransaction]:
        """Begin a transaction; after it, this process uses the keys as it left them."""
        with self._locked() as keys:
            yield keys
        # Not in the transaction, because no rollback can restore what an HSM has destroyed.
        for key in self._private_keys.not_destroyed(keys.rows):
            if self._private_keys.destroy(key.kid):
                keys.change(key.kid, sealed=b"")
        self._keys.adopt(keys.rows)

    @contextmanager
    def draft(self, algorithm: str | None) -> Iterator[SigningKey | None]:
        """Generate a key for an algorithm, if one is named.

        It is destroyed in the HSM if it is not stored.
        """
        draft = None if algorithm is None else self._keys.draft(algorithm)
        try:
            yield draft
        finally:
            if draft is not None:
                self._discard_unused(draft)

    def rewrap(self) -> int:
        """Encrypt every private key under the first secret key; returns the number of keys."""
        with self._locked() as keys:
            kept = [key for key in keys.rows if key.sealed]
            for key in kept:
                keys.change(key.kid, sealed=self._private_keys.rewrapped(key.kid, key.sealed))
        return len(kept)

    @contextmanager
    def _locked(self) -> Iterator[KeyTransaction]:
        with self._database.transaction():
            self._store.lock()
            yield KeyTransaction(
                self._store,
                self._private_keys,
                lives=self._lives,
                audit=self._audit,
                now=int(self._clock()),
            )

    def _discard_unused(self, draft: SigningKey) -> None:
        if not self._private_keys.is_in_hsm(draft.kid, draft.sealed):
            return
        # If the database cannot tell now, an unused key in the HSM is the lesser evil.
        with suppress(Unavailable):
            if not self._store.has(draft.kid):
                self._private_keys.destroy(draft.kid)


def key_by_kid(keys: tuple[SigningKey, ...], kid: str) -> SigningKey:
    """Return the key with this ``kid``. Raises ``NotFound``."""
    for key in keys:
        if key.kid == kid:
            return key
    raise NotFound("There is no such signing key.")
