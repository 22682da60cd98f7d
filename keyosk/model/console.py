"""Console sessions: logins of people that go on by a cookie."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginNotice:
    """What a person is told when they log in, so that they notice a login that was not theirs.

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
        agent: What the browser calls itself, shortened.
        seen_at: When it was last used, to within a minute.
        confirmed_at: When its password was last shown.
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
