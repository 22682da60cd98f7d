"""Imports private keys as PEM or JWK, and checks that they can sign tokens.

The person who imports a key may be mistaken, or may have received it from somebody else. So every
number is bounded before anything is computed with it, and a key is accepted only if its numbers fit
together.
"""

import base64
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keyosk import strict_json, whitespace
from keyosk.errors import Invalid
from keyosk.keys.material import PrivateKey
from keyosk.keys.roca import is_from_faulty_chip

_LONGEST: Final = 16_384  # characters; an RSA key of 4096 bits has 3,300
_RSA_BITS: Final = (2048, 4096)  # RFC 7518 section 3.3; longer keys sign too slowly
#: The lower bound is that of FIPS 186-5; several verifiers read an exponent into 32 bits.
_EXPONENTS: Final = (65_537, 2**32)
#: The factors of an RSA modulus differ in one of their upper 100 bits (FIPS 186-5).
_NEAR: Final = 100
_ATTEMPTS: Final = 20  # each finds the factors of a valid key with a probability of at least 1/2
_SHORTEST_EC_BITS: Final = 128
_CRT: Final = ("p", "q", "dp", "dq", "qi")
#: RFC 9864 renames EdDSA of RFC 8037.
_ALIASES: Final = {"Ed25519": "EdDSA"}
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
#: id-RSASSA-PSS (RFC 4055), DER: such a key is for PS256 only.
_PSS: Final = bytes.fromhex("06092a864886f70d01010a")
_PEM: Final = re.compile(r"-----BEGIN PRIVATE KEY-----\s(.*?)-----END", re.DOTALL)


def read(text: str, algorithm: str | None) -> tuple[PrivateKey, str]:
    """Parse a private key, as PEM (PKCS#8 and older formats) or JWK, and return its algorithm.

    ``algorithm``: the algorithm to use if the key fits several and names none. Raises ``Invalid``
    for the field ``private_key`` or ``algorithm``; its message contains nothing of the input.
    """
    text = whitespace.trim(text)
    key: PrivateKey | None = None
    fits: Sequence[str] = ()
    named = None
    try:
        if len(text) <= _LONGEST:
            if text.lstrip().startswith("{"):
                jwk = strict_json.parse(text)
                named = _named(jwk)
                key = _from_jwk(jwk)
                fits = _algorithms_of(key)
            else:
                key = _from_pem(text)
                fits = ("PS256",) if _is_pss(text) else _algorithms_of(key)
    except (ValueError, TypeError, KeyError, ArithmeticError, UnsupportedAlgorithm, RecursionError):
        key = None
    # SECURITY: outside the handler, as the errors of libraries may hold the key.
    if key is None or not fits:
        raise Invalid.field(
            "private_key",
            "must be an unencrypted PEM or JWK for signing: EC P-256, Ed25519, or RSA of 2048 to "
            "4096 bits with an exponent from 65537 to 4294967295; its numbers must fit together",
        )
    if named is not None and named not in fits:
        raise Invalid.field("private_key", "names an algorithm (alg) that does not fit the key")
    if algorithm is not None and (algorithm not in fits or named not in (None, algorithm)):
        raise Invalid.field("algorithm", "is not an algorithm that this key can sign with")
    return key, algorithm or named or fits[0]


def _named(jwk: Mapping[str, Any]) -> str | None:
    """Return the algorithm that a JWK names. Raises ``ValueError`` if it is not for signing."""
    if jwk.get("use", "sig") != "sig":
        raise ValueError("not for signatures (RFC 7517 section 4.2)")
    operations = jwk.get("key_ops", ["sign"])
    if not isinstance(operations, list) or "sign" not in operations:
        raise ValueError("not for signing (RFC 7517 section 4.3)")
    if len(operations) != len(set(operations)) or not {"sign", "verify"}.issuperset(operations):
        raise ValueError("not only for signing")
    if "alg" not in jwk:
        return None
    if not isinstance(jwk["alg"], str):
        raise ValueError("alg is not a string")
    return _ALIASES.get(jwk["alg"], jwk["alg"])


def _from_jwk(jwk: Mapping[str, Any]) -> PrivateKey:
    if jwk["kty"] == "EC" and jwk["crv"] == "P-256":
        public = ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), ec.SECP256R1())
        return ec.EllipticCurvePrivateNumbers(_number(jwk["d"]), public).private_key()
    if jwk["kty"] == "RSA":
        return _rsa_from_jwk(jwk)
    if jwk["kty"] == "OKP" and jwk["crv"] == "Ed25519":
        key = ed25519.Ed25519PrivateKey.from_private_bytes(_bytes(jwk["d"]))
        if key.public_key().public_bytes_raw() == _bytes(jwk["x"]):
            return key
    raise ValueError("of another kind, or a d that does not belong to its x")


def _rsa_from_jwk(jwk: Mapping[str, Any]) -> rsa.RSAPrivateKey:
    n, e, d = (_number(jwk[name]) for name in ("n", "e", "d"))
    _check_rsa(n, e, d)
    crt_members = [name for name in _CRT if name in jwk]
    if "oth" in jwk or crt_members not in ([], list(_CRT)):
        raise ValueError("all or none of them, and two primes (RFC 7518 section 6.3.2)")
    if crt_members:
        p, q, dp, dq, qi = (_number(jwk[name]) for name in _CRT)
    else:
        p, q = _factors(n, e, d)
        dp, dq, qi = d % (p - 1), d % (q - 1), pow(q, -1, p)
    return _rsa(
        rsa.RSAPrivateNumbers(
            p=p, q=q, d=d, dmp1=dp, dmq1=dq, iqmp=qi, public_numbers=rsa.RSAPublicNumbers(e, n)
        )
    )


def _from_pem(text: str) -> PrivateKey:
    # The time of the library's check grows with the numbers, so ours comes first.
    key = serialization.load_pem_private_key(
        text.encode(), password=None, unsafe_skip_rsa_key_validation=True
    )
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        _check_rsa(numbers.public_numbers.n, numbers.public_numbers.e, numbers.d)
        return _rsa(numbers)
    if isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        return key
    raise ValueError("of another kind")


def _is_pss(text: str) -> bool:
    match = _PEM.search(text)
    return match is not None and _PSS in base64.b64decode(match[1])[:64]


def _check_rsa(n: int, e: int, d: int) -> None:
    """Check the bounds of the numbers before anything costly. Raises ``ValueError``."""
    shortest, longest = _RSA_BITS
    if not shortest <= n.bit_length() <= longest or n % 2 == 0:
        raise ValueError("the modulus is too short, too long or even")
    if not _EXPONENTS[0] <= e < _EXPONENTS[1] or e % 2 == 0:
        raise ValueError("the public exponent is out of bounds")
    # SECURITY: a short one follows from the public key (Wiener); with 1, anyone can sign.
    if not 2 ** (n.bit_length() // 2) < d < n:
        raise ValueError("the private exponent is out of bounds (FIPS 186-5)")


def _rsa(numbers: rsa.RSAPrivateNumbers) -> rsa.RSAPrivateKey:
    """Build the key from numbers that ``_check_rsa`` accepted.

    Raises ``ValueError`` if they do not fit.
    """
    n, e = numbers.public_numbers.n, numbers.public_numbers.e
    p, q, d = numbers.p, numbers.q, numbers.d
    half = n.bit_length() // 2
    if min(p, q).bit_length() < half - 1 or p * q != n:
        raise ValueError("these are not the factors, or one of them is short")
    if abs(p - q).bit_length() < half - _NEAR:
        raise ValueError("the factors are too near one another")
    if d * e % math.lcm(p - 1, q - 1) != 1:
        raise ValueError("the exponents do not belong together")
    if (numbers.dmp1, numbers.dmq1) != (d % (p - 1), d % (q - 1)) or numbers.iqmp * q % p != 1:
        raise ValueError("the numbers for the Chinese remainder theorem are others")
    return numbers.private_key()  # this checks that the factors are prime


def _factors(n: int, e: int, d: int) -> tuple[int, int]:
    """Factor ``n``, larger factor first (NIST SP 800-56B, appendix C). Raises ``ValueError``.

    The function of ``cryptography`` tries 500 times if there are no factors to find, which takes
    minutes.
    """
    if pow(pow(2, e, n), d, n) != 2:
        raise ValueError("the exponents do not belong together")
    product = d * e - 1
    twos = (product & -product).bit_length() - 1
    for _ in range(_ATTEMPTS):
        root = pow(secrets.randbelow(n - 3) + 2, product >> twos, n)
        for _ in range(twos):
            square = root * root % n
            if square == 1 and root not in (1, n - 1):
                p = math.gcd(root - 1, n)
                return max(p, n // p), min(p, n // p)
            root = square
            if root == 1:
                break
    raise ValueError("no factors")


def _algorithms_of(key: PrivateKey) -> tuple[str, ...]:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        # SECURITY: a short number follows from the public key.
        sound = key.private_numbers().private_value.bit_length() > _SHORTEST_EC_BITS
        return ("ES256",) if isinstance(key.curve, ec.SECP256R1) and sound else ()
    if isinstance(key, rsa.RSAPrivateKey):
        faulty = is_from_faulty_chip(key.public_key().public_numbers().n)
        return () if faulty else ("RS256", "PS256")
    return ("EdDSA",) if isinstance(key, ed25519.Ed25519PrivateKey) else ()


def _bytes(text: str) -> bytes:
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url without padding (RFC 7515 section 2)")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text))
