"""What can go wrong, as an integration has to tell it to the caller (RFC 6750 section 3.1)."""


class KeyoskError(Exception):
    """Every error of this library."""


class NoToken(KeyoskError):
    """The request has no Bearer token: 401, without an error code."""


class InvalidToken(KeyoskError):
    """The token is malformed, forged, expired, revoked or not for this service: 401.

    The message says which, for a log. A caller who presents such a token need not know.
    """


class ApiKeySent(InvalidToken):
    """An API key was sent in the place of a token: 401. Its sender may be told, as they know it."""


class InsufficientScope(KeyoskError):
    """The token is good and lacks a scope: 403.

    Attributes:
        scope: The scopes that are required, separated by spaces.
    """

    def __init__(self, scope: str) -> None:
        super().__init__(f"The token lacks a required scope: {scope}")
        self.scope = scope


class Unavailable(KeyoskError):
    """Keyosk cannot be reached, and what is known of it is too old: 503, never 401.

    Attributes:
        retry_after: Seconds after which it is worth trying again.
    """

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class KeysUnavailable(Unavailable):
    """There are no public keys that are recent enough."""


class RevocationsUnavailable(Unavailable):
    """Revocations are required, and the list is not recent enough."""


class TokenUnavailable(Unavailable):
    """Keyosk cannot be reached to get a token, or is too busy."""


class LoginRefused(KeyoskError):
    """Keyosk issues no token for this login.

    Attributes:
        error: The code of RFC 6749 section 5.2, such as ``invalid_client`` or ``invalid_scope``.
        description: The sentence of the response.
    """

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
