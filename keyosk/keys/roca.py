"""Detects RSA keys of a faulty chip, whose private key can be computed (CVE-2017-15361, "ROCA").

M. Nemec et al., "The Return of Coppersmith's Attack", CCS 2017, section 3: the library chose primes
k * M + (65537^a mod M), M the product of the first small primes. So the modulus is a power of 65537
modulo each of them; of other keys, hardly one in 2^27 is.
"""

from typing import Final

_GENERATOR: Final = 65_537
#: The odd primes below 168; every size of key has at least the first 38 of them.
_PRIMES: Final = tuple(
    number for number in range(3, 168, 2) if all(number % each for each in range(3, number, 2))
)


def _powers(prime: int) -> frozenset[int]:
    found, power = set(), 1
    while power not in found:
        found.add(power)
        power = power * _GENERATOR % prime
    return frozenset(found)


_POWERS: Final = {prime: _powers(prime) for prime in _PRIMES}


def is_from_faulty_chip(modulus: int) -> bool:
    """Return whether an RSA modulus has the chip's fingerprint."""
    return all(modulus % prime in powers for prime, powers in _POWERS.items())
