"""Logins by a token of a trusted issuer (RFC 7523 section 3)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from keyosk import delays
from keyosk.audit import Audit
from keyosk.credentials.authentication import caller_of
from keyosk.errors import InvalidGrant
from keyosk.keys.jws import Remembered
from keyosk.model import WORKLOAD_CLAIM, Principal, TrustedIssuer, WorkloadRule
from keyosk.permissions.context import Context
from keyosk.storage.stores import Stores
from keyosk.workloads import assertions, claims
from keyosk.workloads.assertions import Assertion
from keyosk.workloads.key_sets import KeySets, KeysUnavailable

#: The number of forwarded tokens that are remembered, so that each is recorded once.
_MOST_FORWARDED: Final = 10_000
_NOT_TRUSTED = "No issuer with this iss and audience is trusted here."
#: Seconds after its expiry for which a one-time token is remembered, because clocks may differ.
_REMEMBERED: Final = 60
_NO_RULE = "The token is valid, but no rule lets it log in."


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """A rule, and the claims in which a token differs from it; none if the token matches."""

    rule: WorkloadRule
    misses: Sequence[str]


@dataclass(frozen=True, slots=True)
class Examination:
    """The result of a login with a token, if there were one.

    Attributes:
        assertion: The token, if it could be verified.
        fault: Why it would be refused; ``None`` if it would not.
        rule: The rule that it would log in by.
        matches: The comparison with each rule.
    """

    assertion: Assertion | None
    fault: str | None
    rule: WorkloadRule | None
    matches: Sequence[RuleMatch]

    def found(self, name: str) -> Any:
        """Return the value of a claim of the token; ``None`` if it lacks it."""
        return None if self.assertion is None else claims.value(self.assertion.claims, name)


@dataclass(frozen=True, slots=True)
class WorkloadLogin:
    """A verified token, and the login that it proves."""

    principal: Principal
    rule: WorkloadRule
    issuer: TrustedIssuer
    assertion: Assertion


class WorkloadLogins:
    """Turns tokens of trusted issuers into logins, or raises ``InvalidGrant``."""

    def __init__(self, context: Context, stores: Stores, key_sets: KeySets, *, issuer: str) -> None:
        """``issuer``: Keyosk's own, whose tokens belong to no workload."""
        self._database = context.database
        self._revocations = context.revocations
        self._audit: Audit = context.audit
        self._clock = context.clock
        self._issuers = stores.issuers
        self._workload_rules = stores.workload_rules
        self._logins = stores.logins
        self._key_sets = key_sets
        self._own = issuer
        self._forwarded = Remembered(_MOST_FORWARDED)

    def by_assertion(self, text: str) -> WorkloadLogin:
        """Return the login that a token proves.

        Raises ``InvalidGrant``; ``KeysUnavailable`` if the keys of its issuer are unavailable.
        """
        delays.before_waiting()  # a login writes, and may have to fetch keys
        assertion = assertions.read(text)
        issuer = self._issuer(assertion)
        self._verify(assertion, issuer)
        rule = self._chosen(self._matches(issuer, assertion))
        now = int(self._clock())
        principal = self._logins.by_rule(rule.id, now)
        if principal is None or not _is_usable(principal, now):
            raise InvalidGrant("The account or the rule is disabled or has expired.")
        ends = [end for end in (principal.expires_at, assertion.expires_at) if end is not None]
        own = {**json.loads(principal.claims), WORKLOAD_CLAIM: _origin(assertion)}
        principal = replace(
            self._revocations.corrected(principal),
            expires_at=min(ends),
            claims=json.dumps(own),
        )
        return WorkloadLogin(principal, rule, issuer, assertion)

    def is_foreign(self, text: str) -> bool:
        """Return whether a text looks like a token of another issuer, without verifying it."""
        try:
            return assertions.read(text).issuer != self._own
        except InvalidGrant:
            return False

    def examine(self, issuer: TrustedIssuer, text: str) -> Examination:
        """Return what would happen if a workload showed this token of an issuer."""
        delays.before_waiting()
        try:
            assertion = assertions.read(text)
            if assertion.issuer != issuer.issuer or issuer.audience not in assertion.audiences:
                raise InvalidGrant(
                    f"The token must have the iss {issuer.issuer} and the aud {issuer.audience}."
                )
            self._verify(assertion, issuer)
        except InvalidGrant as error:
            return Examination(None, error.detail, None, ())
        except KeysUnavailable as error:
            return Examination(None, error.explanation, None, ())
        matches = self._matches(issuer, assertion)
        try:
            if not issuer.enabled:
                raise InvalidGrant("The issuer is disabled.")
            return Examination(assertion, None, self._chosen(matches), matches)
        except InvalidGrant as error:
            return Examination(assertion, error.detail, None, matches)

    def record(self, login: WorkloadLogin, *, address: str | None, request_id: str | None) -> None:
        """Record a login by a token. Raises ``InvalidGrant`` for a used one-time token.

        Call it before anything is issued for the login.
        """
        rule, assertion, now = login.rule, login.assertion, int(self._clock())
        with self._database.transaction():
            if rule.once:
                if assertion.id is None:
                    raise InvalidGrant("The rule accepts each token once, and it has no jti.")
                forgotten_at = assertion.expires_at + _REMEMBERED
                if not self._issuers.use(_digest(login), expires_at=forgotten_at, now=now):
                    raise InvalidGrant("The token has logged in before.")
            # SECURITY: after a rule is deleted or disabled, no token may be issued by it.
            if not self._workload_rules.record_use(rule, login.issuer, now):
                raise InvalidGrant("The rule or its issuer was changed just now.")
            caller = caller_of(login.principal, address=address, request_id=request_id)
            self._audit.record(
                caller,
                "workload.login",
                f"account/{login.principal.account_id}",
                after={"issuer": login.issuer.name, "rule": rule.name, **_origin(assertion)},
            )

    def record_forwarded(
        self, login: WorkloadLogin, *, address: str | None, request_id: str | None
    ) -> None:
        """Record a login by a token in a forwarded request.

        It is recorded once for all requests to this process, unless it is a one-time token. Raises
        ``InvalidGrant`` as ``record`` does.
        """
        digest = hashlib.sha256(login.assertion.text.encode()).digest()
        if login.rule.once or digest not in self._forwarded:
            self.record(login, address=address, request_id=request_id)
            self._forwarded.add(digest)

    def _issuer(self, assertion: Assertion) -> TrustedIssuer:
        issuers = [
            issuer
            for issuer in self._issuers.by_claim(assertion.issuer)
            if issuer.enabled and issuer.audience in assertion.audiences
        ]
        if len(issuers) != 1:
            raise InvalidGrant(_NOT_TRUSTED)
        return issuers[0]

    def _verify(self, assertion: Assertion, issuer: TrustedIssuer) -> None:
        keys = self._key_sets.candidates(issuer, assertion)
        if not assertions.is_signed(assertion, keys):
            self._key_sets.doubt(issuer)
            raise InvalidGrant("The token is not valid.")
        assertions.check_times(assertion, issuer, now=self._clock())

    def _matches(self, issuer: TrustedIssuer, assertion: Assertion) -> list[RuleMatch]:
        return [
            RuleMatch(rule, claims.misses(rule, assertion.claims, issuer.prefix_claims))
            for rule in self._workload_rules.of_issuer(issuer.id)
        ]

    def _chosen(self, matches: Sequence[RuleMatch]) -> WorkloadRule:
        """Return the rule that a token logs in by: the most specific one that matches.

        Raises ``InvalidGrant`` if none matches, or if they have different accounts.
        """
        now = int(self._clock())
        fitting = [
            match.rule for match in matches if not match.misses and _is_usable(match.rule, now)
        ]
        if not fitting:
            raise InvalidGrant(_NO_RULE)
        if len({rule.account_id for rule in fitting}) > 1:
            raise InvalidGrant("The token fits rules of more than one account.")
        return max(fitting, key=lambda rule: len(rule.claims))


def _origin(assertion: Assertion) -> dict[str, str]:
    """Return who signed a token, and for whom."""
    return {"iss": assertion.issuer, "sub": assertion.subject}


def _digest(login: WorkloadLogin) -> bytes:
    """Return the digest that identifies a used token.

    SECURITY: from its own claims, so that an issuer that is deleted and created again does not
    accept it a second time.
    """
    parts = (login.assertion.issuer, login.issuer.audience, login.assertion.id or "")
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _is_usable(item: Principal | WorkloadRule, now: int) -> bool:
    return item.enabled and (item.expires_at is None or item.expires_at > now)
