"""Hashing and verifying passwords. ``password_policy`` decides which passwords are allowed.

The only user of passlib. Knows no account, database or clock.
"""

import base64
import hmac
import secrets
import threading
import unicodedata
from functools import cache
from typing import Any, ClassVar

from keyosk import errors
from keyosk.credentials import argon2id, imported_hashes, stored_hashes
from keyosk.credentials.concurrency import HashingLimit, for_hashes

MAX_LENGTH = 1024
"""The length of the longest password, in code points after NFC."""

# NFC composes at most four code points into one, so a longer text is too long.
_MAX_RAW_LENGTH = 4 * MAX_LENGTH


def prepare(password: str) -> bytes:
    """Return the bytes to hash for a password: NFC, then UTF-8 (SP 800-63B-4 section 3.1.1.2).

    Nothing is truncated, trimmed or mapped in any other way. At most 4,096 bytes.

    Raises:
        errors.Invalid: For the field ``password``, if it is empty, longer than 1,024 code points or
            contains a lone surrogate, which UTF-8 cannot encode.
    """
    if not password:
        raise _invalid("must not be empty")
    if len(password) > _MAX_RAW_LENGTH:
        raise _invalid(f"must have at most {MAX_LENGTH:,} characters")
    composed = unicodedata.normalize("NFC", password)
    if len(composed) > MAX_LENGTH:
        raise _invalid(f"must have at most {MAX_LENGTH:,} characters")
    try:
        return composed.encode()
    except UnicodeEncodeError:
        pass
    # SECURITY: outside the handler, because a UnicodeEncodeError holds the password.
    raise _invalid("must be valid Unicode, without lone surrogates")


def generate() -> str:
    """Generate a password that people can read and type: 148 bits, 6 groups of 5 characters.

    Small letters and digits without similar ones (0 o, 1 l i), joined by ``-``. It contains no
    account's name and no listed word, so it passes ``password_policy.check_new`` for every account.
    """
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(6))


# ---- Hashing and verifying ---------------------------------------------------------------------

_OUT_OF_MEMORY = "Memory allocation error"  # argon2's message, through passlib
_OURS = "$argon2id$v=19$"
_SALT_BYTES, _DIGEST_BYTES = 16, 32
# The schemes of imported hashes.
_SCHEMES = (
    "argon2",
    "bcrypt",
    "bcrypt_sha256",
    "django_bcrypt_sha256",
    "scrypt",
    "pbkdf2_sha256",
    "pbkdf2_sha512",
    "pbkdf2_sha1",
    "sha512_crypt",
    "sha256_crypt",
    "ldap_salted_sha1",
    "ldap_salted_sha256",
    "ldap_salted_sha512",
)
_BCRYPT_LENGTH = 72  # bytes
_CRYPTS = ("$5$", "$6$")


class Passwords:
    """Hashes passwords with argon2id (RFC 9106) and verifies them.

    ``memory_kib`` (KiB), ``time_cost`` (passes) and ``parallelism`` (lanes) may be raised but not
    lowered. ``slots`` limits how many hashes run at once. Objects are immutable and may be shared
    by threads.

    Raises:
        ValueError: A parameter is below its minimum, or all together are above the maximum (2 GiB
            written by one hash, about 2 s of one core; 64 lanes).
    """

    MIN_MEMORY_KIB: ClassVar[int] = 19_456
    MIN_TIME_COST: ClassVar[int] = 2
    MIN_PARALLELISM: ClassVar[int] = 1
    MAX_WORK: ClassVar[int] = 2 * 1024 * 1024
    MAX_PARALLELISM: ClassVar[int] = 64

    def __init__(
        self,
        *,
        memory_kib: int = 19_456,
        time_cost: int = 2,
        parallelism: int = 1,
        hashing_limit: HashingLimit | None = None,
    ) -> None:
        for name, value, minimum in (
            ("memory_kib", memory_kib, self.MIN_MEMORY_KIB),
            ("time_cost", time_cost, self.MIN_TIME_COST),
            ("parallelism", parallelism, self.MIN_PARALLELISM),
        ):
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}")
        if memory_kib * time_cost > self.MAX_WORK or parallelism > self.MAX_PARALLELISM:
            raise ValueError("memory_kib, time_cost and parallelism together ask for too much work")
        self.hashing_limit = hashing_limit or HashingLimit(for_hashes(memory_kib))
        self._memory_kib = memory_kib
        self._parallelism = parallelism
        self._work = memory_kib * time_cost
        self._live = _header(memory_kib, time_cost, parallelism)

    def hash(self, password: str) -> str:
        """Return the hash to store, a PHC string with its own random salt (16 bytes).

        Does not judge the password: see ``password_policy.check_new``.

        Raises:
            errors.Invalid: The password cannot be prepared, see ``prepare``.
            errors.Unavailable: The machine lacks memory for the work, or no slot became free.
        """
        secret = prepare(password)
        with self.hashing_limit.hold():
            return self._hash(secret, self._work)

    def adopt(self, text: str) -> str:
        """Return the form in which a hash from another program is stored.

        ``verify`` accepts it and returns its replacement at the first login. Raises
        ``errors.Invalid`` for the field ``password_hash``, see ``imported_hashes.adopt``.
        """
        stored = imported_hashes.adopt(text, most_work=self.MAX_WORK)
        context = _context()
        try:
            context.handler(context.identify(stored)).from_string(stored)
        except (ValueError, TypeError, KeyError, AssertionError):
            pass
        else:
            return stored
        # SECURITY: outside the handler, because passlib's errors hold the hash.
        raise errors.Invalid.field("password_hash", "is damaged")

    def verify(self, password: str, stored: str | None) -> str | None:
        """Verify a password against a stored hash; ``stored`` is ``None`` if there is none.

        Returns the hash to store instead if the stored one does not have the current parameters,
        else ``None``. A failure costs the work of one current hash, whatever the reason: no
        account, no password, a password that is wrong, empty, too long or not Unicode, a hash that
        is malformed or demands absurd work. After a mismatch with a hash with lower parameters, the
        difference is computed too, so that an old account cannot be distinguished from an unknown
        one; the CPU work is equal by count of memory written, and the time to within about a fifth.
        For a hash of another scheme the difference is an estimate (``stored_hashes``), correct
        within a factor of 2. A hash that costs more than a current one takes longer: until its
        first login, this reveals that an account was imported with such a hash.

        Raises:
            errors.BadCredentials: The password does not match.
            errors.Unavailable: The machine lacks memory for the work, or no slot became free.
        """
        with self.hashing_limit.hold():
            return self._verified(password, stored)

    def _verified(self, password: str, stored: str | None) -> str | None:
        secret = self._secret_to_try(password)
        work = None if stored is None else self._work_of(stored)
        if secret is None or stored is None or work is None:
            # SECURITY: a hash made and thrown away is the dummy. It cannot fall behind the live
            # parameters, as a stored dummy hash can.
            self._hash(secret or b"", self._work)
            raise errors.BadCredentials
        if not self._matches(secret, stored):
            if work < self._work:
                self._hash(secret, self._work - work)
            raise errors.BadCredentials
        return None if stored.startswith(self._live) else self._hash(secret, self._work)

    @staticmethod
    def _secret_to_try(password: str) -> bytes | None:
        try:
            return prepare(password)
        except errors.Invalid:
            return None

    def _work_of(self, stored: str) -> int | None:
        """Return the cost of verifying a hash in KiB written; ``None`` if it must not be tried."""
        cost = stored_hashes.cost_of(stored)
        if cost is None or cost.work > self.MAX_WORK or cost.lanes > self.MAX_PARALLELISM:
            return None
        return cost.work

    def _matches(self, secret: bytes, stored: str) -> bool:
        out_of_memory = False
        if stored.startswith("$2"):
            # bcrypt uses only these bytes. Its library truncated longer passwords silently, and
            # refuses them since version 5.
            secret = secret[:_BCRYPT_LENGTH]
        if stored.startswith(_CRYPTS) and len(secret) > stored_hashes.LONGEST_FOR_CRYPT:
            # SECURITY: each of its rounds takes the whole password (CVE-2016-20013).
            self._hash(secret, min(self._work, self._work_of(stored) or 0))
            return False
        try:
            if stored.startswith(_OURS):
                return _is_hash_of(secret, stored)
            return bool(_context().verify(secret, stored))
        except MemoryError:
            out_of_memory = True
        except (ValueError, TypeError, NotImplementedError) as error:
            # The format of a scrypt hash was checked, so this can only be a lack of memory.
            out_of_memory = _OUT_OF_MEMORY in str(error) or stored.startswith("$scrypt$")
        # SECURITY: outside the handler, because passlib's errors hold the stored hash. Raised here,
        # because the dummy hash below may find memory again, and a right password must not be
        # called wrong.
        if out_of_memory:
            raise _no_memory()
        # It is malformed, which was found before any work.
        self._hash(secret, min(self._work, self._work_of(stored) or 0))
        return False

    def _hash(self, secret: bytes, work: int) -> str:
        """Hash with the current parameters, or with less memory and fewer passes for less work."""
        # As much memory as the live hash, never more: the time of a hash depends on its memory
        # pages as well as with its passes, and callers bound memory by the live parameters.
        passes = max(round(work / self._memory_kib), 1)
        memory_kib = max(min(work // passes, self._memory_kib), 8 * self._parallelism)
        salt = secrets.token_bytes(_SALT_BYTES)
        try:
            digest = argon2id.derive(
                secret,
                salt,
                memory_kib=memory_kib,
                passes=passes,
                lanes=self._parallelism,
                length=_DIGEST_BYTES,
            )
        except (MemoryError, ValueError):
            pass
        else:
            header = _header(memory_kib, passes, self._parallelism)
            return f"{header}{_encoded(salt)}${_encoded(digest)}"
        # The parameters were checked, so only memory or threads can have been missing.
        raise _no_memory()


_loading = threading.Lock()


def _context() -> Any:
    """Return passlib's context for hashes from elsewhere.

    It is created for the first such hash: most installations have none, and creating it takes as
    long as several hashes.
    """
    # Without the lock, two first threads would disturb each other, and one would fail.
    with _loading:
        return _loaded_context()


@cache
def _loaded_context() -> Any:
    from passlib.context import CryptContext  # noqa: PLC0415 - as above

    context = CryptContext(schemes=list(_SCHEMES))
    for scheme in ("argon2", "bcrypt"):
        context.handler(scheme).set_backend()
    return context


def _header(memory_kib: int, passes: int, lanes: int) -> str:
    return f"{_OURS}m={memory_kib},t={passes},p={lanes}$"


def _is_hash_of(secret: bytes, stored: str) -> bool:
    """Verify a password. Raises ``ValueError`` if ``stored`` is malformed, ``MemoryError``."""
    match = stored_hashes.ARGON2.fullmatch(stored)
    if match is None:
        raise ValueError("not an argon2id hash")
    digest = _decoded(match[5])
    computed = argon2id.derive(
        secret,
        _decoded(match[4]),
        memory_kib=int(match[1]),
        passes=int(match[2]),
        lanes=int(match[3]),
        length=len(digest),
    )
    return hmac.compare_digest(computed, digest)


def _encoded(data: bytes) -> str:
    """Return base64 without padding, as in the PHC string format."""
    return base64.b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    if _encoded(data) != text:
        raise ValueError("not canonical Base64")
    return data


def _no_memory() -> errors.Unavailable:
    return errors.Unavailable("There is not enough memory to verify a password now.")


def _invalid(message: str) -> errors.Invalid:
    return errors.Invalid.field("password", message)
