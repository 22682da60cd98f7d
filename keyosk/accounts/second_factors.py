"""Second factors: what a person shows in addition to the password to log in to the console.

Their owner adds them in the console, after showing the password again. Admins list and remove them
and never see a secret. An account with a second factor needs it for each login to the console, and
with the password for dangerous acts there (``confirmations``). Logins to the API need none.
"""

import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from keyosk import clocks
from keyosk.accounts.accounts import Accounts, target
from keyosk.accounts.console_sessions import VIA, digest_of, new_secret
from keyosk.credentials import one_time_codes, passkeys
from keyosk.credentials.passkeys import RelyingParty
from keyosk.credentials.throttling import Attempt, Throttling
from keyosk.errors import (
    BadCredentials,
    Conflict,
    Invalid,
    NotFound,
    RefusedByRule,
    Throttled,
    Unavailable,
    WrongSecretKey,
)
from keyosk.ids import is_id, new_id
from keyosk.keys.material import Safe
from keyosk.model import (
    ONE_TIME_CODE,
    PASSWORD,
    SEVERAL_FACTORS,
    Caller,
    ConsoleSession,
    FactorKind,
    ListQuery,
    Passkey,
    Principal,
    SecondFactor,
)
from keyosk.permissions.context import Context
from keyosk.storage.stores import Stores
from keyosk.validation import LONGEST_NAME, Faults

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Seconds to set up an app after the password was shown.
_OFFERED: Final = 600
_MOST: Final = 20
_CHALLENGE: Final = 32  # bytes
_NO_CHALLENGE: Final = "The passkey was shown too late, or twice: try again."
#: The ``amr`` of a login with a code of an app or a recovery code (RFC 8176).
BY_CODE: Final = (PASSWORD, ONE_TIME_CODE, SEVERAL_FACTORS)


@dataclass(frozen=True, slots=True)
class Offer:
    """A secret for an app, which becomes a factor once the app shows a right code.

    ``sealed``: the encrypted offer for the form that confirms it, valid in the same session only.
    """

    secret: str = field(repr=False)
    uri: str = field(repr=False)
    sealed: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PasskeyOffer:
    """The options for a browser to create a passkey; ``sealed`` as of an ``Offer``."""

    options: str = field(repr=False)
    sealed: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Added:
    """The result of adding a factor.

    ``codes``: recovery codes, with the first factor; ``session_secret``: for the cookie of the
    session from now on.
    """

    codes: list[str] | None = field(repr=False)
    session_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PasskeyChallenge:
    """The options for a browser to show a passkey; the caller stores the ``challenge``."""

    challenge: bytes = field(repr=False)
    options: str = field(repr=False)


class SecondFactors:
    """Adds, lists, verifies and removes second factors."""

    def __init__(
        self, context: Context, stores: Stores, *, accounts: Accounts, safe: Safe, issuer: str
    ) -> None:
        self._database = context.database
        self._safeguards = context.safeguards
        self._audit = context.audit
        self._clock = context.clock
        self._store = stores.second_factors
        self._sessions = stores.console_sessions
        self._pending = stores.pending_logins
        self._accounts = accounts
        self._safe = safe
        self._throttling = Throttling(context.database, stores.throttling, context.clock)
        self._issuer = f"Keyosk {urlsplit(issuer).hostname}"
        self._party = passkeys.relying_party(issuer)

    @property
    def has_passkeys(self) -> bool:
        """Whether passkeys are possible here: browsers refuse them for an IP address."""
        return self._party is not None

    def is_enrolled(self, account_id: str) -> bool:
        """Return whether the account has a second factor other than recovery codes."""
        return self._store.is_enrolled(account_id)

    def page(self, reference: str, list_query: ListQuery) -> list[SecondFactor]:
        """Return a page of the account's factors. Raises ``NotFound``."""
        return self._store.page(self._accounts.get(reference).id, list_query)

    def count(self, reference: str, list_query: ListQuery) -> int:
        """Return the number of the account's factors. Raises ``NotFound``."""
        return self._store.count(self._accounts.get(reference).id, list_query)

    def offer_app(self, login: Principal, session: ConsoleSession, name: str) -> Offer:
        """Return a secret for an app. The caller has verified the password. Raises ``Invalid``."""
        secret = one_time_codes.new_secret()
        sealed = self._sealed(session, name, secret)
        uri = one_time_codes.uri(secret, username=login.username, issuer=self._issuer)
        return Offer(secret, uri, sealed)

    def offered(self, login: Principal, session: ConsoleSession, sealed: str) -> Offer:
        """Return the offer that a form sends back. Raises ``Invalid``."""
        secret = self._opened(session, sealed)["secret"]
        uri = one_time_codes.uri(secret, username=login.username, issuer=self._issuer)
        return Offer(secret, uri, sealed)

    def add_app(self, caller: Caller, session: ConsoleSession, sealed: str, *, code: str) -> Added:
        """Turn an offer into a factor, given a code of its app; ends the account's other sessions.

        Raises ``Invalid``, ``Conflict``.
        """
        now = self._clock()
        offered = self._opened(session, sealed)
        step = one_time_codes.matching_step(offered["secret"], code, now)
        if step is None:
            raise Invalid.field("code", "is not what the app shows now: are both clocks right?")
        factor = SecondFactor(
            id=offered["id"],
            account_id=session.account_id,
            kind=FactorKind.TOTP,
            name=offered["name"],
            created_at=int(now),
            sealed=self._safe.seal(offered["secret"].encode(), name=_name(offered["id"])),
        )
        with self._database.transaction():
            return self._add(caller, session, factor, amr=BY_CODE, step=step)

    def offer_passkey(self, login: Principal, session: ConsoleSession, name: str) -> PasskeyOffer:
        """Return what a browser needs to create a passkey. The caller has verified the password.

        Raises ``Invalid``, and ``NotFound`` where passkeys are impossible.
        """
        challenge = secrets.token_bytes(_CHALLENGE)
        sealed = self._sealed(session, name, challenge.hex())
        options = passkeys.options_to_add(
            self._relying_party(),
            account_id=login.account_id,
            username=login.username,
            challenge=challenge,
            registered=[passkey for _, passkey in self._passkeys(login.account_id)],
        )
        return PasskeyOffer(options, sealed)

    def add_passkey(
        self, caller: Caller, session: ConsoleSession, sealed: str, *, response: str
    ) -> Added:
        """Turn a browser's response to an offer into a factor; otherwise as ``add_app``.

        Raises ``Invalid``, ``Conflict``, ``NotFound``, ``BadCredentials``.
        """
        offered = self._opened(session, sealed)
        passkey, amr = passkeys.verify_new(
            self._relying_party(), response, challenge=bytes.fromhex(offered["secret"])
        )
        factor = SecondFactor(
            id=offered["id"],
            account_id=session.account_id,
            kind=FactorKind.PASSKEY,
            name=offered["name"],
            created_at=int(self._clock()),
            passkey=passkey,
        )
        with self._database.transaction():
            return self._add(caller, session, factor, amr=amr)

    def challenge(self, account_id: str) -> PasskeyChallenge | None:
        """Return what a browser needs to show a passkey; ``None`` if the account has none."""
        registered = [passkey for _, passkey in self._passkeys(account_id)]
        if not registered or self._party is None:
            return None
        challenge = secrets.token_bytes(_CHALLENGE)
        options = passkeys.options_to_show(self._party, challenge=challenge, registered=registered)
        return PasskeyChallenge(challenge, options)

    def renew_recovery_codes(self, caller: Caller, session: ConsoleSession) -> list[str]:
        """Replace the recovery codes of the account. The caller has verified the password.

        Ends all other sessions of the account. Raises ``Conflict`` if it has no other factor.
        """
        with self._database.transaction():
            account = self._accounts.locked(session.account_id)
            if not self._store.is_enrolled(account.id):
                raise Conflict("kind", "Recovery codes stand in for another factor: add one first.")
            codes = self._make_codes(caller, account.id)
            self._end_logins(account.id, except_for=session.id)
        return codes

    def remove(self, caller: Caller, reference: str, factor_id: str) -> None:
        """Remove a factor; all console sessions of its account end.

        Raises ``NotFound``, ``RefusedByRule``, and as ``Accounts.check_proof``.
        """
        with self._database.transaction():
            account = self._accounts.locked(reference)
            self._safeguards.not_by_api_key(caller)
            self._safeguards.may_change(caller, account.id)
            # SECURITY: somebody with only the password must not remove the factor that they lack. A
            # console session has shown the factor.
            if caller.account_id == account.id and caller.via != VIA:
                raise RefusedByRule(
                    "Remove your own second factor in the console, or ask another admin."
                )
            self._accounts.check_proof(caller, account.id)
            factor = self._store.get(account.id, factor_id) if is_id(factor_id) else None
            if factor is None:
                raise NotFound("This account has no such second factor.")
            self._remove(caller, factor)
            if not self._store.is_enrolled(account.id):
                for left in self._store.of_account(account.id):
                    self._remove(caller, left)
            self._end_logins(account.id)

    def verify(
        self,
        caller: Caller,
        *,
        code: str,
        passkey: str,
        challenge: bytes | None,
        on_success: Callable[[Sequence[str]], _T],
    ) -> _T:
        """Verify a second factor and call ``on_success`` in the same transaction.

        Args:
            caller: Whose password was right.
            code: Of an app, or a recovery code: each works once, on all nodes together.
            passkey: The browser's response, empty if the factor is a code.
            challenge: The unused challenge that the browser was asked to sign.
            on_success: Receives the ``amr``; its result is returned.

        Raises:
            BadCredentials: The factor is wrong, which is recorded, or ``on_success`` refuses.
            Throttled: There were too many attempts.
        """
        attempt = self._admit(caller)
        try:
            with self._database.transaction():
                if passkey:
                    amr = self._use_passkey(caller, challenge, passkey)
                else:
                    amr = self._use_code(caller, code)
                result = on_success(amr)
        except BadCredentials:
            self._note_failure(caller)
            raise
        self._refund(attempt, caller.account_id or "")
        return result

    def _admit(self, caller: Caller) -> Attempt:
        try:
            return self._throttling.admit_code(caller.username, caller.address)
        except Throttled:
            try:
                self._audit.count_failed_login(caller.account_id, caller.address, throttled=True)
            except Unavailable:
                _log.warning("a failed login was not counted: the database is not available")
            raise

    def _refund(self, attempt: Attempt, account_id: str) -> None:
        try:
            self._throttling.refund([attempt], account_id)
        except Unavailable:  # it still counts as a wrong attempt, which only uses up the allowance
            _log.warning("a correct code still counts as wrong: the database is not available")

    def _use_code(self, caller: Caller, code: str) -> tuple[str, ...]:
        for factor in self._store.of_account(caller.account_id or ""):
            if self._is_used(factor, code):
                self._audit.record(
                    caller, "second_factor.use", _target(factor), after=_shown(factor)
                )
                return BY_CODE
        raise BadCredentials("The code is wrong, or it was used already.")

    def _use_passkey(
        self, caller: Caller, challenge: bytes | None, response: str
    ) -> tuple[str, ...]:
        if challenge is None or self._party is None:
            raise BadCredentials(_NO_CHALLENGE)
        factors = self._passkeys(caller.account_id or "")
        shown, amr = passkeys.verify_shown(
            self._party,
            response,
            account_id=caller.account_id or "",
            challenge=challenge,
            registered=[each for _, each in factors],
        )
        (factor,) = [
            factor for factor, each in factors if each.credential_id == shown.credential_id
        ]
        if not self._store.use_passkey(factor.id, shown.sign_count, now=int(self._clock())):
            raise BadCredentials(_NO_CHALLENGE)
        self._audit.record(caller, "second_factor.use", _target(factor), after=_shown(factor))
        return amr

    def _note_failure(self, caller: Caller) -> None:
        """Record a wrong code, in such a way that a flood of them adds few rows."""
        try:
            self._audit.refuse(
                caller, "second_factor.failed", target(caller.account_id or ""), after={}
            )
        except Unavailable:
            _log.warning("a wrong code was not recorded: the database is not available")

    def rewrap(self) -> int:
        """Encrypt all secrets under the first secret key; returns their number."""
        with self._database.transaction():
            sealed = self._store.sealed()
            for factor in sealed:
                plain = self._safe.open(factor.sealed or b"", name=_name(factor.id))
                self._store.reseal(factor.id, self._safe.seal(plain, name=_name(factor.id)))
        return len(sealed)

    def _is_used(self, factor: SecondFactor, code: str) -> bool:
        now = self._clock()
        if factor.kind is FactorKind.RECOVERY_CODES:
            digest = one_time_codes.digest(code, factor.id)
            return self._store.use_code(factor.id, digest, now=int(now))
        if factor.sealed is None:  # a passkey
            return False
        secret = self._safe.open(factor.sealed, name=_name(factor.id)).decode()
        step = one_time_codes.matching_step(secret, code, now)
        if step is None:
            return False
        latest = one_time_codes.step_at(now + clocks.APART) + one_time_codes.OFF
        return self._store.use_step(factor.id, step, latest=latest, now=int(now))

    def _add(
        self,
        caller: Caller,
        session: ConsoleSession,
        factor: SecondFactor,
        *,
        amr: Sequence[str],
        step: int | None = None,
    ) -> Added:
        account = self._accounts.locked(session.account_id)
        if len(self._store.of_account(account.id)) >= _MOST:
            raise Conflict("kind", f"An account has at most {_MOST} second factors.")
        is_first = not self._store.is_enrolled(account.id)
        self._store.add(factor, step=step)
        self._record(caller, factor)
        self._end_logins(account.id, except_for=session.id)
        # SECURITY: a thief of the old cookie has shown no factor, so it gets a new secret.
        secret = new_secret()
        self._sessions.raise_to(session.id, amr, digest_of(secret))
        return Added(self._make_codes(caller, account.id) if is_first else None, secret)

    def _make_codes(self, caller: Caller, account_id: str) -> list[str]:
        for factor in self._store.of_account(account_id):
            if factor.kind is FactorKind.RECOVERY_CODES:
                self._remove(caller, factor)
        factor = SecondFactor(
            id=new_id(),
            account_id=account_id,
            kind=FactorKind.RECOVERY_CODES,
            name="Recovery codes",
            created_at=int(self._clock()),
        )
        codes = one_time_codes.new_recovery_codes()
        self._store.add(factor)
        self._store.add_codes(factor.id, [one_time_codes.digest(code, factor.id) for code in codes])
        self._record(caller, factor)
        return codes

    def _record(self, caller: Caller, factor: SecondFactor) -> None:
        self._audit.record(caller, "second_factor.create", _target(factor), after=_shown(factor))

    def _remove(self, caller: Caller, factor: SecondFactor) -> None:
        self._store.remove(factor.id)
        self._audit.record(caller, "second_factor.delete", _target(factor), before=_shown(factor))

    def _end_logins(self, account_id: str, *, except_for: str = "") -> None:
        self._sessions.remove_of_account(account_id, except_for=except_for)
        self._pending.remove_of_account(account_id)

    def _passkeys(self, account_id: str) -> list[tuple[SecondFactor, Passkey]]:
        factors = self._store.of_account(account_id)
        return [(factor, factor.passkey) for factor in factors if factor.passkey is not None]

    def _relying_party(self) -> RelyingParty:
        if self._party is None:
            raise NotFound("Browsers know no passkeys for an IP address: give Keyosk a name.")
        return self._party

    def _sealed(self, session: ConsoleSession, name: str, secret: str) -> str:
        faults = Faults()
        faults.text("name", name, longest=LONGEST_NAME, required=True)
        faults.raise_if_any()
        offered = {"id": new_id(), "name": name, "secret": secret, "at": int(self._clock())}
        return self._safe.seal(json.dumps(offered).encode(), name=_offer_name(session)).hex()

    def _opened(self, session: ConsoleSession, sealed: str) -> dict[str, Any]:
        try:
            opened = self._safe.open(bytes.fromhex(sealed), name=_offer_name(session))
        except (ValueError, WrongSecretKey):
            raise Invalid.field("offer", "belongs to another session: begin again") from None
        offered: dict[str, Any] = json.loads(opened)
        if not clocks.is_recent(offered["at"], self._clock(), _OFFERED):
            raise Invalid.field("offer", "was made more than ten minutes ago: begin again")
        return offered


def _name(factor_id: str) -> str:
    """Return the name that is bound to an encrypted secret."""
    return f"second factor/{factor_id}"


def _offer_name(session: ConsoleSession) -> str:
    return f"second factor of session/{session.id}"


def _target(factor: SecondFactor) -> str:
    return f"{target(factor.account_id)}/second-factor/{factor.id}"


def _shown(factor: SecondFactor) -> Mapping[str, Any]:
    return {"kind": factor.kind.value, "name": factor.name}
