"""The format of an API key's secret: how it is generated, recognised and stored.

A secret is 43 ASCII characters: ``kysk_``, 32 base62 characters of randomness (190 bits) and 6
characters of checksum. The checksum is the CRC-32 of everything before it, written in base62, most
significant digit first, padded with ``0``.

The checksum protects nothing: anyone can compute it. It lets Keyosk refuse a typo, a truncated
paste and a random guess without a query, and it lets secret scanners recognise a leaked key with
certainty.
"""

import hashlib
import secrets
import zlib

PREFIX = "kysk_"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH = 32
_CHECKSUM_LENGTH = 6
_BODY_LENGTH = len(PREFIX) + _RANDOM_LENGTH
_LENGTH = _BODY_LENGTH + _CHECKSUM_LENGTH
#: How many characters of a secret lists show.
SHOWN_LENGTH = 12


def generate() -> str:
    """Generate a secret from the operating system's randomness, without bias."""
    body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return body + _checksum(body)


def looks_like(secret: str) -> bool:
    """Return whether a secret is meant to be an API key, well formed or not."""
    return secret.startswith(PREFIX)


def is_well_formed(secret: str) -> bool:
    """Tell whether a secret has the form of an API key and the right checksum.

    The cost does not depend on the length of the input, and no input raises.

    What the checksum finds. Always: every change within four neighbouring characters of the first
    37 (CRC-32 finds every burst of up to 32 bits), so every single changed character; every swap
    of two different characters among the first 37 (the polynomial is primitive); every change
    confined to the checksum (one value has one spelling). Anything else, such as a swap across
    the border between body and checksum, passes with a probability of about one in 2**32.
    """
    if len(secret) != _LENGTH or not secret.startswith(PREFIX) or not secret.isascii():
        return False
    if not secret[len(PREFIX) :].isalnum():
        return False
    return secret[_BODY_LENGTH:] == _checksum(secret[:_BODY_LENGTH])


def digest(secret: str) -> bytes:
    """Return the SHA-256 (32 bytes) under which a key is stored and found.

    A fast hash without salt is right here and would be wrong for a password: slowness and salt make
    guessing likely secrets expensive, and 2**190 equally likely secrets cannot be guessed. So
    finding a key is one indexed lookup.
    """
    # surrogatepass, so that no input raises: a UnicodeEncodeError would carry the secret.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def prefix(secret: str) -> str:
    """Return the first 12 characters, which lists show so that people can distinguish their keys.

    They reveal 7 of the 32 random characters; 148 bits stay secret.
    """
    return secret[:SHOWN_LENGTH]


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode("ascii"))
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
