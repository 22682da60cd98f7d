"""Key material: generation, names, public formats and encryption. The only user of cryptography.

Owns the mathematics of signing keys: generation, RFC 7638 thumbprints, public JWK and PEM formats,
and encryption at rest. ``signing_keys`` decides which key signs, and when.
"""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag

# Imported before the fork; otherwise each worker would import it for its first signature.
from cryptography.hazmat.backends.openssl import backend  # noqa: F401
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

from keyosk import model
from keyosk.errors import WrongSecretKey
from keyosk.keys.roca import is_from_faulty_chip

MlDsaPrivateKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey
MlDsaPublicKey = mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey
PrivateKey = (
    ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | MlDsaPrivateKey
)
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey | MlDsaPublicKey

_ML_DSA: Final[Mapping[str, tuple[Any, Any]]] = {
    "ML-DSA-44": (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    "ML-DSA-65": (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
}

#: The length of their signatures.
SIGNATURE_BYTES: Final[Mapping[str, int]] = {
    "ES256": 64,
    "RS256": 384,
    "PS256": 384,
    "EdDSA": 64,
    "ML-DSA-44": 2_420,
    "ML-DSA-65": 3_309,
}

_SHORTEST_RSA_BITS: Final = 2048  # RFC 7518 section 3.3
_EXPONENT: Final = 65537
#: The algorithms of each key type. ES256 has one curve, and EdDSA is limited to one.
_USES: Final[Mapping[tuple[str, str | None], Sequence[str]]] = {
    ("EC", "P-256"): ("ES256",),
    ("RSA", None): ("RS256", "PS256"),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("AKP", None): model.OWN_SET_ALGORITHMS,
}
_RSA_BITS: Final = 3072  # NIST SP 800-57 part 1: 128 bits of security, as the other algorithms
#: Characters: 32 random bytes in base64 without padding.
SHORTEST_SECRET_KEY: Final = 43
_NONCE_BYTES: Final = 12
_SEALING: Final = b"keyosk private keys v1"
_REFRESH: Final = b"keyosk refresh tokens v1"
_FINGERPRINTS: Final = b"keyosk fingerprints v1"
# The members that make up a thumbprint, by key type (RFC 7638 section 3.2, RFC 8037 section 2).
_REQUIRED: Final[Mapping[str, Sequence[str]]] = {
    "EC": ("crv", "kty", "x", "y"),
    "RSA": ("e", "kty", "n"),
    "OKP": ("crv", "kty", "x"),
    "AKP": ("alg", "kty", "pub"),
}


def generate(algorithm: str) -> PrivateKey:
    """Generate a private key for an algorithm that can sign tokens."""
    if algorithm in _ML_DSA:
        private_key: PrivateKey = _ML_DSA[algorithm][0].generate()
        return private_key
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm in ("RS256", "PS256"):
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(f"unknown algorithm {algorithm!r}")


def public_jwk(key: PrivateKey | PublicKey, algorithm: str) -> dict[str, str]:
    """Return the public key as a JWK (RFC 7517) with ``kid``, ``use`` and ``alg``."""
    public = _public(key)
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_numbers()
        numbers = {"kty": "EC", "crv": "P-256", "x": _uint(point.x, 32), "y": _uint(point.y, 32)}
    elif isinstance(public, rsa.RSAPublicKey):
        rsa_numbers = public.public_numbers()
        numbers = {"kty": "RSA", "n": _uint(rsa_numbers.n), "e": _uint(rsa_numbers.e)}
    elif isinstance(public, ed25519.Ed25519PublicKey):
        numbers = {"kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}
    else:
        numbers = {"kty": "AKP", "alg": algorithm, "pub": base64url(public.public_bytes_raw())}
    return {**numbers, "kid": thumbprint(numbers), "use": "sig", "alg": algorithm}


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of a JWK, base64url; other members are ignored."""
    required = {name: jwk[name] for name in _REQUIRED[jwk["kty"]]}
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True)
    return base64url(hashlib.sha256(canonical.encode()).digest())


def public_key(jwk: Mapping[str, str]) -> PublicKey:
    """Return the key object of a public JWK that ``public_jwk`` made.

    Raises ``ValueError`` for any other JWK: with another ``use``, an algorithm that does not match
    its type, another curve or none, or too weak (RFC 7518 section 3.3).
    """
    uses = _USES.get((jwk["kty"], jwk.get("crv")), ())
    for_verifying = jwk.get("use", "sig") == "sig" and "verify" in jwk.get("key_ops", "verify")
    if not for_verifying or jwk.get("alg", *uses[:1]) not in uses:
        raise ValueError("this is not a key that can verify tokens")
    if jwk["kty"] == "EC":
        return ec.EllipticCurvePublicNumbers(
            _number(jwk["x"]), _number(jwk["y"]), ec.SECP256R1()
        ).public_key()
    if jwk["kty"] == "RSA":
        numbers = rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"]))
        short = numbers.n.bit_length() < _SHORTEST_RSA_BITS
        if numbers.e < _EXPONENT or short or is_from_faulty_chip(numbers.n):
            raise ValueError("this RSA key is too weak")
        return numbers.public_key()
    if jwk["kty"] == "AKP":
        read: PublicKey = _ML_DSA[jwk["alg"]][1].from_public_bytes(_bytes(jwk["pub"]))
        return read
    return ed25519.Ed25519PublicKey.from_public_bytes(_bytes(jwk["x"]))


def fault_of(kid: str, algorithm: str, public: Mapping[str, str]) -> str | None:
    """Return what is wrong with the stored public half of a signing key, if anything is."""
    if algorithm not in model.SIGNING_ALGORITHMS:
        return "is of an unknown algorithm"
    try:
        public_key(public)
        names = (public["alg"], public["kid"], thumbprint(public))
    except (KeyError, TypeError, ValueError):
        return "has a public half that is no public key"
    return None if names == (algorithm, kid, kid) else "has the public half of another key"


def is_signed(key: MlDsaPublicKey, signature: bytes, message: bytes) -> bool:
    """Verify an ML-DSA signature; PyJWT implements the other algorithms."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def public_der(jwk: Mapping[str, str]) -> bytes:
    """Return a public JWK as DER (SubjectPublicKeyInfo)."""
    return public_key(jwk).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def libtrust_id(public: Mapping[str, str]) -> str:
    """Return the ``kid`` that container registries compute for a public JWK (libtrust).

    The first 240 bits of the SHA-256 of its DER form, in base32, in groups of four characters.
    """
    digest = hashlib.sha256(public_der(public)).digest()[:30]
    text = base64.b32encode(digest).decode("ascii")
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))


def certificate(key: PrivateKey, name: str) -> str:
    """Create a self-signed X.509 certificate (RFC 5280) as PEM, valid for ten years."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.now(UTC)
    # Edwards curves and ML-DSA have their hash built in.
    hashed = isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, hashes.SHA256() if hashed else None)
    )
    return signed.public_bytes(serialization.Encoding.PEM).decode("ascii")


def public_pem(jwk: Mapping[str, str]) -> str:
    """Return a public JWK as PEM (RFC 7468 section 13, SubjectPublicKeyInfo)."""
    return (
        public_key(jwk)
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii")
    )


def new_secret_key() -> str:
    """Create a secret key for an installation: 32 random bytes, base64url without padding."""
    return base64url(os.urandom(32))


class Safe:
    """Encrypts private keys under the installation's secret keys (AES-256-GCM).

    The first secret key encrypts and all of them decrypt, so that a new one can be added in front.
    The AES key is derived with HKDF-SHA256 (RFC 5869). The name of the sealed object is
    authenticated with it: a ciphertext that was moved to another row does not open.
    """

    def __init__(self, secret_keys: Sequence[str]) -> None:
        """Set the ``secret_keys``: at least one, each with the entropy of 32 random bytes."""
        if not secret_keys:
            raise ValueError("a secret key is needed")
        self._ciphers = tuple(AESGCM(_derive(secret, _SEALING)) for secret in secret_keys)
        self._refresh_keys = tuple(_derive(secret, _REFRESH) for secret in secret_keys)
        self._mac_key = _derive(secret_keys[0], _FINGERPRINTS)

    def seal_private_key(self, key: PrivateKey, kid: str) -> bytes:
        """Return the private key encrypted, as it is stored."""
        return self.seal(
            key.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            name=kid,
        )

    def open_private_key(self, sealed: bytes, kid: str) -> PrivateKey:
        """Decrypt a private key. Raises ``WrongSecretKey``."""
        key = serialization.load_der_private_key(self.open(sealed, name=kid), password=None)
        if not isinstance(key, PrivateKey):
            raise TypeError("a stored signing key is of a type that cannot sign tokens")
        return key

    def seal(self, plain: bytes, *, name: str) -> bytes:
        """Encrypt ``plain`` and bind it to ``name``; returns nonce, ciphertext and tag in one."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, plain, name.encode())

    def open(self, sealed: bytes, *, name: str) -> bytes:
        """Decrypt what ``seal`` returned. Raises ``WrongSecretKey`` if no secret key fits."""
        nonce, ciphertext = bytes(sealed[:_NONCE_BYTES]), bytes(sealed[_NONCE_BYTES:])
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, ciphertext, name.encode())
            except (InvalidTag, ValueError):  # ValueError: it was truncated
                continue
        raise WrongSecretKey(
            "The secret key does not open the private keys in this database. Give the "
            "KEYOSK_SECRET_KEY (or the key file beside the SQLite file) that they were made under."
        )

    def refresh_macs(self, data: bytes) -> list[bytes]:
        """Return the HMAC-SHA256 of ``data`` under each secret key, in their order."""
        return [hmac.digest(key, data, "sha256") for key in self._refresh_keys]

    def fingerprint(self, data: bytes) -> str:
        """Return the HMAC-SHA256 of ``data``, hexadecimal, to compare data without storing it."""
        return hmac.digest(self._mac_key, data, "sha256").hex()


def _derive(secret: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose).derive(
        secret.encode()
    )


def _public(key: PrivateKey | PublicKey) -> PublicKey:
    return key.public_key() if isinstance(key, PrivateKey) else key


def base64url(data: bytes) -> str:
    """Encode as base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text))


def _uint(number: int, length: int | None = None) -> str:
    # RFC 7518 sections 2 and 6.2.1.2: RSA numbers have no leading zero byte, coordinates keep them.
    return base64url(number.to_bytes(length or (number.bit_length() + 7) // 8))
