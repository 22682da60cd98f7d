"""Authentication and authorization of requests. Every request passes here first; fails closed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from flask import Request, Response, after_this_request, g, request
from werkzeug.exceptions import MethodNotAllowed

from keyosk import delays
from keyosk.accounts.console_sessions import VIA
from keyosk.credentials import usernames
from keyosk.credentials.authentication import caller
from keyosk.credentials.presented import Candidate
from keyosk.errors import (
    BadCredentials,
    BadToken,
    Forbidden,
    InsufficientScope,
    ProofRequired,
    RefusedByRule,
)
from keyosk.ids import is_id
from keyosk.installation import Installation
from keyosk.model import ADMIN, KEYOSK, OPERATOR, Caller, CredentialKind, Principal
from keyosk.permissions import entitlements
from keyosk.scope_uses import NAMED
from keyosk.web import access_log, authorization, bodies, browsers, operator
from keyosk.web.schemas import PasswordProof

ME: Final = "me"
#: In the WSGI environ of a request whose response is everybody's.
PUBLIC: Final = "keyosk.public"
_KEY_IN_BEARER: Final = (
    "This is an API key, not a token: POST it to /auth/token as a Bearer token, and send the "
    "access_token of the response here."
)

_NO_SCHEME: Final = "The Authorization header must begin with Basic or Bearer and a space."


@dataclass(frozen=True, slots=True)
class Access:
    """One decision: who may use an address with a method.

    ``scope``: the scope of Keyosk's own that it needs; where none is stated, all of them.
    ``itself``: the account that the address names needs no scope. ``proof``: that account, though
    an admin's, proves its password in this very request; for what makes, changes or reveals one's
    own credentials. ``no_api_key``: a caller that came by API key is refused whatever its scopes,
    for what makes, changes or reveals credentials.
    ``any_caller``: whoever is logged in, and the resource looks at what for.
    ``by_login``: any Basic login will do, and the resource asks for it. ``key_alone``: so will an
    API key without a username.
    """

    # SECURITY: a decision that says nothing lets an admin pass, and not every login.
    scope: str = ADMIN
    itself: bool = False
    proof: bool = False
    no_api_key: bool = False
    any_caller: bool = False
    anyone: bool = False
    by_login: bool = False
    key_alone: bool = False

    @property
    def is_public(self) -> bool:
        """Whether what is answered is everybody's, so that caches may keep it."""
        return self.anyone and not self.by_login


ANYONE: Final = Access(anyone=True)
#: The resource itself takes the login, as OAuth has its own words for refusing it.
BY_LOGIN: Final = Access(anyone=True, by_login=True)
#: As that, and an API key may come alone.
BY_LOGIN_OR_KEY: Final = Access(anyone=True, by_login=True, key_alone=True)
#: Whoever is logged in; the resource decides by what is asked for.
ANY_CALLER: Final = Access(any_caller=True)


def scope(name: str, *, no_api_key: bool = False) -> Access:
    """Allow callers who hold the scope."""
    return Access(scope=name, no_api_key=no_api_key)


def itself_or(name: str, *, no_api_key: bool = False) -> Access:
    """Allow the account that the path names, and callers who hold the scope.

    For endpoints that return or remove something: a route refuses this decision for all others.
    """
    return Access(scope=name, itself=True, no_api_key=no_api_key)


def itself_proven_or(name: str) -> Access:
    """Allow the account that the path names if it proves its password, and callers by scope."""
    return Access(scope=name, itself=True, proof=True, no_api_key=True)


class Gate:
    """Checks each request against the access decision of its route."""

    def __init__(
        self, installation: Installation, decisions: Mapping[str, Mapping[str, Access]]
    ) -> None:
        """``decisions``: by endpoint, then by method."""
        self._installation = installation
        self._decisions = decisions

    def check(self, asked: Request) -> None:
        """Let the request pass or raise. Sets ``g.caller`` for all but public addresses."""
        context: Any = g._get_current_object()  # the proxy looks it up for each attribute
        method = "GET" if asked.method == "HEAD" else asked.method
        # SECURITY: an address or method without a stated decision is refused, not waved through.
        decision = self._decisions.get(asked.endpoint or "", {}).get(method)
        if decision is None:
            raise MethodNotAllowed
        if decision.is_public:
            asked.environ[PUBLIC] = True
        context.key_alone = decision.key_alone
        if decision.anyone:
            return
        caller, shown = self._caller(asked)
        access_log.note(**name_of(caller))
        itself = _names(caller, asked)
        allowed = decision.any_caller or (decision.itself and itself)
        if not allowed:
            if not caller.has(decision.scope):
                raise InsufficientScope(decision.scope)
            uses, used = self._installation.scope_uses, (caller.account_id, decision.scope)
            if uses.known.get(used) != NAMED and caller.account_id is not None:
                uses.note(caller.account_id, (decision.scope,), named=True)
        context.caller = caller  # from here on a refusal is known to be theirs
        by_program = caller.credential is not None and caller.credential.is_of_program
        if decision.no_api_key and by_program:
            raise RefusedByRule(
                "A caller with an API key or a workload's token cannot change credentials: use a "
                "password. For an account without a password, an admin changes them."
            )
        if decision.proof:
            proof = self._proof(caller, shown if itself else None)
            context.caller = replace(caller, proof=proof)
            if itself and proof is None:
                raise ProofRequired

    def _proof(self, caller: Caller, shown: str | None) -> str | None:
        """The id of the password that this request proves, of the account that the address names.

        ``shown``: of the one that the login was. What stands in the body is checked in any case.
        Raises ``Forbidden`` if that is wrong, ``Invalid``, ``Throttled``.
        """
        current = _current_password()
        if current is None:
            return shown
        installation = self._installation
        account = installation.accounts.get((request.view_args or {})["account"])
        try:
            return installation.authentication.confirm_password(
                account, current, address=caller.address
            ).id
        except BadCredentials:
            raise Forbidden("The current password is wrong.") from None

    def _caller(self, asked: Request) -> tuple[Caller, str | None]:
        """Return who calls, and the id of the password that this request itself proved, if any."""
        if operator.is_operator(asked):
            return replace(OPERATOR, request_id=g.request_id), None
        installation = self._installation
        now = int(installation.clock())
        session = operator.console_login(asked)
        if session is not None:
            # A cookie is not a proof: what needs one has the password in its body.
            return _caller_of(session, now, via=VIA), None
        shown = authorization.credentials()
        if shown.scheme == "bearer" and shown.token is None:
            raise BadToken(_KEY_IN_BEARER)
        if shown.token is not None:
            claims = installation.tokens.verify(shown.token, audience=KEYOSK)
            proven = installation.authentication.by_token(claims, audience=KEYOSK)
            return _caller_of(proven, now, limit=claims.scopes), proven.password_id
        proven = login(installation)
        return _caller_of(proven, now), proven.password_id


def _caller_of(
    proven: Principal, now: int, *, limit: frozenset[str] | None = None, via: str | None = None
) -> Caller:
    """Return who asks. ``limit``: the scopes of their token, if they came by one."""
    context: Any = g._get_current_object()  # the proxy looks it up for each attribute
    scopes = entitlements.keyosk_scopes(proven, now)
    return caller(
        proven,
        scopes if limit is None else limit & scopes,
        frozenset(entitlements.current(proven, now)),
        address=context.address,
        request_id=context.request_id,
        via=via,
        conditions=entitlements.conditions(proven, now),
    )


def recheck(installation: Installation, caller: Caller, scope: str) -> Caller:
    """Return a caller from before with the rights that they hold now.

    Raises:
        BadCredentials: The account or credential is no longer valid.
        InsufficientScope: The caller no longer holds ``scope``.
    """
    if caller.is_operator:
        return caller
    now = int(installation.clock())
    proven = installation.authentication.reload(caller)
    left = replace(
        caller,
        scopes=caller.scopes & entitlements.keyosk_scopes(proven, now),
        held=caller.held & frozenset(entitlements.current(proven, now)),
        conditions=entitlements.conditions(proven, now),
    )
    if not left.has(scope):
        raise InsufficientScope(scope)
    return left


def login(installation: Installation) -> Principal:
    """Return the login that the ``Authorization`` of the request proves, and record its use.

    The login is by HTTP Basic, or by an API key alone where the route accepts one.

    Raises:
        BadCredentials: The request proves no login.
        Forbidden: A browser may have added the login by itself.
    """
    shown = authorization.credentials()
    if not shown.scheme:
        raise BadCredentials("This requires a login; the request has none.")
    if shown.scheme != "bearer":  # a browser never adds that by itself
        browsers.check_login()
    if shown.scheme not in ("basic", "bearer"):
        # Mostly a token or an API key without the word in front of it.
        raise BadCredentials(_NO_SCHEME)
    if not shown.candidates:
        raise BadCredentials
    return by_secret(installation, shown.candidates)


def by_secret(installation: Installation, candidates: Sequence[Candidate]) -> Principal:
    """Return the login that one of these readings proves, and record its use."""
    context: Any = g._get_current_object()
    proven = installation.authentication.by_secret(
        candidates, address=context.address, key_alone=context.get("key_alone", False)
    )
    record_use_afterwards(installation, proven)
    return proven


def name_of(who: Principal | Caller) -> dict[str, str]:
    """Return who logged in, for the log."""
    names = {"account": who.account_id or ""}
    if who.credential_id is None:
        return names
    word = "rule" if who.credential is CredentialKind.WORKLOAD else "api_key"
    return {**names, word: who.credential_id}


def record_use_afterwards(installation: Installation, proven: Principal) -> None:
    """Record the use of a login after the response was sent, so that no request waits."""
    if installation.authentication.is_use_recorded(proven):
        return
    # In the event loop what comes after the response would keep others waiting as well.
    delays.before_waiting()
    record = partial(
        installation.authentication.record_use,
        proven,
        address=g.address,
        request_id=g.request_id,
    )

    @after_this_request
    def noted(response: Response) -> Response:
        response.call_on_close(record)
        return response


def _names(caller: Caller, asked: Request) -> bool:
    """Return whether the address names the caller's own account; ``me`` is put in its terms."""
    arguments = asked.view_args or {}
    reference = arguments.get("account", "")
    if caller.is_operator:
        return False
    if reference == ME:
        arguments["account"] = caller.account_id
        return True
    if is_id(reference):
        return bool(reference.lower() == caller.account_id)
    return usernames.lookup_form(reference) == caller.username


def _current_password() -> str | None:
    """``current_password`` in the body, if there is one. Raises ``Invalid``; 400, 415."""
    if not request.get_data():
        return None
    document = bodies.read(bodies.PATCH_TYPES if request.method == "PATCH" else bodies.JSON_TYPES)
    name = "current_password"
    if not isinstance(document, dict) or name not in document:
        return None
    proof: str = bodies.checked(PasswordProof(), {name: document[name]})[name]
    return proof
