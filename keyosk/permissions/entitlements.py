"""Which scopes and audiences a token may have, and for how long. Pure functions without storage.

A login by API key has the scopes that the key is limited to *and* that its account holds now.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Final

from keyosk.errors import (
    Forbidden,
    InsufficientScope,
    Invalid,
    InvalidScope,
    InvalidTarget,
)
from keyosk.model import (
    ACCESS_TOKEN_TYPE,
    ADMIN,
    KEYOSK,
    KEYOSK_SCOPES,
    SCOPE_TOKEN,
    Condition,
    CredentialKind,
    Entitlement,
    Principal,
    TokenPolicy,
)

#: Scopes with a meaning in OAuth itself, which cannot belong to a service.
RESERVED_SCOPES: Final = frozenset({"offline_access", "openid"})
#: The most scopes that a misspelt one is compared with, and the most characters of it.
_MOST_COMPARED: Final = 50
_LONGEST_NAME: Final = 60


class Reason(StrEnum):
    """Why a token lacks a scope, or why a login gets no token."""

    NOT_GRANTED = "not_granted"
    UNKNOWN_SCOPE = "unknown_scope"
    PASSWORD_ONLY = "password_only"  # noqa: S105 - a word
    API_KEY_ONLY = "api_key_only"
    WORKLOAD_ONLY = "workload_only"
    KEY_LIMITED = "key_limited"
    SERVICE_DISABLED = "service_disabled"
    CREDENTIAL_NOT_ACCEPTED = "credential_not_accepted"
    EXPIRED = "expired"
    ON_REQUEST_ONLY = "on_request_only"
    OTHER_FORMAT = "other_format"
    OTHER_AUDIENCE = "other_audience"
    REFRESH_REFUSED = "refresh_refused"
    ACCOUNT_DISABLED = "account_disabled"
    ACCOUNT_EXPIRED = "account_expired"
    KEY_DISABLED = "key_disabled"
    KEY_EXPIRED = "key_expired"
    NO_PASSWORD = "no_password"  # noqa: S105 - a word


_ONLY: Final = {
    CredentialKind.PASSWORD: Reason.PASSWORD_ONLY,
    CredentialKind.API_KEY: Reason.API_KEY_ONLY,
    CredentialKind.WORKLOAD: Reason.WORKLOAD_ONLY,
}


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """The content of a token.

    ``audiences`` is empty for a token that only proves an identity. ``lifetimes``: those of its
    services, in seconds; there and in ``algorithm`` and ``typ``, ``None`` stands for the
    installation's. ``expires_at``: the latest expiry time, ``None`` for no limit. ``roles``: those
    that gave one of the scopes. ``claims``: the names of the account's claims that the services
    request. ``refresh_lifetimes``: the same as ``lifetimes`` for refresh sessions; empty if a
    service allows none.
    """

    audiences: tuple[str, ...]
    scopes: tuple[str, ...]
    roles: tuple[str, ...]
    lifetimes: frozenset[int | None]
    expires_at: int | None
    algorithm: str | None
    typ: str | None
    claims: tuple[str, ...]
    refresh_lifetimes: frozenset[int | None]


def check_scope_name(name: str, *, field: str) -> None:
    """Raise ``Invalid`` unless a service may have a scope with this name."""
    if not SCOPE_TOKEN.fullmatch(name):
        raise Invalid.field(
            field,
            f"{name[:200]} must be 1 to 200 printable ASCII characters without space, quote or "
            "backslash",
        )
    if name.lower() in RESERVED_SCOPES:
        raise Invalid.field(field, f"{name} is reserved by OAuth")


def parse_scope(scope: str) -> tuple[str, ...]:
    """Return the distinct scopes of a ``scope`` parameter, in order. Raises ``InvalidScope``."""
    names = tuple(dict.fromkeys(scope.split(" "))) if scope else ()
    if not all(SCOPE_TOKEN.fullmatch(name) for name in names):
        raise InvalidScope("The scope must be scope names separated by single spaces.")
    return names


def current(principal: Principal, now: int) -> dict[str, Entitlement]:
    """Return the entitlements of a login at ``now``, by scope name, within the limits of the key.

    If several grants give a scope, the one that expires last counts.
    """
    granted: dict[str, Entitlement] = {}
    for entitlement in principal.entitlements:
        if why_not(principal, entitlement, now) is None:
            other = granted.get(entitlement.scope)
            if other is None or _lasts_longer(entitlement, other):
                granted[entitlement.scope] = entitlement
    if principal.limit is None:
        return granted
    implied = _with_implied(granted)
    return {
        scope: entitlement for scope, entitlement in implied.items() if scope in principal.limit
    }


def why_not(principal: Principal, entitlement: Entitlement, now: int) -> Reason | None:
    """Return why an entitlement does not apply to a login at ``now``; ``None`` if it does."""
    if not entitlement.service.enabled:
        return Reason.SERVICE_DISABLED
    if principal.credential not in entitlement.service.accepts:
        return Reason.CREDENTIAL_NOT_ACCEPTED
    if entitlement.credential is not None and entitlement.credential != principal.credential:
        return _ONLY[entitlement.credential]
    if entitlement.until is not None and entitlement.until <= now:
        return Reason.EXPIRED
    return None


def available(principal: Principal, now: int) -> dict[str, Entitlement]:
    """Return what a login may request at ``now``: ``current`` and what ``keyosk:admin`` implies."""
    return _with_implied(current(principal, now))


def why_missing(
    principal: Principal,
    scope: str,
    *,
    now: int,
    audiences: Collection[str] | None,
    algorithm: str | None = None,
) -> Reason | None:
    """Return why a token for a login lacks a scope; ``None`` if there is no reason.

    ``audiences``: those requested, ``None`` if there are none. ``algorithm``: as in
    ``token_grant``. If several grants give a reason, the first in ``Reason`` counts.
    """
    held = available(principal, now).get(scope)
    if held is not None:
        if audiences is not None and held.service.audience not in audiences:
            return Reason.OTHER_AUDIENCE
        if audiences is not None:
            return None
        if held.service.on_request_only:
            return Reason.ON_REQUEST_ONLY
        by_default = {
            candidate.scope for candidate in _by_default(current(principal, now), algorithm)
        }
        return None if scope in by_default else Reason.OTHER_FORMAT
    if scope in available(replace(principal, limit=None), now):
        return Reason.KEY_LIMITED
    sources = {scope, ADMIN} if scope in KEYOSK_SCOPES else {scope}
    reasons = {
        why_not(principal, candidate, now)
        for candidate in principal.entitlements
        if candidate.scope in sources
    }
    return next((reason for reason in Reason if reason in reasons), Reason.NOT_GRANTED)


def token_grant(
    principal: Principal,
    *,
    now: int,
    scopes: tuple[str, ...] | None = None,
    targets: Iterable[str] = (),
    find_policy: Callable[[str], TokenPolicy | None],
    algorithm: str | None = None,
) -> TokenGrant:
    """Return the content of a token for this login.

    ``scopes``: those requested, ``None`` for all; ``targets``: the requested audiences, each a
    service's name or audience. ``algorithm``: the installation's. Raises ``InvalidScope``,
    ``InvalidTarget``.
    """
    held = current(principal, now)
    policies: dict[str, TokenPolicy] = {}
    for target in targets:
        policy = _target(target, principal, held.values(), find_policy=find_policy)
        policies[policy.audience] = policy
    if scopes is not None:
        chosen = _requested(scopes, held, policies)
    elif policies:
        chosen = [
            entitlement for entitlement in held.values() if entitlement.service.audience in policies
        ]
    else:
        chosen = _by_default(held, algorithm)
    return _content(principal, chosen, policies)


def _content(
    principal: Principal, chosen: Iterable[Entitlement], policies: dict[str, TokenPolicy]
) -> TokenGrant:
    """Return the content of a token with these scopes, for these audiences and those of scopes."""
    # Loops, not a generator for each field: every token passes here.
    scopes: list[str] = []
    roles: dict[str, None] = {}
    ends = [] if principal.expires_at is None else [principal.expires_at]
    for entitlement in chosen:
        policies.setdefault(entitlement.service.audience, entitlement.service)
        scopes.append(entitlement.scope)
        if entitlement.until is not None:
            ends.append(entitlement.until)
        if entitlement.role is not None:
            roles[entitlement.role] = None
    lifetimes: set[int | None] = set()
    refresh_lifetimes: set[int | None] = set()
    algorithms: set[str | None] = set()
    types: set[str] = set()
    claims: dict[str, None] = {}
    can_refresh = True
    for policy in policies.values():
        lifetimes.add(policy.token_lifetime)
        refresh_lifetimes.add(policy.refresh_lifetime)
        can_refresh = can_refresh and policy.refresh_allowed
        algorithms.add(policy.signing_algorithm)
        types.add(policy.typ or ACCESS_TOKEN_TYPE)
        claims |= dict.fromkeys(policy.claims)
    return TokenGrant(
        audiences=tuple(policies),
        scopes=tuple(scopes),
        roles=tuple(roles),
        lifetimes=frozenset(lifetimes),
        expires_at=min(ends, default=None),
        algorithm=_common("signing_algorithm", algorithms),
        typ=_common("typ", types),
        claims=tuple(claims),
        refresh_lifetimes=frozenset(refresh_lifetimes) if can_refresh else frozenset(),
    )


def is_usual(policy: TokenPolicy, algorithm: str | None) -> bool:
    """Return whether a service's tokens have the usual ``typ`` and are signed with ``algorithm``.

    Tokens for a container registry are requested in another way.
    """
    return (
        (policy.typ or ACCESS_TOKEN_TYPE) == ACCESS_TOKEN_TYPE
        and policy.signing_algorithm in (None, algorithm)
        and policy.registry_version is None
    )


def _by_default(held: Mapping[str, Entitlement], algorithm: str | None) -> list[Entitlement]:
    """Return the content of a token without requested scopes or audiences.

    If the services cannot share a token, it is for those with the usual format; others must be
    requested. If no service has the usual format, the request fails, because it is unclear which
    one is meant.
    """
    chosen = [
        entitlement for entitlement in held.values() if not entitlement.service.on_request_only
    ]
    types = {entitlement.service.typ or ACCESS_TOKEN_TYPE for entitlement in chosen}
    algorithms = {entitlement.service.signing_algorithm for entitlement in chosen} - {None}
    if len(types) <= 1 and len(algorithms) <= 1:
        return chosen
    return [
        entitlement for entitlement in chosen if is_usual(entitlement.service, algorithm)
    ] or chosen


def narrowed(
    principal: Principal, *, scopes: Collection[str], expires_at: int, now: int
) -> Principal:
    """Return a login reduced to a token: to its scopes, and until it expires."""
    available = frozenset(_with_implied(current(principal, now)))
    return replace(
        principal,
        limit=available.intersection(scopes),
        expires_at=_earliest((principal.expires_at, expires_at)),
    )


def is_narrower(after: Collection[str] | None, before: Collection[str] | None) -> bool:
    """Return whether a limit lacks something of the one before, ``None`` being no limit."""
    return after is not None and (before is None or not set(before) <= set(after))


def for_service(
    principal: Principal, service: str, *, required: Iterable[str] = (), now: int
) -> TokenGrant:
    """Return the content of a token with all scopes that a login holds of one service, by name.

    Raises ``InsufficientScope`` if it lacks a ``required`` scope, and ``Forbidden`` if it holds no
    scope there, whether or not the service exists.
    """
    held = [
        entitlement
        for entitlement in current(principal, now).values()
        if entitlement.service.name == service
    ]
    if not held:
        raise Forbidden("This login does not hold any scope of this service.")
    scopes = [entitlement.scope for entitlement in held]
    for name in required:
        if name not in scopes:
            raise InsufficientScope(name)
    return _content(principal, held, {})


def service_of(principal: Principal, audience: str) -> TokenPolicy | None:
    """Return the policy of the service with this audience, if the login holds a scope of it."""
    for entitlement in principal.entitlements:
        if entitlement.service.audience == audience:
            return entitlement.service
    return None


def keyosk_scopes(principal: Principal, now: int) -> frozenset[str]:
    """Return the scopes of Keyosk's own API that a login has at ``now``, with implied ones."""
    held = current(principal, now)
    scopes = [scope for scope, entitlement in held.items() if entitlement.service.name == KEYOSK]
    return frozenset(scopes).union(KEYOSK_SCOPES) if ADMIN in held else frozenset(scopes)


def conditions(principal: Principal, now: int) -> dict[str, tuple[Condition, ...]]:
    """Return the conditions of entitlements that have some at ``now``, by scope name."""
    conditional: dict[str, list[Condition]] = {}
    unconditional: set[str] = set()
    for entitlement in principal.entitlements:
        if entitlement.until is None and entitlement.credential is None:
            unconditional.add(entitlement.scope)
        elif entitlement.until is None or entitlement.until > now:
            condition = Condition(entitlement.credential, entitlement.until)
            conditional.setdefault(entitlement.scope, []).append(condition)
    if ADMIN in unconditional:
        unconditional.update(KEYOSK_SCOPES)
    elif ADMIN in conditional:
        for name in KEYOSK_SCOPES.keys() - {ADMIN}:
            conditional[name] = [*conditional.get(name, ()), *conditional[ADMIN]]
    return {
        name: tuple(of_scope) for name, of_scope in conditional.items() if name not in unconditional
    }


def _lasts_longer(one: Entitlement, other: Entitlement) -> bool:
    if other.until is None:
        return False
    return one.until is None or one.until > other.until


def _with_implied(granted: Mapping[str, Entitlement]) -> dict[str, Entitlement]:
    admin = granted.get(ADMIN)
    if admin is None:
        return dict(granted)
    return {name: replace(admin, scope=name) for name in KEYOSK_SCOPES} | dict(granted)


def _requested(
    scopes: tuple[str, ...], held: Mapping[str, Entitlement], audiences: Collection[str]
) -> list[Entitlement]:
    available = _with_implied(held)

    def is_allowed(name: str) -> bool:
        return name in available and (
            not audiences or available[name].service.audience in audiences
        )

    # One sentence for all reasons, so that it does not reveal which scopes exist.
    refused = [name for name in scopes if not is_allowed(name)]
    if refused:
        raise InvalidScope(
            "This login does not hold these scopes for the requested audience: "
            + " ".join(refused)
            + _hint(refused, filter(is_allowed, available))
        )
    return [available[name] for name in scopes]


def _hint(refused: Sequence[str], allowed: Iterable[str]) -> str:
    """Return what to do about refused scopes; ``allowed``: those that the login may have."""
    if any("," in name for name in refused):
        return ". Separate scopes by spaces, not by commas."
    # SECURITY: it names only what the login holds, and compares few names: a request and an account
    # have room for thousands.
    candidates = list(islice(allowed, _MOST_COMPARED))
    near = difflib.get_close_matches(refused[0][:_LONGEST_NAME], candidates, n=1, cutoff=0.8)
    return f". Did you mean {near[0]}?" if near else ""


def _target(
    target: str,
    principal: Principal,
    held: Iterable[Entitlement],
    *,
    find_policy: Callable[[str], TokenPolicy | None],
) -> TokenPolicy:
    for entitlement in held:  # saves a query for what the login holds anyway
        if target == entitlement.service.audience:
            return entitlement.service
    policy = find_policy(target)
    if policy is None or not policy.enabled or principal.credential not in policy.accepts:
        # SECURITY: it names nothing that was sent, which may be a password in the wrong field.
        raise InvalidTarget("The audience does not exist or does not accept tokens for this login.")
    return policy


def _common(name: str, preferences: Iterable[str | None]) -> str | None:
    """Return the value that fits all services; a service without a preference accepts any."""
    values = set(preferences) - {None}
    if len(values) > 1:
        raise InvalidTarget(
            f"These services have different values of {name}: request a token for one audience."
        )
    return values.pop() if values else None


def _earliest(moments: Iterable[int | None]) -> int | None:
    return min([moment for moment in moments if moment is not None], default=None)
