"""Console sessions: logins of people that a cookie continues."""

from dataclasses import dataclass, field
from typing import Final

#: Values of RFC 8176: by a password, by a code that works once, by more than one factor.
PASSWORD: Final = "pwd"  # noqa: S105 - the name of a method
ONE_TIME_CODE: Final = "otp"
SEVERAL_FACTORS: Final = "mfa"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginNotice:
    """What a person is shown after a login, so that they notice a login by somebody else.

    Attributes:
        previous_at: When the login before was; ``None`` if it is the first.
        previous_address: Where it came from.
        is_new_address: Whether none of the last logins came from this address.
        password_set_at: When the password was set, if that was after the login before.
    """

    previous_at: int | None = None
    previous_address: str | None = None
    is_new_address: bool = False
    password_set_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleSession:
    """A login to the console by the password ``password_id``; it ends with that password.

    Attributes:
        digest: The SHA-256 hash of the secret in the cookie.
        agent: The ``User-Agent`` of the browser, shortened.
        seen_at: When it was last used, to within a minute.
        confirmed_at: When its owner last confirmed who they are (``accounts.confirmations``).
        amr: How its owner logged in (RFC 8176).
        challenge: The unused challenge for a passkey; ``challenged_at``: its time.
    """

    id: str
    account_id: str
    password_id: str
    digest: bytes = field(repr=False)
    address: str | None
    agent: str
    created_at: int
    seen_at: int
    confirmed_at: int
    expires_at: int
    notice: LoginNotice
    amr: tuple[str, ...]
    challenge: bytes | None = field(default=None, repr=False)
    challenged_at: int | None = None

    @property
    def has_second_factor(self) -> bool:
        """Whether its owner showed a second factor."""
        return SEVERAL_FACTORS in self.amr


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingLogin:
    """A login to the console whose password was right, and whose second factor is missing.

    Attributes:
        digest: The SHA-256 hash of the secret in its cookie.
        challenge: The unused challenge for a passkey.
    """

    digest: bytes = field(repr=False)
    account_id: str
    password_id: str
    created_at: int
    expires_at: int
    challenge: bytes | None = field(default=None, repr=False)
