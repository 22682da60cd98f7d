"""Values of the model in which only what a test is about has to be said."""

from dataclasses import replace
from typing import Any

from keyosk.model import CredentialKind, Entitlement, Principal, TokenPolicy


def policy(name: str, **changes: Any) -> TokenPolicy:
    """What a service says of its tokens; its audience is its name."""
    default = TokenPolicy(
        name=name,
        audience=name,
        enabled=True,
        on_request_only=False,
        accepts=frozenset(CredentialKind),
        token_lifetime=None,
        signing_algorithm=None,
        typ=None,
        refresh_allowed=False,
        refresh_lifetime=None,
        claims=(),
    )
    return replace(default, **changes)


def principal(*entitlements: Entitlement, **changes: Any) -> Principal:
    """Alice, logged in by password."""
    default = Principal(
        account_id="an id",
        username="alice",
        claims="{}",
        credential=CredentialKind.PASSWORD,
        enabled=True,
        expires_at=None,
        authenticated_at=0,
        last_seen_at=None,
        credential_id=None,
        limit=None,
        networks=None,
        successor=None,
        tokens_from=0,
        entitlements=entitlements,
    )
    return replace(default, **changes)
