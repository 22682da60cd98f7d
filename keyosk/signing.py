"""Which keys sign, and which are published.

Each process keeps the public set and the active signer in memory: neither a token nor the key set
waits for the database. How a key is made and locked away is ``keyring``'s business.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from keyosk import keyring
from keyosk.errors import Conflict, NotFound, Unavailable
from keyosk.keyring import PrivateKey, PublicKey, Safe
from keyosk.model import KeyState, SigningKey
from keyosk.storage.signing_keys import SigningKeyStore

_PUBLISHED: Final = (KeyState.ACTIVE, KeyState.NEXT, KeyState.RETIRED)  # in this order
_MOST: Final = 5
_FRESH: Final = 5  # seconds for which a process does not look for keys that others made

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signer:
    """The key that signs now."""

    kid: str
    algorithm: str
    key: PrivateKey


@dataclass(frozen=True, slots=True)
class Verifier:
    """The public half of one published key."""

    algorithm: str
    key: PublicKey


@dataclass(frozen=True)
class KeySet:
    """All that the outside and the inside need of the signing keys, at one moment."""

    keys: Sequence[SigningKey]
    signers: Mapping[str, Signer]  # by algorithm

    @cached_property
    def verifiers(self) -> Mapping[str, Verifier]:
        """The published keys by ``kid``."""
        return {
            key.kid: Verifier(key.algorithm, keyring.public_key(key.public)) for key in self.keys
        }

    @cached_property
    def document(self) -> bytes:
        """The JWK set (RFC 7517 section 5) as published, the active key first."""
        return json.dumps({"keys": [key.public for key in self.keys]}, indent=1).encode() + b"\n"


class SigningKeys:
    """The installation's signing keys."""

    def __init__(
        self, store: SigningKeyStore, safe: Safe, algorithm: str, clock: Callable[[], float]
    ) -> None:
        """``algorithm``: what new tokens are signed with, one of ``keyring.ALGORITHMS``."""
        self._store = store
        self._safe = safe
        self._algorithm = algorithm
        self._clock = clock
        self._current: KeySet | None = None
        self._refreshed = 0.0

    @property
    def current(self) -> KeySet:
        """The key set in memory, as the database had it at most ``_FRESH`` seconds ago.

        Without the database it stays as it was.
        """
        if self._current is None:
            self.refresh()
        elif self._clock() - self._refreshed >= _FRESH:
            self._refreshed = self._clock()
            try:
                self.refresh()
            except Unavailable:
                _log.warning("the signing keys were not read again: no database")
        if self._current is None:
            raise Unavailable("There is no signing key.")
        return self._current

    @property
    def algorithm(self) -> str:
        """What tokens are signed with where no service says otherwise."""
        return self._algorithm

    def signer(self, algorithm: str | None) -> Signer:
        """The key that signs with an algorithm, ``None`` for the installation's.

        Makes one if there is none yet. Raises ``Unavailable`` if that cannot be done now.
        """
        wanted = algorithm or self._algorithm
        signer = self.current.signers.get(wanted)
        if signer is None:
            self.ensure(wanted)
            signer = self.current.signers[wanted]
        return signer

    def refresh(self) -> None:
        """Read the keys again. Raises ``WrongSecretKey``."""
        stored = self._store.all()
        active = {key.algorithm: key for key in stored if key.state is KeyState.ACTIVE}
        signing = active.get(self._algorithm)
        if signing is None:
            self._current = None
            return
        published = sorted(
            (key for key in stored if key.state in _PUBLISHED),
            key=lambda key: (key is not signing, _PUBLISHED.index(key.state), -key.created_at),
        )
        self._current = KeySet(
            keys=tuple(published[:_MOST]),
            signers={
                key.algorithm: Signer(
                    key.kid, key.algorithm, self._safe.open_private_key(key.sealed, key.kid)
                )
                for key in active.values()
            },
        )
        self._refreshed = self._clock()

    def ensure(self, algorithm: str | None = None) -> None:
        """Make the first key of an algorithm, ``None`` for the installation's, if there is none.

        Such a key signs at once: no verifier can have cached a set of this algorithm before.
        Raises ``WrongSecretKey`` if the secret key does not open the keys that are there.
        """
        wanted = algorithm or self._algorithm
        self.refresh()
        if self._current is not None and wanted in self._current.signers:
            return
        now = int(self._clock())
        private = keyring.generate(wanted)
        public = keyring.public_jwk(private, wanted)
        kid = public["kid"]
        key = SigningKey(
            kid=kid,
            algorithm=wanted,
            state=KeyState.ACTIVE,
            public=public,
            published_at=now,
            active_from=now,
            retired_at=None,
            created_at=now,
            sealed=self._safe.seal_private_key(private, kid),
        )
        try:
            self._store.add(key)
        except Conflict:
            _log.info("another process made the first key for %s", wanted)
        self.refresh()

    def all(self) -> tuple[SigningKey, ...]:
        """Every key with its life, oldest first, from the database."""
        return self._store.all()

    def public_pem(self, kid: str) -> str:
        """One published key as PEM. Raises ``NotFound``."""
        for key in self.current.keys:
            if key.kid == kid:
                return keyring.public_pem(key.public)
        raise NotFound("There is no such published key.")
