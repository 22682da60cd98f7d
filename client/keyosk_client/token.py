"""A verified token as a value."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from keyosk_client.errors import InsufficientScope

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3


@dataclass(frozen=True, slots=True)
class Token:
    """An access token (RFC 9068) that was verified.

    Attributes:
        subject: The id of the account (``sub``). A username may change, this does not.
        scopes: What the token allows (RFC 6749 section 3.3).
        claims: All claims.
        text: The token itself, for a token exchange.
    """

    subject: str
    scopes: frozenset[str]
    claims: Mapping[str, Any] = field(repr=False)
    text: str = field(repr=False)

    @property
    def username(self) -> str | None:
        """The account's name when the token was issued (``preferred_username``)."""
        name = self.claims.get("preferred_username")
        return name if isinstance(name, str) else None

    @property
    def act(self) -> Mapping[str, Any] | None:
        """Who acts for the account, if somebody does (``act``, RFC 8693 section 4.1)."""
        actor = self.claims.get("act")
        return actor if isinstance(actor, dict) else None

    @property
    def expires_at(self) -> int:
        """When the token expires, in seconds since 1970 (``exp``)."""
        expires: int = self.claims["exp"]
        return expires

    def require(self, *scopes: str) -> None:
        """Raise ``InsufficientScope`` unless the token has all of these scopes.

        Scopes are compared as whole words: ``todo:write`` is not in ``todo:writer``.
        """
        if not self.scopes.issuperset(scopes):
            raise InsufficientScope(" ".join(scopes))


def check_scopes(scopes: Iterable[object]) -> None:
    """Raise an error for what no token can have, where a view is protected, not where it is called.

    Raises ``TypeError``, also for ``@keyosk.require`` without parentheses, and ``ValueError``.
    """
    for scope in scopes:
        if not isinstance(scope, str):
            kind = type(scope).__name__
            raise TypeError(f"require() takes scopes, such as require('todo:read'), not a {kind}")
        if not _SCOPE.fullmatch(scope):
            raise ValueError(
                f"{scope!r} is not one scope: write require('todo:read', 'todo:write')"
            )
