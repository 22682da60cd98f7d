r"""Password hashes of other programs: the supported formats, and how they are stored.

``adopt`` converts each format to the stored format of its scheme, and refuses hashes that are too
weak or too expensive to verify:

=====================  ==========================================  =============================
scheme                 stored as                                   also taken
=====================  ==========================================  =============================
argon2 (id, i, d)      ``$argon2id$v=19$m=,t=,p=$salt$digest``     ``argon2$argon2id$...``
bcrypt                 ``$2b$12$...`` (2a, 2b, 2y)                 ``bcrypt$$2b$12$...``
bcrypt over SHA-256    ``bcrypt_sha256$$2b$12$...``,
                       ``$bcrypt-sha256$v=2,t=2b,r=12$...``
scrypt                 ``$scrypt$ln=,r=,p=$salt$digest``           ``scrypt$N$salt$r$p$digest``
PBKDF2                 ``$pbkdf2-sha256$rounds$salt$digest``,      ``$pbkdf2-sha256$i=...$...``,
                       ``$pbkdf2-sha512$...``,                     ``pbkdf2_sha256$...``,
                       ``$pbkdf2$...`` (SHA-1)                     ``pbkdf2:sha256:...``
crypt's SHA-2          ``$6$rounds=...$salt$digest``, ``$5$...``
salted SHA (LDAP)      ``{SSHA}...``, ``{SSHA256}``, ``{SSHA512}``
=====================  ==========================================  =============================

The formats on the right with ``_`` or without a leading ``$`` are Django's, ``i=`` is that of PHC
strings, and those with ``:`` are Werkzeug's (``scrypt:N:r:p$salt$hex`` too). A scheme's name in
braces, as LDAP servers, Dovecot and Spring Security write it, may stand before any of them; Spring
has a form of its own for scrypt.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Final

from keyosk import errors
from keyosk.credentials import stored_hashes

LONGEST: Final = 1_000
"""The longest hash that is taken, in characters. The longest of the known forms have 300."""

MAX_MEMORY_KIB: Final = 256 * 1024
"""The memory that verifying an adopted hash may take. Several are verified at once."""

MAX_LANES: Final = 64

_DIGEST_SIZE: Final[Mapping[str, int]] = {"1": 20, "256": 32, "512": 64}
_SCRYPT_DIGEST: Final = 32
_SALT_SIZE: Final = range(1, 257)
_LDAP_SALT_SIZE: Final = range(4, 17)  # of the library
_BCRYPT64: Final = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

_ANY_BCRYPT: Final = re.compile(
    r"((?:bcrypt_sha256\$)?\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{21})"
    r"([./A-Za-z0-9])([./A-Za-z0-9]{30})([./A-Za-z0-9])",
    re.ASCII,
)
_DJANGO_SCRYPT: Final = re.compile(
    r"scrypt\$([1-9][0-9]{0,9})\$([^$]+)\$([1-9][0-9]{0,4})\$([1-9][0-9]{0,4})"
    r"\$([A-Za-z0-9+/]+)=*",
    re.ASCII,
)
_DJANGO_PBKDF2: Final = re.compile(
    r"pbkdf2_sha(1|256)\$([1-9][0-9]{0,9})\$([^$]+)\$([A-Za-z0-9+/]+)=*", re.ASCII
)
_WERKZEUG_PBKDF2: Final = re.compile(
    r"pbkdf2:sha(1|256|512):([1-9][0-9]{0,9})\$([^$]+)\$([0-9a-fA-F]+)", re.ASCII
)
_WERKZEUG_SCRYPT: Final = re.compile(
    r"scrypt:([1-9][0-9]{0,9}):([1-9][0-9]{0,4}):([1-9][0-9]{0,4})\$([^$]+)\$([0-9a-fA-F]+)",
    re.ASCII,
)
_DOVECOT_PBKDF2: Final = re.compile(
    r"\{PBKDF2\}\$1\$([^$]+)\$([1-9][0-9]{0,9})\$([0-9a-f]{40})", re.ASCII
)
# Its parameters are one hexadecimal number: log2(N), then r and p with two digits each.
_SPRING_SCRYPT: Final = re.compile(
    r"\$([0-9a-f]{1,2})([0-9a-f]{2})([0-9a-f]{2})\$([A-Za-z0-9+/]+)=*\$([A-Za-z0-9+/]+)=*", re.ASCII
)
_SCHEME: Final = re.compile(r"\{([A-Za-z0-9@._-]{1,40})\}", re.ASCII)
#: Names in braces that add nothing, because the hash after them identifies itself.
_NAMES: Final = frozenset(
    (
        *("CRYPT", "BCRYPT", "BLF-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT"),
        *("ARGON2", "ARGON2I", "ARGON2ID", "SCRYPT"),
    )
)
#: OpenLDAP's and 389 Directory Server's, whose hashes begin with the rounds.
_PBKDF2_NAMES: Final[Mapping[str, str]] = {
    "PBKDF2": "$pbkdf2$",
    **{f"PBKDF2-SHA{size}": f"$pbkdf2-sha{size}$" for size in _DIGEST_SIZE},
}
#: Refused formats, and why. Programs with these have a better one as well.
_REASONS: Final = (
    (
        r"\{(?:CLEAR|CLEARTEXT|PLAIN|noop)\}.*",
        "is a password, not a hash: send it as password",
    ),
    (
        r"\{(?:SHA|SHA256|SHA512|MD5|LDAP-MD5|PLAIN-MD5)\}.*"
        r"|(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{128})|unsalted_.*"
        r"|(?:md5|sha1)\$\$.*",
        "is a hash without a salt, which can be looked up in public tables",
    ),
    (
        r"\{SMD5\}.*|(?:\{(?:CRYPT|MD5-CRYPT)\})?\$(?:1|apr1|md5)[$,].*|\$[PH]\$.*|md5\$.*",
        "uses MD5, which is too weak to import",
    ),
    (
        r"\{CRYPT\}[./A-Za-z0-9]{13}|[./A-Za-z0-9]{13}|_[./A-Za-z0-9]{19}",
        "looks like crypt's DES, which is too weak to import",
    ),
    (
        r"(?:sha1|sha256|sha512)\$.*|\$sha1\$.*",
        "is one round of SHA or crypt's SHA-1, which is too weak to import",
    ),
    (
        r"(?:\{CRYPT\})?\$(?:y|gy|7)\$.*",
        "is yescrypt, which no maintained library can verify",
    ),
)


def adopt(text: str, *, most_work: int) -> str:
    """Return the form in which a hash from another program is stored.

    Args:
        text: The hash as the other program wrote it.
        most_work: The largest work of one verification in KiB, as in ``Cost``.

    Raises:
        Invalid: For the field ``password_hash``, without the hash itself: the format is unknown,
            its parts do not fit together, or verifying it would take too much work or memory.
    """
    if text.startswith("!"):
        raise _invalid("means an account without a password: omit the field")
    stored = None if len(text) > LONGEST else _canonical(text)
    cost = None if stored is None else stored_hashes.cost_of(stored)
    if stored is None or cost is None:
        raise _invalid(_why_not(text))
    # SECURITY: otherwise a caller who may import could make each login to this account, right or
    # wrong, occupy a core and much memory for hours.
    if max(cost.work, cost.worst) > most_work:
        raise _invalid("requires more work than is allowed: about 2 seconds for each login")
    if cost.memory > MAX_MEMORY_KIB or cost.lanes > MAX_LANES:
        raise _invalid(f"requires more than {MAX_MEMORY_KIB // 1024} MiB or {MAX_LANES} threads")
    return stored


def _why_not(text: str) -> str:
    if len(text) <= LONGEST:
        for pattern, reason in _REASONS:
            if re.fullmatch(pattern, text, re.ASCII | re.IGNORECASE | re.DOTALL):
                return reason
    return "is not a supported hash, or is damaged"


def _without_name(text: str) -> str:
    """Remove the name of the scheme in braces, if the rest of the hash identifies it as well."""
    named = _SCHEME.match(text)
    if named is None:
        return text
    name, rest = named[1].partition("@")[0].upper(), text[named.end() :]
    if name in _PBKDF2_NAMES and not rest.startswith("$"):
        return _PBKDF2_NAMES[name] + rest
    return rest if name in _NAMES else f"{{{name}}}{rest}"


def _canonical(text: str) -> str | None:
    """Return one of the stored forms; ``None`` if the hash cannot be one."""
    text = _without_name(text)
    if text.startswith(("argon2$", "bcrypt$")):
        text = text.removeprefix("argon2").removeprefix("bcrypt$")
    for pattern, write in _FORMS:
        match = pattern.fullmatch(text)
        if match is not None:
            try:
                return write(match)
            except (binascii.Error, ValueError):
                return None
    return None


def _argon2(match: re.Match[str]) -> str:
    memory, passes, lanes = map(int, match.groups()[:3])
    version = match[0].split("$")[2]
    if version.startswith("v=") and version not in ("v=16", "v=19"):
        raise ValueError
    if not (passes and lanes and memory >= 8 * lanes):
        raise ValueError
    _salt(_decoded(match[4]), shortest=8)
    if len(_decoded(match[5])) < 12:
        raise ValueError
    return match[0]


def _bcrypt(match: re.Match[str]) -> str:
    """Clear the unused bits of the last characters, which old programs left random."""
    head, salt_end, digest, digest_end = match.groups()
    return f"{head}{_cleared(salt_end, 4)}{digest}{_cleared(digest_end, 2)}"


def _scrypt(match: re.Match[str]) -> str:
    rounds, block, lanes, salt, digest = match.groups()
    return _written_scrypt(int(rounds), block, lanes, salt=_decoded(salt), digest=_decoded(digest))


def _django_scrypt(match: re.Match[str]) -> str:
    number, salt, block, lanes, digest = match.groups()
    rounds = int(number).bit_length() - 1
    if int(number) != 1 << rounds:
        raise ValueError
    return _written_scrypt(rounds, block, lanes, salt=salt.encode(), digest=_decoded(digest))


def _werkzeug_scrypt(match: re.Match[str]) -> str:
    number, block, lanes, salt, digest = match.groups()
    rounds = int(number).bit_length() - 1
    if int(number) != 1 << rounds:
        raise ValueError
    return _written_scrypt(rounds, block, lanes, salt=salt.encode(), digest=bytes.fromhex(digest))


def _spring_scrypt(match: re.Match[str]) -> str:
    rounds, block, lanes = (int(group, 16) for group in match.groups()[:3])
    if not (block and lanes):
        raise ValueError
    salt, digest = _decoded(match[4]), _decoded(match[5])
    return _written_scrypt(rounds, str(block), str(lanes), salt=salt, digest=digest)


def _written_scrypt(rounds: int, block: str, lanes: str, *, salt: bytes, digest: bytes) -> str:
    if not 1 <= rounds < min(32, 16 * int(block)) or int(block) * int(lanes) >= 2**30:
        raise ValueError  # RFC 7914 section 2
    # A longer digest begins with the shorter one (RFC 7914 section 6: its last step is PBKDF2).
    digest = _cut(digest, _SCRYPT_DIGEST)
    return f"$scrypt$ln={rounds},r={block},p={lanes}${_encoded(_salt(salt))}${_encoded(digest)}"


def _pbkdf2(match: re.Match[str]) -> str:
    size, rounds, salt, digest = match.groups()
    plus = str.maketrans(".", "+")  # passlib's alphabet has a dot there
    return _written_pbkdf2(
        size or "1", rounds, _decoded(salt.translate(plus)), digest=_decoded(digest.translate(plus))
    )


def _django_pbkdf2(match: re.Match[str]) -> str:
    size, rounds, salt, digest = match.groups()
    return _written_pbkdf2(size, rounds, salt.encode(), digest=_decoded(digest))


def _werkzeug_pbkdf2(match: re.Match[str]) -> str:
    size, rounds, salt, digest = match.groups()
    return _written_pbkdf2(size, rounds, salt.encode(), digest=bytes.fromhex(digest))


def _dovecot_pbkdf2(match: re.Match[str]) -> str:
    salt, rounds, digest = match.groups()
    return _written_pbkdf2("1", rounds, salt.encode(), digest=bytes.fromhex(digest))


def _written_pbkdf2(size: str, rounds: str, salt: bytes, *, digest: bytes) -> str:
    digest = _cut(digest, _DIGEST_SIZE[size])
    name = "pbkdf2" if size == "1" else f"pbkdf2-sha{size}"
    text = f"${name}${rounds}${_encoded(_salt(salt))}${_encoded(digest)}"
    return text.replace("+", ".")


def _crypt(match: re.Match[str]) -> str:
    if len(match[3]) != {"5": 43, "6": 86}[match[1]]:
        raise ValueError
    return match[0]


def _salted_sha(match: re.Match[str]) -> str:
    size, text = match.groups()
    data = _decoded(text)
    if len(data) - _DIGEST_SIZE[size or "1"] not in _LDAP_SALT_SIZE:
        raise ValueError
    return f"{{SSHA{size}}}{base64.b64encode(data).decode('ascii')}"


_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (stored_hashes.ARGON2, _argon2),
    (_ANY_BCRYPT, _bcrypt),
    (stored_hashes.BCRYPT, lambda found: found[0]),
    (stored_hashes.SCRYPT, _scrypt),
    (_DJANGO_SCRYPT, _django_scrypt),
    (stored_hashes.PBKDF2, _pbkdf2),
    (_DJANGO_PBKDF2, _django_pbkdf2),
    (_WERKZEUG_PBKDF2, _werkzeug_pbkdf2),
    (_DOVECOT_PBKDF2, _dovecot_pbkdf2),
    (_WERKZEUG_SCRYPT, _werkzeug_scrypt),
    (_SPRING_SCRYPT, _spring_scrypt),
    (stored_hashes.CRYPT, _crypt),
    (stored_hashes.SALTED_SHA, _salted_sha),
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
