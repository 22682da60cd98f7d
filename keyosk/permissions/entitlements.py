"""What a login may have: scopes, audiences, and for how long. Pure decisions, nothing is stored.

An API key gives the scopes that it was limited to *and* that its account holds at this moment.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from keyosk.errors import (
    Fault,
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
    Holding,
    Login,
    Terms,
)

#: Scopes that mean something to OAuth itself and cannot belong to a service.
RESERVED_SCOPES: Final = frozenset({"offline_access", "openid"})


class Reason(StrEnum):
    """Why a scope is not in a token, or why a login gets none."""

    NOT_GRANTED = "not_granted"
    UNKNOWN_SCOPE = "unknown_scope"
    PASSWORD_ONLY = "password_only"  # noqa: S105 - a word
    API_KEY_ONLY = "api_key_only"
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


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What a token may carry.

    ``audiences`` is empty for a token that only proves who it is. ``lifetimes``: what its services
    say, in seconds; there and in ``algorithm`` and ``typ``, ``None`` is the installation's own.
    ``expires_at``: no later than
    this, ``None`` for no bound. ``roles``: those that gave one of the scopes. ``claims``
    names those of the account's claims that the services ask for. ``refresh_lifetimes``: as
    ``lifetimes``, of refresh sessions; empty where one of the services allows none.
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
    """Raise ``Invalid`` unless ``name`` is a scope-token that a service may own."""
    if not SCOPE_TOKEN.fullmatch(name):
        raise Invalid.field(
            field, "must be 1 to 200 printable ASCII characters without space, quote or backslash"
        )
    if name in RESERVED_SCOPES:
        raise Invalid([Fault(field, f"{name} is reserved by OAuth")])


def parse_scope(scope: str) -> tuple[str, ...]:
    """The distinct scope-tokens of a ``scope`` parameter, in order. Raises ``InvalidScope``."""
    names = tuple(dict.fromkeys(scope.split(" "))) if scope else ()
    if not all(SCOPE_TOKEN.fullmatch(name) for name in names):
        raise InvalidScope("The scope is not a list of scope names, each apart by one space.")
    return names


def current(login: Login, now: int) -> dict[str, Holding]:
    """The holdings of a login that count at ``now``, by scope name, within the key's limit.

    Where several grants give a scope, the one that lasts longest counts.
    """
    granted: dict[str, Holding] = {}
    for holding in login.holdings:
        if why_not(login, holding, now) is None:
            known = granted.get(holding.scope)
            if known is None or _lasts_longer(holding, known):
                granted[holding.scope] = holding
    if login.limit is None:
        return granted
    implied = _with_implied(granted)
    return {scope: holding for scope, holding in implied.items() if scope in login.limit}


def why_not(login: Login, holding: Holding, now: int) -> Reason | None:
    """Why a holding does not count for a login at ``now``; ``None`` if it does."""
    if not holding.service.enabled:
        return Reason.SERVICE_DISABLED
    if login.credential not in holding.service.accepts:
        return Reason.CREDENTIAL_NOT_ACCEPTED
    if holding.credential is not None and holding.credential != login.credential:
        by_password = holding.credential is CredentialKind.PASSWORD
        return Reason.PASSWORD_ONLY if by_password else Reason.API_KEY_ONLY
    if holding.until is not None and holding.until <= now:
        return Reason.EXPIRED
    return None


def available(login: Login, now: int) -> dict[str, Holding]:
    """What a login may ask for at ``now``: ``current``, and what ``keyosk:admin`` stands for."""
    return _with_implied(current(login, now))


def why_missing(
    login: Login,
    scope: str,
    *,
    now: int,
    audiences: Collection[str] | None,
    algorithm: str | None = None,
) -> Reason | None:
    """Why a token for a login does not have a scope; ``None`` if nothing speaks against it.

    ``audiences``: those asked for, ``None`` if none was. ``algorithm``: as in ``entitlement``.
    Where several grants say why, the first of
    ``Reason`` counts.
    """
    held = available(login, now).get(scope)
    if held is not None:
        if audiences is not None and held.service.audience not in audiences:
            return Reason.OTHER_AUDIENCE
        if audiences is not None:
            return None
        if held.service.on_request_only:
            return Reason.ON_REQUEST_ONLY
        by_default = {each.scope for each in _by_default(current(login, now), algorithm)}
        return None if scope in by_default else Reason.OTHER_FORMAT
    if scope in available(replace(login, limit=None), now):
        return Reason.KEY_LIMITED
    sources = {scope, ADMIN} if scope in KEYOSK_SCOPES else {scope}
    found = {why_not(login, each, now) for each in login.holdings if each.scope in sources}
    return next((reason for reason in Reason if reason in found), Reason.NOT_GRANTED)


def entitlement(
    login: Login,
    *,
    now: int,
    scopes: tuple[str, ...] | None = None,
    targets: Iterable[str] = (),
    find_terms: Callable[[str], Terms | None],
    algorithm: str | None = None,
) -> Entitlement:
    """What a token for this login carries.

    ``scopes``: those asked for, ``None`` for all that are held; ``targets``: the audiences asked
    for, each a service's name or audience. ``algorithm``: the installation's.
    Raises ``InvalidScope``, ``InvalidTarget``.
    """
    held = current(login, now)
    terms = {
        each.audience: each
        for each in (_target(target, login, held.values(), find_terms) for target in targets)
    }
    if scopes is not None:
        chosen = _asked(scopes, held, terms)
    elif terms:
        chosen = [holding for holding in held.values() if holding.service.audience in terms]
    else:
        chosen = _by_default(held, algorithm)
    for holding in chosen:
        terms.setdefault(holding.service.audience, holding.service)
    return Entitlement(
        audiences=tuple(terms),
        scopes=tuple(holding.scope for holding in chosen),
        roles=tuple(dict.fromkeys(holding.role for holding in chosen if holding.role is not None)),
        lifetimes=frozenset(each.token_lifetime for each in terms.values()),
        expires_at=_earliest((login.expires_at, *(holding.until for holding in chosen))),
        algorithm=_common("signing_algorithm", (t.signing_algorithm for t in terms.values())),
        typ=_common("typ", (each.typ or ACCESS_TOKEN_TYPE for each in terms.values())),
        claims=tuple(dict.fromkeys(name for each in terms.values() for name in each.claims)),
        refresh_lifetimes=frozenset(each.refresh_lifetime for each in terms.values())
        if all(each.refresh_allowed for each in terms.values())
        else frozenset(),
    )


def is_usual(terms: Terms, algorithm: str | None) -> bool:
    """True if the service's tokens have the usual ``typ`` and are signed with ``algorithm``."""
    return (terms.typ or ACCESS_TOKEN_TYPE) == ACCESS_TOKEN_TYPE and terms.signing_algorithm in (
        None,
        algorithm,
    )


def _by_default(held: Mapping[str, Holding], algorithm: str | None) -> list[Holding]:
    """What a token has that asks for nothing.

    Where the services cannot share a token, those with the usual one: a service of another format
    must be asked for. Where there is none of these the request fails, as nothing tells which of
    the others was meant.
    """
    chosen = [holding for holding in held.values() if not holding.service.on_request_only]
    types = {holding.service.typ or ACCESS_TOKEN_TYPE for holding in chosen}
    algorithms = {holding.service.signing_algorithm for holding in chosen} - {None}
    if len(types) <= 1 and len(algorithms) <= 1:
        return chosen
    return [holding for holding in chosen if is_usual(holding.service, algorithm)] or chosen


def narrowed(login: Login, *, scopes: Collection[str], expires_at: int, now: int) -> Login:
    """The login as a token of it goes: no more than the token's scopes, and no longer than it."""
    available = frozenset(_with_implied(current(login, now)))
    return replace(
        login,
        limit=available.intersection(scopes),
        expires_at=_earliest((login.expires_at, expires_at)),
    )


def for_service(
    login: Login, service: str, *, required: Iterable[str] = (), now: int
) -> Entitlement:
    """What a token carries with all that a login holds of one service, given by name.

    Raises ``InsufficientScope`` unless it holds all that is ``required`` there, and ``Forbidden``
    if it holds nothing there, whether the service exists or not.
    """
    held = [each for each in current(login, now).values() if each.service.name == service]
    if not held:
        raise Forbidden("This login holds nothing of this service.")
    scopes = tuple(each.scope for each in held)
    for name in required:
        if name not in scopes:
            raise InsufficientScope(name)
    terms = held[0].service
    return entitlement(
        login, now=now, scopes=scopes, targets=(terms.audience,), find_terms=lambda _: None
    )


def keyosk_scopes(login: Login, now: int) -> frozenset[str]:
    """The scopes of Keyosk's own API that a login has at ``now``, those implied included."""
    held = available(login, now)
    return frozenset(scope for scope, holding in held.items() if holding.service.name == KEYOSK)


def conditions(login: Login, now: int) -> dict[str, tuple[Condition, ...]]:
    """How an account holds what it holds at ``now`` under conditions only, by scope name."""
    found: dict[str, list[Condition]] = {}
    for holding in login.holdings:
        if holding.until is None or holding.until > now:
            condition = Condition(holding.credential, holding.until)
            found.setdefault(holding.scope, []).append(condition)
    if ADMIN in found:
        for name in KEYOSK_SCOPES:
            found[name] = [*found.get(name, ()), *found[ADMIN]]
    return {name: tuple(held) for name, held in found.items() if Condition() not in held}


def _lasts_longer(one: Holding, other: Holding) -> bool:
    if other.until is None:
        return False
    return one.until is None or one.until > other.until


def _with_implied(granted: Mapping[str, Holding]) -> dict[str, Holding]:
    admin = granted.get(ADMIN)
    if admin is None:
        return dict(granted)
    return {name: replace(admin, scope=name) for name in KEYOSK_SCOPES} | dict(granted)


def _asked(
    scopes: tuple[str, ...], held: Mapping[str, Holding], audiences: Collection[str]
) -> list[Holding]:
    available = _with_implied(held)
    # One sentence for all reasons: which scopes exist is not everybody's to know.
    refused = [
        name
        for name in scopes
        if name not in available
        or (audiences and available[name].service.audience not in audiences)
    ]
    if refused:
        raise InvalidScope(
            "This login does not hold, for the audience asked for: " + " ".join(refused)
        )
    return [available[name] for name in scopes]


def _target(
    target: str,
    login: Login,
    held: Iterable[Holding],
    find_terms: Callable[[str], Terms | None],
) -> Terms:
    for holding in held:  # spares a query for what the login holds anyway
        if target == holding.service.audience:
            return holding.service
    terms = find_terms(target)
    if terms is None or not terms.enabled or login.credential not in terms.accepts:
        raise InvalidTarget("The audience does not exist or takes no tokens of this login.")
    return terms


def _common(name: str, wishes: Iterable[str | None]) -> str | None:
    """The one value that all services can live with: one that wishes nothing takes any."""
    values = set(wishes) - {None}
    if len(values) > 1:
        raise InvalidTarget(
            f"These services differ in their {name}: ask for a token for one audience at a time."
        )
    return values.pop() if values else None


def _earliest(moments: Iterable[int | None]) -> int | None:
    return min((moment for moment in moments if moment is not None), default=None)
