"""Authentication and authorization: every request passes here first, and failures refuse it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from flask import Request, Response, after_this_request, g
from werkzeug.exceptions import MethodNotAllowed

from keyosk import delays
from keyosk.accounts.console_sessions import VIA
from keyosk.credentials import usernames
from keyosk.credentials.authentication import caller_of
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
from keyosk.web.current import current_g, current_request
from keyosk.web.schemas import PasswordProof

ME: Final = "me"
#: In the WSGI environ of a request whose response is public.
PUBLIC: Final = "keyosk.public"
_KEY_IN_BEARER: Final = (
    "This is an API key, not a token: POST it to /auth/token as a Bearer token, and send the "
    "access_token of the response here."
)

_NO_SCHEME: Final = "The Authorization header must begin with Basic or Bearer and a space."


@dataclass(frozen=True, slots=True)
class Access:
    """An access decision: who may use a path with a method.

    ``scope``: the required scope of Keyosk's own; by default the one that includes all. ``itself``:
    the account that the path names needs no scope. ``proof``: that account, even an admin's, proves
    its password in the same request; for creating, changing or revealing its credentials.
    ``no_api_key``: a caller with an API key is refused, whatever its scopes; for creating, changing
    or revealing credentials. ``any_caller``: every login; the resource decides by the request.
    ``by_login``: any Basic login, which the resource verifies. ``key_alone``: also an API key
    without a username.
    """

    # SECURITY: an empty decision admits admins only, not every login.
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
        """Whether the response is the same for everybody, so that caches may keep it."""
        return self.anyone and not self.by_login


ANYONE: Final = Access(anyone=True)
#: The resource itself verifies the login, because OAuth has its own errors for it.
BY_LOGIN: Final = Access(anyone=True, by_login=True)
#: The same, and an API key may come without a username.
BY_LOGIN_OR_KEY: Final = Access(anyone=True, by_login=True, key_alone=True)
#: Every login; the resource decides by the request.
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

    def check(self, request: Request) -> None:
        """Let the request pass or raise. Sets ``g.caller``, except for public paths."""
        context = current_g()
        method = "GET" if request.method == "HEAD" else request.method
        # SECURITY: a path or method without a decision is refused.
        decision = self._decisions.get(request.endpoint or "", {}).get(method)
        if decision is None:
            raise MethodNotAllowed
        if decision.is_public:
            request.environ[PUBLIC] = True
        context.key_alone = decision.key_alone
        if decision.anyone:
            return
        caller, password_id = self._caller(request)
        access_log.note(**name_of(caller))
        itself = _names(caller, request)
        allowed = decision.any_caller or (decision.itself and itself)
        if not allowed:
            if not caller.has(decision.scope):
                raise InsufficientScope(decision.scope)
            uses, used = self._installation.scope_uses, (caller.account_id, decision.scope)
            if uses.noted.get(used) != NAMED and caller.account_id is not None:
                uses.note(caller.account_id, (decision.scope,), named=True)
        context.caller = caller  # from here on, a refusal is attributed to the caller
        by_program = caller.credential is not None and caller.credential.is_of_program
        if decision.no_api_key and by_program:
            raise RefusedByRule(
                "A caller with an API key or a workload's token cannot change credentials: use a "
                "password. For an account without a password, an admin changes them."
            )
        if decision.proof:
            proof = self._proof(caller, password_id if itself else None)
            context.caller = replace(caller, proof=proof)
            if itself and proof is None:
                raise ProofRequired

    def _proof(self, caller: Caller, password_id: str | None) -> str | None:
        """Return the id of the password that this request proves, of the account in the path.

        ``password_id``: that of the login, if it was by password. A password in the body is always
        verified. Raises ``Forbidden`` if it is wrong, ``Invalid``, ``Throttled``.
        """
        current = _current_password()
        if current is None:
            return password_id
        installation = self._installation
        account = installation.accounts.get((current_request().view_args or {})["account"])
        try:
            return installation.authentication.confirm_password(
                account, current, address=caller.address
            ).id
        except BadCredentials:
            raise Forbidden("The current password is wrong.") from None

    def _caller(self, request: Request) -> tuple[Caller, str | None]:
        """Return the caller, and the id of the password that this request proves, if any."""
        if operator.is_operator(request):
            return replace(OPERATOR, request_id=g.request_id), None
        installation = self._installation
        now = int(installation.clock())
        session = operator.console_login(request)
        if session is not None:
            # A cookie is not a proof: requests that need one have the password in the body.
            return _caller_of(session, now, via=VIA), None
        credentials = authorization.credentials()
        if credentials.scheme == "bearer" and credentials.token is None:
            raise BadToken(_KEY_IN_BEARER)
        if credentials.token is not None:
            claims = installation.tokens.verify(credentials.token, audience=KEYOSK)
            principal = installation.authentication.by_token(claims, audience=KEYOSK)
            return _caller_of(principal, now, limit=claims.scopes), principal.password_id
        principal = login(installation)
        return _caller_of(principal, now), principal.password_id


def _caller_of(
    principal: Principal, now: int, *, limit: frozenset[str] | None = None, via: str | None = None
) -> Caller:
    """Return the caller. ``limit``: the scopes of the token, if the login was a token."""
    context = current_g()
    scopes = entitlements.keyosk_scopes(principal, now)
    return caller_of(
        principal,
        scopes if limit is None else limit & scopes,
        frozenset(entitlements.current(principal, now)),
        address=context.address,
        request_id=context.request_id,
        via=via,
        conditions=entitlements.conditions(principal, now),
    )


def recheck(installation: Installation, caller: Caller, scope: str) -> Caller:
    """Return an earlier caller with the rights that they hold now.

    Raises:
        BadCredentials: The account or credential is no longer valid.
        InsufficientScope: The caller no longer holds ``scope``.
    """
    if caller.is_operator:
        return caller
    now = int(installation.clock())
    principal = installation.authentication.reload(caller)
    reduced = replace(
        caller,
        scopes=caller.scopes & entitlements.keyosk_scopes(principal, now),
        held=caller.held & frozenset(entitlements.current(principal, now)),
        conditions=entitlements.conditions(principal, now),
    )
    if not reduced.has(scope):
        raise InsufficientScope(scope)
    return reduced


def login(installation: Installation) -> Principal:
    """Return the login that the ``Authorization`` of the request proves, and record its use.

    The login is by HTTP Basic, or by an API key alone where the route accepts one.

    Raises:
        BadCredentials: The request proves no login.
        Forbidden: A browser may have added the login by itself.
    """
    credentials = authorization.credentials()
    if not credentials.scheme:
        raise BadCredentials("This requires a login; the request has none.")
    if credentials.scheme != "bearer":  # a browser never adds this by itself
        browsers.check_login()
    if credentials.scheme not in ("basic", "bearer"):
        # Usually a token or an API key without the scheme in front of it.
        raise BadCredentials(_NO_SCHEME)
    if not credentials.candidates:
        raise BadCredentials
    return by_secret(installation, credentials.candidates)


def by_secret(installation: Installation, candidates: Sequence[Candidate]) -> Principal:
    """Return the login that one of the candidates proves, and record its use."""
    context = current_g()
    principal = installation.authentication.by_secret(
        candidates, address=context.address, key_alone=context.get("key_alone", False)
    )
    record_use_afterwards(installation, principal)
    return principal


def name_of(who: Principal | Caller) -> dict[str, str]:
    """Return the name of the account that logged in, for the log."""
    names = {"account": who.account_id or ""}
    if who.credential_id is None:
        return names
    word = "rule" if who.credential is CredentialKind.WORKLOAD else "api_key"
    return {**names, word: who.credential_id}


def record_use_afterwards(installation: Installation, principal: Principal) -> None:
    """Record the use of a login after the response was sent, so that no request waits."""
    if installation.authentication.is_use_recorded(principal):
        return
    # In the event loop, work after the response would delay other requests, too.
    delays.before_waiting()
    record = partial(
        installation.authentication.record_use,
        principal,
        address=g.address,
        request_id=g.request_id,
    )

    @after_this_request
    def noted(response: Response) -> Response:
        response.call_on_close(record)
        return response


def _names(caller: Caller, request: Request) -> bool:
    """Return whether the path names the caller's own account; replaces ``me`` by its id."""
    arguments = request.view_args or {}
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
    """Return ``current_password`` of the body, if there is one. Raises ``Invalid``; 400, 415."""
    request = current_request()
    if not request.get_data():
        return None
    document = bodies.read(bodies.PATCH_TYPES if request.method == "PATCH" else bodies.JSON_TYPES)
    name = "current_password"
    if not isinstance(document, dict) or name not in document:
        return None
    proof: str = bodies.checked(PasswordProof(), {name: document[name]})[name]
    return proof
