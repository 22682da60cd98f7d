"""Access tokens (RFC 9068): issue and verify.

Times are integers and never ahead of the clock: verifiers refuse fractions and an ``iat`` in the
future.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from keyosk import clocks, delays
from keyosk.errors import BadToken, InvalidRequest, InvalidScope
from keyosk.ids import new_id
from keyosk.keys import jws
from keyosk.keys.signing_keys import SigningKeys
from keyosk.metrics import Metrics
from keyosk.model import (
    ACCESS_TOKEN_TYPE,
    KEYOSK,
    REGISTRY_CLAIM,
    TOKEN_TYPES,
    WORKLOAD_CLAIM,
    CredentialKind,
    Principal,
    VerifiedClaims,
)
from keyosk.permissions.entitlements import TokenGrant
from keyosk.scope_uses import ScopeUses

#: RFC 8176 has ``pwd``, but no value for an API key or for another issuer's token.
_METHODS: Final = {
    CredentialKind.PASSWORD: "pwd",
    CredentialKind.API_KEY: "api_key",
    CredentialKind.WORKLOAD: "wif",
}
_KINDS: Final = {method: kind for kind, method in _METHODS.items()}
LONGEST: Final = jws.LONGEST
_READ: Final[Mapping[str, type]] = {
    **dict.fromkeys(("iss", "sub", "preferred_username", "client_id", "scope", "jti"), str),
    **dict.fromkeys(("iat", "exp", "auth_time"), int),
}
_LATEST: Final = 2**53  # beyond it, some JSON parsers lose precision


@dataclass(frozen=True, slots=True)
class Token:
    """An issued token.

    Attributes:
        issued_at: The time of issue.
        expires_in: The lifetime in seconds.
        scope: The scopes as one string.
        id: The ``jti``.
    """

    text: str
    expires_in: int
    scope: str
    id: str
    issued_at: int

    @property
    def expires_at(self) -> int:
        """The ``exp`` claim."""
        return self.issued_at + self.expires_in

    def __repr__(self) -> str:
        # SECURITY: anyone who reads the text can use the token.
        return f"Token(expires_in={self.expires_in}, scope={self.scope!r})"


@dataclass(frozen=True, slots=True)
class Preview:
    """A token that was not issued: its claims without ``jti``, and its length in characters."""

    claims: Mapping[str, Any]
    size: int


@dataclass(frozen=True, slots=True)
class Actor:
    """The account that acts for the account of a token; ``before``: earlier actors, as a claim."""

    account_id: str
    username: str
    before: Mapping[str, Any] | None

    @classmethod
    def of(cls, claim: Mapping[str, Any] | None) -> "Actor | None":
        """Return the actor in an ``act`` claim of Keyosk's, if there is one."""
        if claim is None:
            return None
        return cls(claim["sub"], claim["client_id"], claim.get("act"))

    @property
    def claim(self) -> dict[str, Any]:
        """Return the ``act`` claim."""
        claim: dict[str, Any] = {"sub": self.account_id, "client_id": self.username}
        return claim if self.before is None else {**claim, "act": self.before}


class Tokens:
    """Issues and verifies this installation's tokens."""

    def __init__(
        self,
        keys: SigningKeys,
        metrics: Metrics,
        *,
        scope_uses: ScopeUses,
        issuer: str,
        lifetime: int,
        backdate: int = 0,
        clock: Callable[[], float],
    ) -> None:
        """Create the issuer of access tokens.

        Args:
            keys: The signing keys.
            clock: The current time.
            issuer: The ``iss`` claim.
            lifetime: The lifetime in seconds for services without their own.
            backdate: The seconds by which ``iat`` is dated back.
            metrics: Counts the issued tokens.
            scope_uses: Notes their scopes.
        """
        self._keys = keys
        self._metrics = metrics
        self._scope_uses = scope_uses
        self._issuer = issuer
        self._lifetime = lifetime
        self._backdate = backdate
        self._clock = clock

    @property
    def algorithm(self) -> str:
        """The algorithm that signs tokens for services without their own."""
        return self._keys.algorithm

    def issue(
        self,
        principal: Principal,
        token_grant: TokenGrant,
        *,
        lifetime: int | None = None,
        grant_type: str = "client_credentials",
        token_id: str | None = None,
        actor: Actor | None = None,
        names_scopes: bool = False,
        access: Sequence[Mapping[str, Any]] | None = None,
        for_registry_2: bool = False,
    ) -> Token:
        """Sign a token for a login.

        Args:
            principal: The login.
            token_grant: The audiences and scopes of the token.
            lifetime: The requested lifetime in seconds; it can only shorten.
            grant_type: How it was requested, for the metrics.
            token_id: The ``jti``, if it is already chosen.
            actor: The account that acts for the login's account (RFC 8693 section 4.1).
            names_scopes: Whether the request named the scopes.
            access: The ``access`` claim, for container registries.
            for_registry_2: See ``jws.signed``.

        Raises:
            InvalidRequest: The credential or a grant expires now.
            InvalidScope: The token would be too long.
        """
        now = self._moment(principal.tokens_from)
        claims = self._claims(principal, token_grant, now, lifetime=lifetime, actor=actor)
        claims["jti"] = token_id or new_id()
        if access is not None:
            claims[REGISTRY_CLAIM] = access
        signer = self._keys.signer(token_grant.algorithm, compromised=principal.compromised_keys)
        typ = token_grant.typ or ACCESS_TOKEN_TYPE
        text = jws.signed(signer, claims, typ, for_registry_2=for_registry_2)
        if len(text) > LONGEST:
            raise _too_long(len(text), token_grant.scopes)
        self._metrics.token_issued(
            principal.credential,
            signer.algorithm,
            grant_type=grant_type,
            audiences=token_grant.audiences,
        )
        self._scope_uses.note(principal.account_id, token_grant.scopes, named=names_scopes)
        return Token(text, claims["exp"] - now, claims["scope"], claims["jti"], now)

    def preview(
        self, principal: Principal, token_grant: TokenGrant, *, lifetime: int | None = None
    ) -> Preview:
        """Return the token that ``issue`` would issue now, without a signature or a new key.

        Raises the same errors as ``issue``.
        """
        now = int(self._clock())
        claims = self._claims(principal, token_grant, now, lifetime=lifetime, actor=None)
        whole, typ = {**claims, "jti": new_id()}, token_grant.typ or ACCESS_TOKEN_TYPE
        signer = self._keys.known_signer(token_grant.algorithm)
        if signer is not None:
            size = jws.length(signer, whole, typ)
        else:
            size = jws.expected_length(token_grant.algorithm or self._keys.algorithm, whole, typ)
        if size > LONGEST:
            raise _too_long(size, token_grant.scopes)
        return Preview(claims, size)

    def _claims(
        self,
        principal: Principal,
        token_grant: TokenGrant,
        now: int,
        *,
        lifetime: int | None,
        actor: Actor | None,
    ) -> dict[str, Any]:
        """Return all claims except ``jti``."""
        seconds = min(
            [own or self._lifetime for own in token_grant.lifetimes], default=self._lifetime
        )
        if lifetime is not None:
            seconds = min(seconds, lifetime)
        expires = now + seconds
        if token_grant.expires_at is not None:
            expires = min(expires, token_grant.expires_at)
        if expires <= now:
            raise InvalidRequest("The credential or the grant is expiring now.")
        # SECURITY: not before the account's last revocation, otherwise verifiers would take it for
        # a revoked token.
        issued = min(now, max(now - self._backdate, principal.tokens_from))
        audiences = token_grant.audiences or (self._issuer,)
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": principal.account_id,
            "aud": audiences[0] if len(audiences) == 1 else list(audiences),
            "client_id": principal.username if actor is None else actor.username,
            "preferred_username": principal.username,
            "scope": " ".join(token_grant.scopes),
            "iat": issued,
            "exp": expires,
            "auth_time": min(principal.authenticated_at, issued),
            "amr": [_METHODS[principal.credential]],
        }
        if actor is not None:
            claims["act"] = actor.claim
        if token_grant.roles:
            claims["roles"] = list(token_grant.roles)
        if principal.credential_id is not None:
            claims["key_id"] = principal.credential_id
        if token_grant.claims:
            own = json.loads(principal.claims)
            if principal.credential is not CredentialKind.WORKLOAD:
                # SECURITY: an admin wrote this claim of the account; no platform signed it.
                own.pop(WORKLOAD_CLAIM, None)
            claims = {name: own[name] for name in token_grant.claims if name in own} | claims
        return claims

    def _moment(self, earliest: int) -> int:
        """Return the time of issue: now, or ``earliest``, which is at most a second away.

        Times in tokens are whole seconds. If the tokens of an account were just revoked, no token
        is issued until that second is over, because verifiers would take it for a revoked one.
        """
        wait = earliest - self._clock()
        if wait > 0:
            delays.delay_response(wait)
        return max(int(self._clock()), earliest)

    def verify(self, text: str, *, audience: str | None) -> VerifiedClaims:
        """Verify a token for ``audience`` that this installation signed, and return its claims.

        Follows RFC 9068 section 4 and RFC 8725: ``kid`` selects a key from our own set only, and
        the key determines the algorithm. ``Authentication.by_token`` checks revocations.

        Args:
            text: The token.
            audience: The required audience; ``None`` accepts any.

        Raises:
            BadToken: The token is not valid; for a token of ours the message says if it has expired
                or is for another audience.
        """
        verified = jws.read(self._keys, text, typ=TOKEN_TYPES)
        try:
            read = _read(verified.claims, self._keys.kid_of(verified.kid))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BadToken("The token is not valid.") from None
        now = self._clock()
        # Keyosk writes no ``nbf``. The clock of the issuing node may be a little ahead.
        claims = verified.claims
        if claims["iss"] != self._issuer or "nbf" in claims or clocks.is_ahead(read.issued_at, now):
            raise BadToken("The token is not valid.")
        # SECURITY: only after the signature was verified: the holder of a real token can read its
        # claims anyway. For other texts the message reveals nothing.
        if read.expires_at <= now:
            raise BadToken("The token has expired.")
        if audience is not None and audience not in read.audiences:
            raise BadToken(_foreign(audience))
        # A service may use the plain type; Keyosk's own does not.
        if audience == KEYOSK and verified.typ.lower() != ACCESS_TOKEN_TYPE:
            raise BadToken("The token is not valid.")
        return read

    def unverified(self, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the header and claims of a token without verifying it, for people to read only.

        Raises ``BadToken`` if the text does not look like a token.
        """
        try:
            whole = jwt.decode_complete(text, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise BadToken("The token is not valid.") from None
        return whole["header"], whole["payload"]

    def refusal(self, text: str) -> str:
        """Return why ``verify`` refuses a token. Raises ``BadToken`` as ``unverified`` does.

        SECURITY: for the operator only. It goes by claims that anybody may have written, and tells
        which check a forged token fails.
        """
        header, claims = self.unverified(text)
        if claims.get("iss") != self._issuer:
            return (
                f"its issuer is not {self._issuer}. Another installation issued it, or "
                "KEYOSK_ISSUER was changed."
            )
        if self._keys.verifier(str(header.get("kid")), published=True) is None:
            return (
                "its signing key is not in the key set: the key was retired long ago or compromised"
                ", or belongs to another installation."
            )
        expires_at, issued_at = claims.get("exp"), claims.get("iat")
        if isinstance(expires_at, int) and expires_at <= self._clock():
            return f"it expired {int(self._clock()) - expires_at} seconds ago."
        if isinstance(issued_at, int) and clocks.is_ahead(issued_at, self._clock()):
            return (
                f"it was issued {issued_at - int(self._clock())} seconds in the future: a clock is "
                "wrong."
            )
        return "its signature or a claim is not as Keyosk writes it: it was changed, or forged."


def _too_long(length: int, scopes: Sequence[str]) -> InvalidScope:
    weights: dict[str, int] = {}
    for scope in scopes:
        group = f"{scope.partition(':')[0]}:..." if ":" in scope else scope
        weights[group] = weights.get(group, 0) + len(scope) + 1
    heaviest = sorted(weights.items(), key=lambda item: -item[1])[:5]
    shares = ", ".join(f"{group[:100]} {weight} bytes" for group, weight in heaviest)
    return InvalidScope(
        f"The token would have {length} bytes, and servers limit headers to 8 KiB; {LONGEST} "
        f"are allowed. Request fewer scopes or one audience. Its scopes take: {shares}."
        if shares
        else f"The token would have {length} bytes because of the account's claims; {LONGEST} are "
        "allowed."
    )


def _foreign(audience: str) -> str:
    """Return the message for a token for another audience (its characters: RFC 6750 section 3)."""
    if '"' in audience or "\\" in audience:
        return "The token is for another audience."
    return f"The token is for another audience. Ask for one with audience={audience}."


def _read(claims: dict[str, Any], kid: str) -> VerifiedClaims:
    """Return the claims, each with its own type. Raises ``KeyError`` if one is missing."""
    for name, kind in _READ.items():
        if type(claims[name]) is not kind:
            raise TypeError
    audiences = [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"]
    key_id, actor = claims.get("key_id"), claims.get("act")
    [method] = claims["amr"]
    credential = _KINDS[method]
    if not (
        claims["exp"] < _LATEST
        and isinstance(audiences, list)
        and audiences
        and isinstance(key_id, str) == credential.is_of_program
        and "\0" not in "".join((claims["sub"], claims["jti"], key_id or "", *audiences))
        and isinstance(actor, dict | None)
    ):
        raise TypeError
    return VerifiedClaims(
        account_id=claims["sub"],
        username=claims["preferred_username"],
        credential=credential,
        credential_id=key_id,
        scopes=frozenset(claims["scope"].split()),
        authenticated_at=claims["auth_time"],
        id=claims["jti"],
        kid=kid,
        issued_at=claims["iat"],
        expires_at=claims["exp"],
        audiences=tuple(audiences),
        client=claims["client_id"],
        actor=actor,
        scope=claims["scope"],
    )
