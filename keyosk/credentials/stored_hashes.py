r"""Password hashes as they are stored: their formats, and the cost of verifying one.

Knows formats and numbers only; ``password_hashing`` computes, ``imported_hashes`` converts the
formats of other programs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

LONGEST_FOR_CRYPT: Final = 512
"""In bytes. The time of crypt's SHA-2 grows with the password; libxcrypt has this limit."""

# What the schemes cost, as the KiB that argon2id writes in the same time of one core; measured on
# one machine (stdlib OpenSSL 3, bcrypt 5, argon2-cffi 25.1), elsewhere right within a factor of 2.
_BCRYPT_WORK: Final = 100  # for each of its 2**cost rounds
_SCRYPT_WORK: Final = 4  # for each KiB that it fills
_PBKDF2_WORK: Final[Mapping[str, float]] = {"1": 0.4, "256": 0.66, "512": 1.5}  # for each round
# For each round: with an ordinary password, and with the longest.
_CRYPT_WORK: Final[Mapping[str, tuple[float, float]]] = {"5": (0.6, 1.4), "6": (0.8, 2.6)}

ARGON2: Final = re.compile(
    r"\$argon2(?:id|i|d)\$(?:v=[0-9]{2}\$)?m=([0-9]{1,10}),t=([0-9]{1,10}),p=([0-9]{1,3})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)",
    re.ASCII,
)
_BCRYPT_SALT: Final = r"[./A-Za-z0-9]{21}[.Oeu]"
_BCRYPT_DIGEST: Final = r"[./A-Za-z0-9]{30}[.CGKOSWaeimquy26]"
BCRYPT: Final = re.compile(
    rf"(?:(?:bcrypt_sha256\$)?\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\${_BCRYPT_SALT}{_BCRYPT_DIGEST})"
    r"|(?:\$bcrypt-sha256\$(?:v=2,t=2b,r=|2[ab],)([4-9]|[12][0-9]|3[01])"
    rf"\${_BCRYPT_SALT}\${_BCRYPT_DIGEST})",
    re.ASCII,
)
SCRYPT: Final = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]{0,4}),p=([1-9][0-9]{0,4})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)",
    re.ASCII,
)
PBKDF2: Final = re.compile(
    r"\$pbkdf2(?:-sha(1|256|512))?\$(?:i=)?([1-9][0-9]{0,9})(?:,l=[0-9]{1,3})?"
    r"\$([A-Za-z0-9+/.]+)\$([A-Za-z0-9+/.]+)",
    re.ASCII,
)
CRYPT: Final = re.compile(
    r"\$(5|6)\$(?:rounds=([1-9][0-9]{3,8})\$)?[./A-Za-z0-9]{1,16}"
    r"\$([./A-Za-z0-9]{42}[./0-9A-D]|[./A-Za-z0-9]{85}[./01])",
    re.ASCII,
)
SALTED_SHA: Final = re.compile(r"\{SSHA(|256|512)\}([A-Za-z0-9+/]+)=*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of verifying a password against a hash.

    Attributes:
        work: The KiB that argon2id writes in the same time (exact for argon2 itself).
        memory: The KiB of memory that it needs.
        lanes: The number of threads.
        worst: The work for the longest password, if it differs.
    """

    work: int
    memory: int = 0
    lanes: int = 1
    worst: int = 0


def cost_of(stored: str) -> Cost | None:
    """Return the cost of verifying a stored hash; ``None`` if its format is unknown."""
    for pattern, read in _COSTS:
        match = pattern.fullmatch(stored)
        if match is not None:
            return read(match)
    return None


def _argon2_cost(match: re.Match[str]) -> Cost:
    memory, passes, lanes = map(int, match.groups()[:3])
    return Cost(memory * passes, memory, lanes)


def _bcrypt_cost(match: re.Match[str]) -> Cost:
    return Cost(_BCRYPT_WORK << int(match[1] or match[2]))


def _scrypt_cost(match: re.Match[str]) -> Cost:
    rounds, block, lanes = map(int, match.groups()[:3])
    memory = (block << rounds) // 8  # 128 bytes for each of N * r
    return Cost(_SCRYPT_WORK * memory * lanes, memory + block * lanes // 8)


def _pbkdf2_cost(match: re.Match[str]) -> Cost:
    return Cost(int(int(match[2]) * _PBKDF2_WORK[match[1] or "1"]))


def _crypt_cost(match: re.Match[str]) -> Cost:
    rounds = int(match[2] or 5_000)
    usual, worst = _CRYPT_WORK[match[1]]
    return Cost(int(rounds * usual), worst=int(rounds * worst))


_COSTS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Cost]], ...]] = (
    (ARGON2, _argon2_cost),
    (BCRYPT, _bcrypt_cost),
    (SCRYPT, _scrypt_cost),
    (PBKDF2, _pbkdf2_cost),
    (CRYPT, _crypt_cost),
    (SALTED_SHA, lambda _: Cost(1)),
)
