"""Errors of the domain.

An error has a stable ``code`` for programs and a sentence for people. It has no HTTP status and no
exit code: ``web/errors.py`` and ``cli`` each have one table for that. No sentence contains a secret
or a value that only the database has. The first line of each docstring is in ``/openapi.json``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MOST_NAMED = 5


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in "1 account" and "2 accounts"."""
    return f"{number} {noun if number == 1 else noun + 's'}"


def listed(names: Sequence[str]) -> str:
    """Return some names for a sentence; of many, the first ones and the number of the rest."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault in one field of an input."""

    field: str
    message: str


class KeyoskError(Exception):
    """The base class of all errors that Keyosk raises on purpose."""

    code = "error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def explanation(self) -> str:
        """The sentence for operators, in terminals and logs; never part of a response."""
        return self.detail


class Invalid(KeyoskError):
    """The input breaks a rule; each fault names its field."""

    code = "invalid"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.field}: {fault.message}" for fault in self.faults))

    @classmethod
    def field(cls, name: str, message: str) -> "Invalid":
        """Return an error about one field."""
        return cls([Fault(name, message)])


class NotFound(KeyoskError):
    """The object does not exist, or the caller may not see it."""

    code = "not_found"


class Conflict(KeyoskError):
    """The change conflicts with another object, or with the state of this one."""

    code = "conflict"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class Stale(KeyoskError):
    """The object has changed since the caller read it (RFC 9110 section 13.1.1)."""

    code = "stale"

    @classmethod
    def version(cls, noun: str) -> "Stale":
        """Return the error for a change of another version than the object has."""
        return cls(
            f"The {noun} has another version than the precondition names. Read it again, and send "
            "its ETag, with the quotation marks."
        )


class Forbidden(KeyoskError):
    """The caller is not allowed to do this."""

    code = "forbidden"


class RefusedByRule(Forbidden):
    """The caller has the scope, but a rule against privilege escalation forbids this."""

    code = "refused_by_rule"


class ProofRequired(Forbidden):
    """The request must prove the password of the caller's own account."""

    code = "proof_required"

    def __init__(self) -> None:
        super().__init__(
            "To change your own credentials, prove your password in the same request: by HTTP "
            "Basic, or by current_password in the body. A token is not enough."
        )


class InUse(KeyoskError):
    """The change would remove grants; ``force`` makes it anyway.

    Attributes:
        named: The same sentence with the names of accounts and roles, for callers who may see them.
    """

    code = "in_use"

    def __init__(
        self, names: Sequence[str], *, accounts: Sequence[str] = (), roles: Sequence[str] = ()
    ) -> None:
        subject = f"{listed(names)} {'is' if len(names) == 1 else 'are'} still"
        uses = (("granted to", "account", accounts), ("part of", "role", roles))
        plain = [f"{verb} {counted(len(all_), noun)}" for verb, noun, all_ in uses if all_]
        named = [
            f"{verb} {counted(len(all_), noun)} ({listed(all_)})"
            for verb, noun, all_ in uses
            if all_
        ]
        super().__init__(f"{subject} {' and '.join(plain)}.")
        self.named = f"{subject} {' and '.join(named)}."


class InsufficientScope(Forbidden):
    """The caller lacks the required scope (RFC 6750 section 3.1)."""

    code = "insufficient_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This requires the scope {scope}.")
        self.scope = scope


class BadCredentials(KeyoskError):
    """The login is refused; the sentence never says which part of it is wrong.

    Another sentence may only say what everybody who sees the request can see, such as its format.
    """

    code = "bad_credentials"

    def __init__(self, detail: str = "The username, password or API key is not valid.") -> None:
        super().__init__(detail)


class BadToken(KeyoskError):
    """The Bearer token is refused (RFC 6750 section 3.1)."""

    code = "invalid_token"


class InvalidRequest(KeyoskError):
    """The request is malformed (RFC 6749 section 5.2)."""

    code = "invalid_request"


class InvalidGrant(KeyoskError):
    """A token in the request is not valid, or belongs to another account (RFC 6749 section 5.2)."""

    code = "invalid_grant"


class UnauthorizedClient(KeyoskError):
    """The caller may not use this grant type (RFC 6749 section 5.2)."""

    code = "unauthorized_client"


class UnsupportedGrantType(KeyoskError):
    """The grant type is not supported (RFC 6749 section 5.2)."""

    code = "unsupported_grant_type"


class UnsupportedResponseType(KeyoskError):
    """Authorization requests are not supported (RFC 6749 section 4.1.2.1)."""

    code = "unsupported_response_type"


class InvalidScope(KeyoskError):
    """A scope is malformed, unknown, or not held by the caller (RFC 6749 section 5.2)."""

    code = "invalid_scope"


class InvalidTarget(KeyoskError):
    """An audience does not exist, is disabled, or does not accept this login (RFC 8707)."""

    code = "invalid_target"


class Throttled(KeyoskError):
    """There were too many wrong passwords; ``retry_after``: the seconds to wait."""

    code = "throttled"

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many wrong passwords: try again later, or use an API key.")
        self.retry_after = retry_after


class Unavailable(KeyoskError):
    """Something that the request needs is temporarily unavailable.

    Attributes:
        reason: The reason as the unavailable system gives it, without secrets. It may name machines
            and files, so only operators see it (``explanation``).
    """

    code = "unavailable"

    def __init__(self, detail: str, *, reason: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason

    @property
    def explanation(self) -> str:
        """The sentence for operators, with the reason."""
        if self.reason is None:
            return self.detail
        return f"{self.detail.removesuffix('.')}: {self.reason.removesuffix('.')}."


class DatabaseUnusable(Unavailable):
    """The database cannot be used, and waiting does not help.

    It is not a database, or it refuses Keyosk: a wrong password, a missing database.
    """


class DatabaseDamaged(DatabaseUnusable):
    """The database reports that part of it cannot be read: a broken page, index or file."""


class ConfigurationError(KeyoskError):
    """The settings cannot be used; ``faults`` lists every problem."""

    code = "configuration"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.field}: {fault.message}" for fault in self.faults))


class DatabaseTooNew(KeyoskError):
    """The database was upgraded by a later version of Keyosk."""

    code = "database_too_new"


class WrongSecretKey(KeyoskError):
    """The private keys in the database were encrypted under another secret key."""

    code = "wrong_secret_key"
