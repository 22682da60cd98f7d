"""Authentication: turns a credential into a verified ``Principal``, or raises ``BadCredentials``.

A login is tried in every encoding that a client may have used (see ``web.basic``); each password
that is tried counts. Unknown, disabled, expired and wrong logins are refused with the same work and
the same message.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from keyosk import clocks, delays, networks
from keyosk.audit import Audit
from keyosk.credentials import api_key_format, usernames
from keyosk.credentials.password_hashing import Passwords
from keyosk.credentials.presented import Candidate
from keyosk.credentials.throttling import Attempt, Throttling, source_of
from keyosk.errors import (
    BadCredentials,
    BadToken,
    NotFound,
    Throttled,
    Unavailable,
)
from keyosk.metrics import Metrics
from keyosk.model import (
    Account,
    Caller,
    Condition,
    CredentialKind,
    Principal,
    StoredPassword,
    VerifiedClaims,
)
from keyosk.revocations import Revocations
from keyosk.storage.database import Database
from keyosk.storage.stores import Stores

_log = logging.getLogger(__name__)

#: Seconds by which ``last_used_at`` and ``last_login_at`` may be behind: not every use is written.
SEEN_RESOLUTION: Final = 300
#: Seconds without a record of uses after the database was not available.
_RECORD_PAUSE: Final = 10


class Authentication:
    """Verifies passwords and API keys, and the accounts of Bearer tokens."""

    def __init__(
        self,
        database: Database,
        stores: Stores,
        passwords: Passwords,
        *,
        revocations: Revocations,
        audit: Audit,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._accounts = stores.accounts
        self._api_keys = stores.api_keys
        self._logins = stores.logins
        self._throttling = Throttling(database, stores.throttling, clock)
        self._passwords = passwords
        self._revocations = revocations
        self._audit = audit
        self._metrics = metrics
        self._clock = clock
        self._no_records_until = 0.0

    def by_secret(
        self,
        candidates: Sequence[Candidate],
        *,
        address: str | None = None,
        key_alone: bool = False,
    ) -> Principal:
        """Return the login that one of the candidates proves, sent from ``address``.

        They are the readings of one login, in the order to try them. ``key_alone``: an API key
        needs no username. Raises ``BadCredentials``, which is counted in the audit log, and
        ``Throttled``.
        """
        misplaced = _misplaced(candidates, key_alone=key_alone)
        if misplaced is not None:
            self._count_failure("", address)
            raise BadCredentials(misplaced)
        for candidate in candidates:
            if candidate.is_api_key:
                principal = self._by_api_key(candidate, address)
                if principal is not None:
                    return self._revocations.corrected(principal)
        passwords = [candidate for candidate in candidates if not candidate.is_api_key]
        if passwords:
            return self._revocations.corrected(self._by_passwords(passwords, address))
        self._count_failure(candidates[0].username, address)
        raise BadCredentials

    def by_token(self, claims: VerifiedClaims, *, audience: str) -> Principal:
        """Return the login behind a verified token for ``audience``, with its current rights.

        Raises ``BadToken`` if the token was revoked, or if its account or API key was deleted or
        disabled or has expired. The same holds for the account that acts in the token.
        """
        principal, is_revoked = self._logins.by_token(claims, audience) or (None, False)
        if (
            principal is None
            or principal.account_id != claims.account_id
            or not self._usable(principal)
        ):
            raise BadToken("The account or API key of the token is deleted, disabled or expired.")
        # A clock that was ahead may have written the revocation; ``Revocations`` decides.
        if claims.issued_at < principal.tokens_from or (
            is_revoked
            and self._revocations.is_revoked(
                claims.id, claims.kid, audience, issued_at=claims.issued_at
            )
        ):
            raise BadToken("The token was revoked.")
        return principal if claims.actor is None else self._acted_for(principal, claims)

    def _acted_for(self, principal: Principal, claims: VerifiedClaims) -> Principal:
        """Return the login behind an exchanged token, if the account that acts in it is usable.

        SECURITY: the acting account holds the token, so the token is no longer valid when that
        account is not. Earlier actors are named for information only (RFC 8693 section 4.1).
        """
        actor = self._logins.by_account((claims.actor or {})["sub"], claims.issued_at)
        if actor is None or not self._usable(actor):
            raise BadToken("The account that acts in the token is deleted, disabled or expired.")
        if claims.issued_at < actor.tokens_from:
            raise BadToken("The token was revoked.")
        return acted_for(principal, actor)

    def resume(self, principal: Principal | None, *, address: str | None) -> Principal:
        """Return the login that began a session, read with it, if it may still be used.

        Raises ``BadCredentials`` if its password was changed, if its API key or account was deleted
        or disabled or has expired, or if the key may not be used from ``address``.
        """
        if (
            principal is None
            or not self._usable(principal)
            or not _is_allowed(address, principal.networks)
        ):
            raise BadCredentials
        return self._revocations.corrected(principal)

    def by_password_id(self, password_id: str, authenticated_at: int) -> Principal:
        """Return the login that a password proved earlier, with its current rights.

        Raises ``BadCredentials`` if the password was changed, or if its account was deleted or
        disabled or has expired.
        """
        principal = self._logins.by_password(password_id, authenticated_at)
        if principal is None or not self._usable(principal):
            raise BadCredentials
        return self._revocations.corrected(principal)

    def preview_login(
        self, account_id: str, api_key_id: str | None, *, to_issue: bool = False
    ) -> Principal:
        """Return the login that an account would have, usable or not. Raises ``NotFound``.

        It writes nothing, unless a token will be issued that Keyosk must accept afterwards.
        """
        now = int(self._clock())
        if api_key_id is not None:
            principal = self._logins.by_api_key(api_key_id, now)
        else:
            principal = self._logins.by_account(account_id, now)
        if principal is None or principal.account_id != account_id:
            raise NotFound("There is no such account or API key.")
        return self._revocations.corrected(principal, store=to_issue)

    def check_usable(self, principal: Principal) -> None:
        """Raise ``BadCredentials`` unless the login's account and API key are usable now."""
        if not self._usable(principal):
            raise BadCredentials

    def reload(self, caller: Caller) -> Principal:
        """Return the login behind an earlier caller, with its current rights.

        Raises ``BadCredentials`` if its account or API key was deleted or disabled or has expired.
        """
        now = int(self._clock())
        principal = self._logins.reload(caller, now)
        if (
            principal is None
            or principal.account_id != caller.account_id
            or not self._usable(principal)
        ):
            raise BadCredentials
        return principal

    def is_use_recorded(self, principal: Principal) -> bool:
        """Return whether a use needs no write: one was recorded recently, or none can be."""
        seen = principal.last_seen_at
        is_known = seen is not None and clocks.is_recent(seen, int(self._clock()), SEEN_RESOLUTION)
        return is_known or time.monotonic() < self._no_records_until

    def record_use(
        self, principal: Principal, *, address: str | None = None, request_id: str | None = None
    ) -> None:
        """Record that the credential was used, to within minutes and without delaying a response.

        Call it after the response was sent, because it may wait for the database, and may fail.
        ``address`` and ``request_id``: of the request, for the row of an API key's first use.
        """
        if self.is_use_recorded(principal):
            return
        now = int(self._clock())
        try:
            if principal.credential_id is None:
                self._accounts.record_login(principal.account_id, now)
            elif principal.credential is CredentialKind.API_KEY:
                user = caller_of(principal, address=address, request_id=request_id)
                self._record_key_use(
                    user, principal.credential_id, now, last=principal.last_seen_at
                )
        except Unavailable:
            # No second try: each may wait, and occupies a thread.
            self._no_records_until = time.monotonic() + _RECORD_PAUSE
            _log.warning("the use of a credential was not recorded: the database is not available")

    def confirm_password(
        self, account: Account, password: str, *, address: str | None = None
    ) -> StoredPassword:
        """Verify the account's password.

        Raises ``BadCredentials``, which is counted in the audit log like a failed login, and
        ``Throttled``.
        """
        self._database.check()
        with self._passwords.hashing_limit.hold():
            seen_at = self._throttling.seen_at(account.username, address)
            attempt = self._admit(account.username, address, seen_at)
            stored = self._accounts.password_of(account.id)
            try:
                self._passwords.verify(password, stored.hash if stored else None)
            except BadCredentials:
                self._count_failure(account.username, address)
                raise
            if stored is None:
                raise BadCredentials
            self._refund([attempt], account.id)
        return stored

    def _record_key_use(self, user: Caller, api_key_id: str, now: int, *, last: int | None) -> None:
        if last is not None:
            self._api_keys.record_use(api_key_id, now)
            return
        with self._database.transaction():
            # Of several first uses at the same time, only one is recorded.
            if self._api_keys.record_use(api_key_id, now, first=True):
                target = f"account/{user.account_id}/api-key/{api_key_id}"
                self._audit.record(user, "api_key.first_use", target)

    def _by_api_key(self, candidate: Candidate, address: str | None) -> Principal | None:
        username, digest = candidate.username, api_key_format.digest(candidate.secret)
        principal = self._logins.by_digest(digest, int(self._clock()))
        # Without a username, a key alone is enough at some endpoints (see ``_misplaced``).
        if principal is None or (username and not usernames.is_same(username, principal.username)):
            return None
        return (
            principal
            if self._usable(principal) and _is_allowed(address, principal.networks)
            else None
        )

    def _by_passwords(self, candidates: Sequence[Candidate], address: str | None) -> Principal:
        names = [usernames.lookup_form(candidate.username) or "" for candidate in candidates]
        source = source_of(address)
        # An attempt is counted only when its turn comes, so that many right passwords at once do
        # not use up the allowance for wrong ones.
        self._database.check()
        with self._passwords.hashing_limit.hold():
            attempts = []
            for name, candidate in zip(names, candidates, strict=True):
                # SECURITY: each password that is tried counts as an attempt for its username; one
                # header can mean three of them.
                stored, seen_at = self._accounts.password(name, source)
                attempts.append(self._admit(name, address, seen_at))
                principal = self._by_password(stored, candidate.secret)
                if principal is not None:
                    self._refund(attempts, principal.account_id)
                    return principal
        self._count_failure(candidates[0].username, address)
        raise BadCredentials

    def _admit(self, name: str, address: str | None, seen_at: int | None) -> Attempt:
        try:
            return self._throttling.admit(name, address, seen_at=seen_at)
        except Throttled:
            self._count_failure(name, address, throttled=True)
            raise

    def _refund(self, attempts: Sequence[Attempt], account_id: str) -> None:
        try:
            self._throttling.refund(attempts, account_id)
        except Unavailable:  # it still counts as a wrong attempt, which only uses up the allowance
            _log.warning("a correct password still counts as wrong: the database is not available")

    def _count_failure(
        self, username: str, address: str | None, *, throttled: bool = False
    ) -> None:
        """Count a refused login. A failure of the database does not change the response."""
        delays.before_waiting()  # it writes, and must not run twice
        self._metrics.login_refused(throttled=throttled)
        name = usernames.lookup_form(username)
        try:
            account_id = self._accounts.by_username(name).id if name is not None else None
        except NotFound:
            account_id = None
        try:
            self._audit.count_failed_login(account_id, address, throttled=throttled)
        except Unavailable:
            _log.warning("a failed login was not counted: the database is not available")

    def _by_password(self, stored: StoredPassword | None, secret: str) -> Principal | None:
        try:
            replacement = self._passwords.verify(secret, stored.hash if stored else None)
        except BadCredentials:
            return None
        if stored is None:
            return None
        # SECURITY: read after the slow hash, so that rights and passwords that were lost or changed
        # meanwhile do not count.
        principal = self._logins.by_password(stored.id, int(self._clock()))
        if principal is None or not self._usable(principal):
            return None
        if replacement is not None:
            self._rehash(StoredPassword(stored.id, replacement))
        return principal

    def _rehash(self, password: StoredPassword) -> None:
        try:
            self._accounts.rehash(password)
        except Unavailable:  # the next login tries again; this one is valid
            _log.warning("an old password hash was not replaced: the database is not available")

    def _usable(self, principal: Principal) -> bool:
        return principal.enabled and (
            principal.expires_at is None or principal.expires_at > self._clock()
        )


def _misplaced(candidates: Sequence[Candidate], *, key_alone: bool) -> str | None:
    """Return the message for an API key in the wrong place; it reveals nothing new to the caller.

    No username begins like an API key, so nobody's login is refused by this.
    """
    if any(api_key_format.looks_like(candidate.username) for candidate in candidates):
        return "An API key is a secret, not a username: send it as the password, or as Bearer."
    if key_alone:
        return None
    if any(not candidate.username and candidate.is_api_key for candidate in candidates):
        return (
            "An API key without a username works at /auth/token and /auth/forward only: get a "
            "token there, or send the username as well."
        )
    return None


def acted_for(principal: Principal, actor: Principal) -> Principal:
    """Return a login with another account acting in it.

    Its tokens must be newer than the revocations of both accounts, because a verifier refuses them
    by an entry for either.
    """
    return replace(principal, tokens_from=max(principal.tokens_from, actor.tokens_from))


def _is_allowed(address: str | None, limits: tuple[str, ...] | None) -> bool:
    """Return whether a key that is limited to networks may be used from an address."""
    if limits is None:
        return True
    try:
        source = networks.address(address or "")
    except ValueError:
        return False
    return any(source in networks.network(limit) for limit in limits)


def caller_of(
    principal: Principal,
    scopes: frozenset[str] = frozenset(),
    held: frozenset[str] = frozenset(),
    *,
    address: str | None = None,
    request_id: str | None = None,
    via: str | None = None,
    conditions: Mapping[str, tuple[Condition, ...]] | None = None,
) -> Caller:
    """Return the caller for a login; one without scopes may use nothing of the admin API."""
    return Caller(
        account_id=principal.account_id,
        username=principal.username,
        credential=principal.credential,
        credential_id=principal.credential_id,
        scopes=scopes,
        held=held,
        address=address,
        request_id=request_id,
        via=via,
        conditions=conditions or {},
    )
