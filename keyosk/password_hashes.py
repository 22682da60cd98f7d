r"""Password hashes that were made elsewhere: which are known, and what checking one costs.

Knows forms and numbers only; ``passwords`` computes. ``adopt`` brings each form that people have in
their databases into the one form of its scheme that is stored, and ``cost_of`` reads that form:

=====================  ==========================================  =============================
scheme                 stored as                                   also taken
=====================  ==========================================  =============================
argon2 (id, i, d)      ``$argon2id$v=19$m=,t=,p=$salt$digest``     ``argon2$argon2id$...``
bcrypt                 ``$2b$12$...`` (2a, 2b, 2y)                 ``bcrypt$$2b$12$...``
bcrypt over SHA-256    ``bcrypt_sha256$$2b$12$...``,
                       ``$bcrypt-sha256$v=2,t=2b,r=12$...``
scrypt                 ``$scrypt$ln=,r=,p=$salt$digest``           ``scrypt$N$salt$r$p$digest``
PBKDF2                 ``$pbkdf2-sha256$rounds$salt$digest``,      ``$pbkdf2-sha256$i=...$...``,
                       ``$pbkdf2-sha512$...``                      ``pbkdf2_sha256$...``
=====================  ==========================================  =============================

The right-hand forms with ``_`` or without a leading ``$`` are Django's, ``i=`` is the PHC string
format's.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from keyosk import errors

LONGEST: Final = 1_000
"""The longest hash that is taken, in characters. The longest of the known forms have 300."""

MAX_MEMORY_KIB: Final = 256 * 1024
"""The memory that checking an adopted hash may take. Several are checked at once."""

MAX_LANES: Final = 64

# What the schemes cost, as the KiB that argon2id writes in the same time of one core; measured on
# one machine (stdlib OpenSSL 3, bcrypt 5, argon2-cffi 25.1), elsewhere right within a factor of 2.
_BCRYPT: Final = 100  # for each of its 2**cost rounds
_SCRYPT: Final = 4  # for each KiB that it fills
_PBKDF2: Final[Mapping[str, float]] = {"256": 0.66, "512": 1.5}  # for each round

_DIGEST_SIZE: Final[Mapping[str, int]] = {"256": 32, "512": 64}
_SCRYPT_DIGEST: Final = 32
_SALT_SIZE: Final = range(1, 257)
_BCRYPT64: Final = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

_ARGON2: Final = re.compile(
    r"\$argon2(?:id|i|d)\$(?:v=[0-9]{2}\$)?m=([0-9]{1,10}),t=([0-9]{1,10}),p=([0-9]{1,3})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)",
    re.ASCII,
)
_BCRYPT_SALT: Final = r"[./A-Za-z0-9]{21}[.Oeu]"
_BCRYPT_DIGEST: Final = r"[./A-Za-z0-9]{30}[.CGKOSWaeimquy26]"
_BCRYPTS: Final = re.compile(
    rf"(?:(?:bcrypt_sha256\$)?\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\${_BCRYPT_SALT}{_BCRYPT_DIGEST})"
    r"|(?:\$bcrypt-sha256\$(?:v=2,t=2b,r=|2[ab],)([4-9]|[12][0-9]|3[01])"
    rf"\${_BCRYPT_SALT}\${_BCRYPT_DIGEST})",
    re.ASCII,
)
_ANY_BCRYPT: Final = re.compile(
    r"((?:bcrypt_sha256\$)?\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{21})"
    r"([./A-Za-z0-9])([./A-Za-z0-9]{30})([./A-Za-z0-9])",
    re.ASCII,
)
_SCRYPTS: Final = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]{0,4}),p=([1-9][0-9]{0,4})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)",
    re.ASCII,
)
_DJANGO_SCRYPT: Final = re.compile(
    r"scrypt\$([1-9][0-9]{0,9})\$([^$]+)\$([1-9][0-9]{0,4})\$([1-9][0-9]{0,4})"
    r"\$([A-Za-z0-9+/]+)=*",
    re.ASCII,
)
_PBKDF2S: Final = re.compile(
    r"\$pbkdf2-sha(256|512)\$(?:i=)?([1-9][0-9]{0,9})(?:,l=[0-9]{1,3})?"
    r"\$([A-Za-z0-9+/.]+)\$([A-Za-z0-9+/.]+)",
    re.ASCII,
)
_DJANGO_PBKDF2: Final = re.compile(
    r"pbkdf2_sha256\$([1-9][0-9]{0,9})\$([^$]+)\$([A-Za-z0-9+/]+)=*", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What checking a password against a hash takes.

    ``work``: the KiB that argon2id writes in the same time (exact for argon2 itself); ``memory``:
    the KiB held meanwhile; ``lanes``: the threads.
    """

    work: int
    memory: int = 0
    lanes: int = 1


def cost_of(stored: str) -> Cost | None:
    """What checking a stored hash costs; ``None`` for what has no known form."""
    for pattern, read in _COSTS:
        found = pattern.fullmatch(stored)
        if found is not None:
            return read(found)
    return None


def adopt(text: str, *, most_work: int) -> str:
    """The form in which a hash from elsewhere is stored.

    ``most_work``: KiB, as in ``Cost``. Raises ``Invalid`` for the field ``password_hash``, which
    never tells the hash: if no scheme knows its form, if its parts do not fit together, or if
    checking it would take more work or memory than is allowed.
    """
    if text.startswith("!"):
        raise _invalid("stands for no password at all: leave the field out")
    stored = None if len(text) > LONGEST else _canonical(text)
    cost = None if stored is None else cost_of(stored)
    if stored is None or cost is None:
        raise _invalid("is not a hash that is known here, or is damaged")
    # SECURITY: whoever may import could else make every login with this name, right or wrong,
    # keep a core and much memory for hours.
    if cost.work > most_work:
        raise _invalid("asks for more work than is allowed: about 2 seconds for each login")
    if cost.memory > MAX_MEMORY_KIB or cost.lanes > MAX_LANES:
        raise _invalid(f"asks for more than {MAX_MEMORY_KIB // 1024} MiB or {MAX_LANES} threads")
    return stored


def _canonical(text: str) -> str | None:
    """One of the stored forms; ``None`` for what cannot be one."""
    if text.startswith(("argon2$", "bcrypt$")):
        text = text.removeprefix("argon2").removeprefix("bcrypt$")
    for pattern, write in _FORMS:
        found = pattern.fullmatch(text)
        if found is not None:
            try:
                return write(found)
            except (binascii.Error, ValueError):
                return None
    return None


def _argon2(found: re.Match[str]) -> str:
    memory, passes, lanes = map(int, found.groups()[:3])
    version = found[0].split("$")[2]
    if version.startswith("v=") and version not in ("v=16", "v=19"):
        raise ValueError
    if not (passes and lanes and memory >= 8 * lanes):
        raise ValueError
    _salt(_decoded(found[4]), shortest=8)
    if len(_decoded(found[5])) < 12:
        raise ValueError
    return found[0]


def _bcrypt(found: re.Match[str]) -> str:
    """Of the last characters some bits mean nothing; old programs left them as chance had it."""
    head, salt_end, digest, digest_end = found.groups()
    return f"{head}{_cleared(salt_end, 4)}{digest}{_cleared(digest_end, 2)}"


def _scrypt(found: re.Match[str]) -> str:
    rounds, block, lanes, salt, digest = found.groups()
    return _written_scrypt(int(rounds), block, lanes, _decoded(salt), _decoded(digest))


def _django_scrypt(found: re.Match[str]) -> str:
    number, salt, block, lanes, digest = found.groups()
    rounds = int(number).bit_length() - 1
    if int(number) != 1 << rounds:
        raise ValueError
    return _written_scrypt(rounds, block, lanes, salt.encode(), _decoded(digest))


def _written_scrypt(rounds: int, block: str, lanes: str, salt: bytes, digest: bytes) -> str:
    if not 1 <= rounds < min(32, 16 * int(block)) or int(block) * int(lanes) >= 2**30:
        raise ValueError  # RFC 7914 section 2
    # A longer digest begins with the shorter one (RFC 7914 section 6: its last step is PBKDF2).
    digest = _cut(digest, _SCRYPT_DIGEST)
    return f"$scrypt$ln={rounds},r={block},p={lanes}${_encoded(_salt(salt))}${_encoded(digest)}"


def _pbkdf2(found: re.Match[str]) -> str:
    size, rounds, salt, digest = found.groups()
    plus = str.maketrans(".", "+")  # passlib's alphabet has a dot there
    return _written_pbkdf2(
        size, rounds, _decoded(salt.translate(plus)), _decoded(digest.translate(plus))
    )


def _django_pbkdf2(found: re.Match[str]) -> str:
    rounds, salt, digest = found.groups()
    return _written_pbkdf2("256", rounds, salt.encode(), _decoded(digest))


def _written_pbkdf2(size: str, rounds: str, salt: bytes, digest: bytes) -> str:
    digest = _cut(digest, _DIGEST_SIZE[size])
    text = f"$pbkdf2-sha{size}${rounds}${_encoded(_salt(salt))}${_encoded(digest)}"
    return text.replace("+", ".")


_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (_ARGON2, _argon2),
    (_ANY_BCRYPT, _bcrypt),
    (_BCRYPTS, lambda found: found[0]),
    (_SCRYPTS, _scrypt),
    (_DJANGO_SCRYPT, _django_scrypt),
    (_PBKDF2S, _pbkdf2),
    (_DJANGO_PBKDF2, _django_pbkdf2),
)


def _argon2_cost(found: re.Match[str]) -> Cost:
    memory, passes, lanes = map(int, found.groups()[:3])
    return Cost(memory * passes, memory, lanes)


def _bcrypt_cost(found: re.Match[str]) -> Cost:
    return Cost(_BCRYPT << int(found[1] or found[2]))


def _scrypt_cost(found: re.Match[str]) -> Cost:
    rounds, block, lanes = map(int, found.groups()[:3])
    memory = (block << rounds) // 8  # 128 bytes for each of N * r
    return Cost(_SCRYPT * memory * lanes, memory + block * lanes // 8)


def _pbkdf2_cost(found: re.Match[str]) -> Cost:
    return Cost(int(int(found[2]) * _PBKDF2[found[1]]))


_COSTS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Cost]], ...]] = (
    (_ARGON2, _argon2_cost),
    (_BCRYPTS, _bcrypt_cost),
    (_SCRYPTS, _scrypt_cost),
    (_PBKDF2S, _pbkdf2_cost),
)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def _salt(salt: bytes, *, shortest: int = 1) -> bytes:
    if len(salt) not in _SALT_SIZE or len(salt) < shortest:
        raise ValueError
    return salt


def _cut(digest: bytes, size: int) -> bytes:
    if len(digest) < size:
        raise ValueError
    return digest[:size]


def _cleared(character: str, bits: int) -> str:
    return _BCRYPT64[_BCRYPT64.index(character) >> bits << bits]


def _invalid(message: str) -> errors.Invalid:
    return errors.Invalid.field("password_hash", message)
