"""What can go wrong, in the words of the domain.

An error has a stable ``code`` (for programs) and a sentence (for people). It knows no HTTP
status and no exit code: ``web/errors.py`` and ``cli`` each have one table for that. No sentence
contains a secret or a value that only the database knows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MOST_NAMED = 5


def counted(number: int, noun: str) -> str:
    """A number and its noun, as in "1 account" and "2 accounts"."""
    return f"{number} {noun if number == 1 else noun + 's'}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one field of an input."""

    field: str
    message: str


class KeyoskError(Exception):
    """The root of everything that Keyosk raises on purpose."""

    code = "error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def explanation(self) -> str:
        """The sentence for operators, for terminals and logs; never part of a response."""
        return self.detail


class Invalid(KeyoskError):
    """An input breaks a rule; ``faults`` names each field and the rule."""

    code = "invalid"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.field}: {fault.message}" for fault in self.faults))

    @classmethod
    def field(cls, name: str, message: str) -> "Invalid":
        """An error about one field."""
        return cls([Fault(name, message)])


class NotFound(KeyoskError):
    """The named thing does not exist, or not for this caller."""

    code = "not_found"


class Conflict(KeyoskError):
    """Another object already has this value; ``field`` says which one."""

    code = "conflict"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class Stale(KeyoskError):
    """The object changed since the caller read it (RFC 9110 section 13.1.1)."""

    code = "stale"


class Forbidden(KeyoskError):
    """The caller is known and may not do this."""

    code = "forbidden"


class RefusedByRule(Forbidden):
    """The caller has the scope for this, and a rule against climbing forbids it all the same."""

    code = "refused_by_rule"


class ProofRequired(Forbidden):
    """The request must itself prove the password of the account whose credentials it handles."""

    code = "proof_required"

    def __init__(self) -> None:
        super().__init__(
            "To change your own credentials, prove your password in the same request: by HTTP "
            "Basic, or by current_password in the body. A token is not enough."
        )


class InUse(KeyoskError):
    """Deleting this would take something away; ``force`` does it all the same.

    ``named``: the same sentence with the accounts and roles by name, for who may see them all.
    """

    code = "in_use"

    def __init__(
        self, what: Sequence[str], *, accounts: Sequence[str] = (), roles: Sequence[str] = ()
    ) -> None:
        subject = f"{_listed(what)} {'is' if len(what) == 1 else 'are'} still"
        uses = (("granted to", "account", accounts), ("part of", "role", roles))
        plain = [f"{verb} {counted(len(all_), noun)}" for verb, noun, all_ in uses if all_]
        named = [
            f"{verb} {counted(len(all_), noun)} ({_listed(all_)})"
            for verb, noun, all_ in uses
            if all_
        ]
        super().__init__(f"{subject} {' and '.join(plain)}.")
        self.named = f"{subject} {' and '.join(named)}."


class InsufficientScope(Forbidden):
    """The caller lacks the scope that this needs (RFC 6750 section 3.1)."""

    code = "insufficient_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This requires the scope {scope}.")
        self.scope = scope


class BadCredentials(KeyoskError):
    """The login is refused. The sentence never says which part of it was wrong.

    Another sentence may only tell what anybody sees who sees the request, such as its form.
    """

    code = "bad_credentials"

    def __init__(self, detail: str = "The username, password or API key is not valid.") -> None:
        super().__init__(detail)


class BadToken(KeyoskError):
    """A Bearer token is refused (RFC 6750 section 3.1, ``invalid_token``)."""

    code = "invalid_token"


class InvalidRequest(KeyoskError):
    """A token request is malformed (RFC 6749 section 5.2)."""

    code = "invalid_request"


class InvalidGrant(KeyoskError):
    """A token shown for another one, or to be revoked, is not valid or not the caller's.

    RFC 6749 section 5.2.
    """

    code = "invalid_grant"


class UnauthorizedClient(KeyoskError):
    """The caller may not use this grant type (RFC 6749 section 5.2)."""

    code = "unauthorized_client"


class UnsupportedGrantType(KeyoskError):
    """A token request names a grant type that is not offered (RFC 6749 section 5.2)."""

    code = "unsupported_grant_type"


class UnsupportedResponseType(KeyoskError):
    """An authorization request, whatever it asks for (RFC 6749 section 4.1.2.1)."""

    code = "unsupported_response_type"


class InvalidScope(KeyoskError):
    """A scope is malformed, unknown, or not held by the caller (RFC 6749 section 5.2)."""

    code = "invalid_scope"


class InvalidTarget(KeyoskError):
    """An audience does not exist, is disabled, or does not take this login (RFC 8707 section 2)."""

    code = "invalid_target"


class Throttled(KeyoskError):
    """Too many guesses at passwords; ``retry_after``: seconds until one is allowed again."""

    code = "throttled"

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many wrong passwords: try again later, or use an API key.")
        self.retry_after = retry_after


class Unavailable(KeyoskError):
    """Something that this needs is away for now; trying again later may help.

    ``reason``: why, in the words of whatever is away, without a secret. It may name machines and
    files, so only operators see it (``explanation``).
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
    """There is something where the database should be, and waiting will not make it one.

    The same for a database that refuses Keyosk for good: a wrong password, a missing database.
    """


class DatabaseDamaged(DatabaseUnusable):
    """The database answers that something in it cannot be read: a broken page, index or file."""


class ConfigurationError(KeyoskError):
    """The settings cannot be used; ``faults`` lists every problem found, not only the first."""

    code = "configuration"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.field}: {fault.message}" for fault in self.faults))


class DatabaseTooNew(KeyoskError):
    """The database was upgraded by a later version of Keyosk than this one."""

    code = "database_too_new"


class WrongSecretKey(KeyoskError):
    """The private keys in the database were not encrypted under the given secret key."""

    code = "wrong_secret_key"
