"""Where the private halves of signing keys are: sealed in the database, or in an HSM.

New ones are made in the HSM where there is one, those from elsewhere and all from before it lie in
the database. A key that is in the HSM has, in the database, a sealed reference in its place.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Final

from keyosk.errors import ConfigurationError, Fault, Invalid, Unavailable, WrongSecretKey
from keyosk.keys import material
from keyosk.keys.hsm import REFERENCE, Hsm, HsmKey
from keyosk.keys.material import PrivateKey, Safe
from keyosk.model import KeyState, SigningKey

_OVER: Final = (KeyState.GONE, KeyState.COMPROMISED)
#: Seconds until a key that is over is looked for in the HSM again, if that failed.
_DESTROY_AGAIN: Final = 60

_log = logging.getLogger(__name__)

#: A public JWK, and what is stored for its private half.
NewKey = tuple[Mapping[str, str], bytes]


class PrivateKeys:
    """Makes, keeps, opens and destroys private keys."""

    def __init__(self, safe: Safe, hsm: Hsm | None = None) -> None:
        self._safe = safe
        self._hsm = hsm
        self._destroys_from = 0.0

    def can_make(self, algorithm: str) -> bool:
        """Whether new keys can be for an algorithm. Raises ``Unavailable``."""
        return self._hsm is None or self._hsm.can_make(algorithm)

    def make(self, algorithm: str) -> NewKey:
        """A new key. Raises ``Invalid``, ``Unavailable``."""
        if self._hsm is None:
            return self.keep(material.generate(algorithm), algorithm)
        if not self._hsm.can_make(algorithm):
            raise Invalid.field("algorithm", "is not an algorithm that the HSM can make keys for")
        public = self._hsm.make(algorithm)
        return public, self._safe.seal(REFERENCE, name=public["kid"])

    def keep(self, private: PrivateKey, algorithm: str) -> NewKey:
        """A key from elsewhere, which is known outside of any HSM already."""
        public = material.public_jwk(private, algorithm)
        return public, self._safe.seal_private_key(private, public["kid"])

    def open(self, kid: str, algorithm: str, sealed: bytes) -> PrivateKey | HsmKey:
        """What signs. Raises ``WrongSecretKey``."""
        if self.is_in_hsm(kid, sealed):
            return HsmKey(self._hsm, kid, algorithm)
        return self._safe.open_private_key(sealed, kid)

    def is_in_hsm(self, kid: str, sealed: bytes) -> bool:
        """Whether a key is there and not here. Raises ``WrongSecretKey``."""
        return self._safe.open(sealed, name=kid) == REFERENCE

    def rewrapped(self, kid: str, sealed: bytes) -> bytes:
        """The same under the first secret key. Raises ``WrongSecretKey``."""
        return self._safe.seal(self._safe.open(sealed, name=kid), name=kid)

    def left_of(self, key: SigningKey) -> bytes:
        """What stays stored of the private half of a key that is over.

        Nothing, or the reference to one in the HSM, until it is destroyed there as well.
        """
        try:
            return key.sealed if self._hsm and self.is_in_hsm(key.kid, key.sealed) else b""
        except WrongSecretKey:
            return b""  # nobody can read it any more, and it has to go all the same

    def left_over(self, keys: Iterable[SigningKey]) -> list[SigningKey]:
        """Those that are over and not destroyed in the HSM; none while it rests from a failure."""
        if self._hsm is None or time.monotonic() < self._destroys_from:
            return []
        return [key for key in keys if key.sealed and key.state in _OVER]

    def destroy(self, kid: str) -> bool:
        """Destroy a key in the HSM; false if that cannot be done now."""
        if self._hsm is None:
            return False
        try:
            self._hsm.destroy(kid)
        except Unavailable:
            _log.warning("signing key %s is not in use and not destroyed in the PKCS#11 token", kid)
            self._destroys_from = time.monotonic() + _DESTROY_AGAIN
            return False
        return True

    def discard(self, key: SigningKey) -> None:
        """Destroy a key that was made and could not be stored, if that can be done."""
        if self.is_in_hsm(key.kid, key.sealed):
            self.destroy(key.kid)

    def check(self, algorithm: str) -> None:
        """At the start: whether the HSM can be used. Raises ``ConfigurationError``."""
        if self._hsm is None:
            return
        self._hsm.check()
        if not self._hsm.can_make(algorithm):
            fault = "is not an algorithm that the HSM can make keys for"
            raise ConfigurationError([Fault("KEYOSK_SIGNING_ALGORITHM", fault)])

    def check_key(self, kid: str, sealed: bytes) -> None:
        """At the start: whether a key is where it should be.

        Raises ``WrongSecretKey``, ``ConfigurationError``, ``Unavailable``.
        """
        if not self.is_in_hsm(kid, sealed):
            return
        if self._hsm is None:
            fault = "is required: a signing key is in a PKCS#11 token"
            raise ConfigurationError([Fault("KEYOSK_PKCS11_MODULE", fault)])
        if not self._hsm.has(kid):
            fault = f"is the label of a token that does not hold the signing key {kid}"
            raise ConfigurationError([Fault("KEYOSK_PKCS11_TOKEN", fault)])

    def fault_of(self, key: SigningKey) -> str | None:
        """What is wrong with what is stored of a key, if anything is."""
        try:
            private = self.open(key.kid, key.algorithm, key.sealed)
            if isinstance(private, HsmKey):
                if key.state not in _OVER:
                    self.check_key(key.kid, key.sealed)
            elif material.public_jwk(private, key.algorithm) != dict(key.public):
                return f"{key.kid} has another public half"
        except WrongSecretKey:
            return f"{key.kid} does not open with the secret key"
        except (ConfigurationError, Unavailable) as error:
            return f"{key.kid} is not at hand in the HSM: {error.detail}"
        return None

    def close(self) -> None:
        """Give the HSM back, before a fork or at the end."""
        if self._hsm is not None:
            self._hsm.close()
