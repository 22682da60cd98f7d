"""Storage of private keys: encrypted in the database, or in an HSM.

New keys are generated in the HSM if there is one. Imported keys and all earlier keys are in the
database. For a key in the HSM, the database has an encrypted reference instead.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Final

from keyosk.errors import ConfigurationError, Fault, Invalid, Unavailable, WrongSecretKey
from keyosk.keys import material
from keyosk.keys.hsm import REFERENCE, Hsm, HsmKey
from keyosk.keys.material import PrivateKey, Safe
from keyosk.model import SIGNING_ALGORITHMS, KeyState, SigningKey

_OVER: Final = (KeyState.GONE, KeyState.COMPROMISED)
#: Seconds until the HSM is searched for removed keys again, after a failure.
_DESTROY_AGAIN: Final = 60

_log = logging.getLogger(__name__)

#: A public JWK, and the stored form of its private key.
NewKey = tuple[Mapping[str, str], bytes]


class PrivateKeys:
    """Generates, stores, opens and destroys private keys."""

    def __init__(self, safe: Safe, hsm: Hsm | None = None) -> None:
        self._safe = safe
        self._hsm = hsm
        self._destroys_from = 0.0

    def can_make(self, algorithm: str) -> bool:
        """Return whether new keys can be generated for an algorithm. Raises ``Unavailable``."""
        if algorithm not in SIGNING_ALGORITHMS:
            return False
        return self._hsm is None or self._hsm.can_make(algorithm)

    def make(self, algorithm: str) -> NewKey:
        """Generate a key. Raises ``Invalid``, ``Unavailable``."""
        if self._hsm is None:
            return self.keep(material.generate(algorithm), algorithm)
        if not self._hsm.can_make(algorithm):
            raise Invalid.field("algorithm", "is not an algorithm that the HSM can make keys for")
        public = self._hsm.make(algorithm)
        return public, self._safe.seal(REFERENCE, name=public["kid"])

    def keep(self, private: PrivateKey, algorithm: str) -> NewKey:
        """Store an imported key, which is already known outside of any HSM."""
        public = material.public_jwk(private, algorithm)
        return public, self._safe.seal_private_key(private, public["kid"])

    def open(self, kid: str, algorithm: str, sealed: bytes) -> PrivateKey | HsmKey:
        """Return the object that signs with a key. Raises ``WrongSecretKey``."""
        if self.is_in_hsm(kid, sealed):
            return HsmKey(self._hsm, kid, algorithm)
        return self._safe.open_private_key(sealed, kid)

    def is_in_hsm(self, kid: str, sealed: bytes) -> bool:
        """Return whether the private key is in the HSM. Raises ``WrongSecretKey``."""
        return self._safe.open(sealed, name=kid) == REFERENCE

    def rewrapped(self, kid: str, sealed: bytes) -> bytes:
        """Return the key encrypted under the first secret key. Raises ``WrongSecretKey``."""
        return self._safe.seal(self._safe.open(sealed, name=kid), name=kid)

    def sealed_after_removal(self, key: SigningKey) -> bytes:
        """Return what remains stored of the private key after a key was removed.

        Nothing, or the reference to one in the HSM, until it is destroyed there as well.
        """
        try:
            return key.sealed if self._hsm and self.is_in_hsm(key.kid, key.sealed) else b""
        except WrongSecretKey:
            return b""  # unreadable, but it must be destroyed

    def not_destroyed(self, keys: Iterable[SigningKey]) -> list[SigningKey]:
        """Return removed keys that still exist in the HSM; none shortly after a failure."""
        if self._hsm is None or time.monotonic() < self._destroys_from:
            return []
        return [key for key in keys if key.sealed and key.state in _OVER]

    def destroy(self, kid: str) -> bool:
        """Destroy a key in the HSM; returns false if that is impossible now."""
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
        """Destroy a new key that could not be stored, if possible."""
        if self.is_in_hsm(key.kid, key.sealed):
            self.destroy(key.kid)

    def check(self, algorithm: str) -> None:
        """Check when Keyosk starts that the HSM can be used. Raises ``ConfigurationError``."""
        if self._hsm is None:
            return
        self._hsm.check()
        if not self._hsm.can_make(algorithm):
            fault = "is not an algorithm that the HSM can make keys for"
            raise ConfigurationError([Fault("KEYOSK_SIGNING_ALGORITHM", fault)])

    def check_key(self, kid: str, sealed: bytes) -> None:
        """Check when Keyosk starts that a key can be opened.

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
        """Return what is wrong with the stored private key, if anything is."""
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
        """Close the HSM, before a fork or at the end."""
        if self._hsm is not None:
            self._hsm.close()
