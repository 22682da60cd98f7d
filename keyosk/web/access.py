"""Who is calling, and may they. Every request passes here before its resource; fails closed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from flask import Response, after_this_request, g, request
from werkzeug.exceptions import MethodNotAllowed

from keyosk import api_key_form, permissions, usernames
from keyosk.authentication import caller
from keyosk.errors import BadCredentials, BadToken, InsufficientScope, RefusedByRule
from keyosk.installation import Installation
from keyosk.model import ADMIN, KEYOSK, Caller, CredentialKind, Login
from keyosk.web import access_log, basic, browsers

ME: Final = "me"
#: In the WSGI environ of a request whose response is everybody's.
PUBLIC: Final = "keyosk.public"
_KEY_IN_BEARER: Final = (
    "This is an API key and no token: POST it to /auth/token, as Bearer there too, and send the "
    "access_token of the answer here."
)


@dataclass(frozen=True, slots=True)
class Access:
    """One decision: who may use an address with a method.

    ``scope``: the scope of Keyosk's own that it needs; where none is stated, all of them.
    ``itself``: the account that the address names needs no scope. ``no_api_key``: a caller that
    came by API key is refused whatever its scopes, for what makes, changes or reveals credentials.
    ``any_caller``: whoever is logged in, and the resource looks at what for.
    ``by_login``: any Basic login will do, and the resource asks for it. ``key_alone``: so will an
    API key without a username.
    """

    # SECURITY: a decision that says nothing lets an admin pass, and not every login.
    scope: str = ADMIN
    itself: bool = False
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
    """Callers who hold the scope."""
    return Access(scope=name, no_api_key=no_api_key)


def itself_or(name: str, *, no_api_key: bool = False) -> Access:
    """The account that the address names, and callers who hold the scope."""
    return Access(scope=name, itself=True, no_api_key=no_api_key)


class Gate:
    """Holds each request against the access decision of its route."""

    def __init__(
        self, installation: Installation, decisions: Mapping[str, Mapping[str, Access]]
    ) -> None:
        """``decisions``: by endpoint, then by method."""
        self._installation = installation
        self._decisions = decisions

    def check(self) -> None:
        """Let the request pass or raise. Sets ``g.caller`` for all but public addresses."""
        method = "GET" if request.method == "HEAD" else request.method
        # SECURITY: an address or method without a stated decision is refused, not waved through.
        decision = self._decisions.get(request.endpoint or "", {}).get(method)
        if decision is None:
            raise MethodNotAllowed
        if decision.is_public:
            request.environ[PUBLIC] = True
        g.key_alone = decision.key_alone
        if decision.anyone:
            return
        caller = self._caller()
        access_log.note(**name_of(caller))
        itself = _names(caller)
        allowed = decision.any_caller or (decision.itself and itself)
        if not allowed and not caller.has(decision.scope):
            raise InsufficientScope(decision.scope)
        g.caller = caller  # from here on a refusal is known to be theirs
        if decision.no_api_key and caller.credential is CredentialKind.API_KEY:
            raise RefusedByRule(
                "A caller with an API key cannot handle credentials: use a password."
            )

    def _caller(self) -> Caller:
        installation = self._installation
        now = int(installation.clock())
        credentials = bearer()
        if credentials is not None:
            if api_key_form.looks_like(credentials):
                raise BadToken(_KEY_IN_BEARER)
            claims = installation.tokens.verify(credentials, audience=KEYOSK)
            proven = installation.authentication.by_token(claims, audience=KEYOSK)
            scopes = claims.scopes & permissions.keyosk_scopes(proven, now)
        else:
            proven = login(installation)
            scopes = permissions.keyosk_scopes(proven, now)
        held = frozenset(permissions.current(proven, now))
        return caller(proven, scopes, held, address=g.address, request_id=g.request_id)


def still(installation: Installation, caller: Caller, scope: str) -> Caller:
    """A caller who was let in a while ago, with what is left of their rights now.

    Raises ``BadCredentials``, and ``InsufficientScope`` once they lack ``scope``.
    """
    now = int(installation.clock())
    proven = installation.authentication.again(caller)
    left = replace(
        caller,
        scopes=caller.scopes & permissions.keyosk_scopes(proven, now),
        held=caller.held & frozenset(permissions.current(proven, now)),
    )
    if not left.has(scope):
        raise InsufficientScope(scope)
    return left


def login(installation: Installation) -> Login:
    """The login that the request's ``Authorization`` proves; its use will be noted.

    By Basic, or where the route takes one an API key alone. Raises ``BadCredentials``, and
    ``Forbidden`` where a browser may have added it by itself.
    """
    header = request.headers.get("Authorization", "").strip()
    if not header:
        raise BadCredentials("This needs a login, and the request has none.")
    key = bearer()
    if key is None:
        browsers.check_login()
        return by_pairs(installation, basic.candidates(header))
    if not api_key_form.looks_like(key):
        raise BadCredentials
    # A browser never adds this by itself.
    return by_pairs(installation, [("", key)])


def by_pairs(installation: Installation, pairs: Sequence[tuple[str, str]]) -> Login:
    """The login that one of these (username, secret) pairs proves; its use will be noted."""
    proven = installation.authentication.by_secret(
        pairs, address=g.address, key_alone=g.get("key_alone", False)
    )
    note_afterwards(installation, proven)
    return proven


def bearer() -> str | None:
    """What stands behind the scheme Bearer, without the white space around it."""
    scheme, _, credentials = request.headers.get("Authorization", "").strip().partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


def name_of(who: Login | Caller) -> dict[str, str]:
    """Who it is, for the log."""
    names = {"account": who.account_id or ""}
    return names if who.api_key_id is None else {**names, "api_key": who.api_key_id}


def note_afterwards(installation: Installation, proven: Login) -> None:
    """Note the use of a login once the answer has been sent: a use is not worth a wait."""

    @after_this_request
    def noted(response: Response) -> Response:
        response.call_on_close(lambda: installation.authentication.note(proven))
        return response


def _names(caller: Caller) -> bool:
    """Whether the address names the caller's own account; ``me`` is put in its terms."""
    arguments = request.view_args or {}
    reference = arguments.get("account", "")
    if reference == ME:
        arguments["account"] = caller.account_id
        return True
    return reference == caller.account_id or usernames.lookup_form(reference) == caller.username
