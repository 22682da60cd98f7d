"""Workload rules: which tokens of an issuer log in as which account."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Unpack

from keyosk.audit import changed_fields
from keyosk.errors import Invalid, NotFound
from keyosk.ids import new_id, new_version
from keyosk.model import (
    NAME,
    Account,
    Caller,
    ClaimValues,
    Kind,
    ListQuery,
    RuleChanges,
    RuleFields,
    TrustedIssuer,
    Versions,
    WorkloadRule,
)
from keyosk.permissions import entitlements, scope_names
from keyosk.permissions.context import Context
from keyosk.storage.stores import Stores
from keyosk.validation import LONGEST_TEXT, Faults, check_version
from keyosk.workloads.issuers import (
    LOCK,
    TrustedIssuers,
    check_claim_names,
)

_MOST_VALUES: Final = 50
_LONGEST_VALUE: Final = 500
RESET: Final[Mapping[str, Any]] = {
    "description": "",
    "scopes": None,
    "once": False,
    "enabled": True,
    "expires_at": None,
}
_FIELDS: Final = ("name", "claims", "account", *RESET)


class WorkloadRules:
    """What an admin does with the rules of an issuer. Every write is one transaction."""

    def __init__(self, context: Context, stores: Stores, issuers: TrustedIssuers) -> None:
        self._database = context.database
        self._safeguards = context.safeguards
        self._revocations = context.revocations
        self._audit = context.audit
        self._clock = context.clock
        self._workload_rules = stores.workload_rules
        self._accounts = stores.accounts
        self._services = stores.services
        self._issuers = issuers

    def create(
        self,
        caller: Caller,
        reference: str,
        *,
        name: str,
        claims: ClaimValues,
        account: str,
        **values: Unpack[RuleFields],
    ) -> WorkloadRule:
        """Create a rule: tokens with these claims log in as this account.

        Raises ``Invalid``, ``NotFound``, ``Conflict``, ``RefusedByRule``.
        """
        now, rule_id = int(self._clock()), new_id()
        with self._database.transaction():
            self._database.lock(LOCK)
            issuer = self._issuers.get(reference)
            owner = self._account(account)
            fields: dict[str, Any] = {**RESET, **values}
            rule = WorkloadRule(
                id=rule_id,
                issuer_id=issuer.id,
                name=name,
                claims=claims,
                account=owner.username,
                account_id=owner.id,
                **fields,
                last_used_at=None,
                created_at=now,
                updated_at=now,
                version=new_version(),
            )
            self._check(caller, issuer, rule, expires_after=now)
            self._guard(caller, rule)
            self._workload_rules.add(rule)
            self._audit.record(caller, "rule.create", _target(issuer, rule), after=fields_of(rule))
        return rule

    def get(self, reference: str, name: str) -> WorkloadRule:
        """Return a rule of an issuer by its name. Raises ``NotFound``."""
        return self._of(self._issuers.get(reference), name)

    def page(self, reference: str, list_query: ListQuery) -> list[WorkloadRule]:
        """Return a page of the rules of an issuer. Raises ``NotFound``."""
        return self._workload_rules.page(self._issuers.get(reference).id, list_query)

    def count(self, reference: str, list_query: ListQuery) -> int:
        """Return how many rules of an issuer pass the filters of a listing."""
        return self._workload_rules.count(self._issuers.get(reference).id, list_query)

    def change(  # noqa: PLR0917  # a rule has two names: its issuer and its own name
        self,
        caller: Caller,
        reference: str,
        name: str,
        patch: RuleChanges,
        *,
        version: Versions | None = None,
    ) -> WorkloadRule:
        """Apply a merge patch (RFC 7396).

        A change that takes rights away revokes the tokens of logins by the rule. Raises
        ``Invalid``, ``NotFound``, ``Conflict``, ``Stale``, ``RefusedByRule``.
        """
        now = int(self._clock())
        with self._database.transaction():
            self._database.lock(LOCK)
            issuer = self._issuers.get(reference)
            rule = self._of(issuer, name)
            for field in ("name", "claims", "account"):
                if patch.get(field, "") is None:
                    raise Invalid.field(field, "cannot be removed")
            changes: dict[str, Any] = {
                field: RESET.get(field) if value is None else value
                for field, value in patch.items()
            }
            if "claims" in changes:  # by member (RFC 7396)
                merged = {**rule.claims, **changes["claims"]}
                changes["claims"] = {n: each for n, each in merged.items() if each is not None}
            if "account" in changes:
                owner = self._account(changes["account"])
                changes |= {"account": owner.username, "account_id": owner.id}
            after = replace(rule, **changes)
            self._check(caller, issuer, after, expires_after=None)
            self._guard(caller, rule)
            self._guard(caller, after)
            if after == rule:
                return check_version(rule, version)
            effective_at = None
            if self._takes_away(rule, after):
                effective_at = self._revocations.revoke_workload_rule(rule.id, rule.account_id)
            number = self._workload_rules.change(after, now=now, version=version)
            old, new = changed_fields(fields_of(rule), fields_of(after))
            self._audit.record(caller, "rule.change", _target(issuer, rule), before=old, after=new)
            return replace(after, updated_at=now, version=number, effective_at=effective_at)

    def remove(
        self, caller: Caller, reference: str, name: str, *, version: Versions | None = None
    ) -> int:
        """Delete a rule.

        Returns when all tokens of logins by it have expired. Raises ``NotFound``, ``Stale``,
        ``RefusedByRule``.
        """
        with self._database.transaction():
            self._database.lock(LOCK)
            issuer = self._issuers.get(reference)
            rule = self._of(issuer, name)
            self._guard(caller, rule)
            effective_at = self._revocations.revoke_workload_rule(rule.id, rule.account_id)
            self._workload_rules.remove(rule.id, version=version)
            self._audit.record(caller, "rule.delete", _target(issuer, rule), before=fields_of(rule))
            return effective_at

    def _of(self, issuer: TrustedIssuer, name: str) -> WorkloadRule:
        if not NAME.fullmatch(name):
            raise NotFound("This issuer has no such rule.")
        return self._workload_rules.by_name(issuer.id, name)

    def _account(self, username: str) -> Account:
        try:
            account = self._accounts.by_username(username)
        except NotFound:
            raise Invalid.field("account", "there is no such account") from None
        if account.kind is not Kind.MACHINE:
            raise Invalid.field("account", "must be an account of the kind machine")
        return account

    def _guard(self, caller: Caller, rule: WorkloadRule) -> None:
        """SECURITY: a caller who creates a rule can log in as its account (safeguard 2)."""
        self._safeguards.not_by_api_key(caller)
        self._safeguards.not_oneself(caller, rule.account_id)
        self._safeguards.may_change(caller, rule.account_id)

    def _takes_away(self, before: WorkloadRule, after: WorkloadRule) -> bool:
        return (
            before.enabled > after.enabled
            or before.account_id != after.account_id
            or before.claims != after.claims
            or self._revocations.cuts_short(before.expires_at, after.expires_at)
            or entitlements.is_narrower(after.scopes, before.scopes)
        )

    def _check(
        self,
        caller: Caller,
        issuer: TrustedIssuer,
        rule: WorkloadRule,
        *,
        expires_after: int | None,
    ) -> None:
        faults = Faults()
        faults.name(rule.name)
        faults.text("description", rule.description, longest=LONGEST_TEXT)
        faults.time("expires_at", rule.expires_at, after=expires_after)
        check_claim_names(faults, "claims", tuple(rule.claims))
        missing = [name for name in issuer.required_claims if name not in rule.claims]
        if missing:
            faults.add("claims", f"must name {', '.join(missing)}, as every rule of this issuer")
        elif not rule.claims:
            faults.add("claims", "must name at least one claim")
        for name, values in rule.claims.items():
            _check_values(faults, name, values, issuer=issuer)
        scope_names.check(faults, rule.scopes or (), services=self._services, caller=caller)
        faults.raise_if_any()
        self._workload_rules.check_name(rule)


def _check_values(
    faults: Faults, name: str, values: tuple[str | int | bool, ...], *, issuer: TrustedIssuer
) -> None:
    field, is_open = f"claims.{name}", name in issuer.prefix_claims
    if not 1 <= len(values) <= _MOST_VALUES:
        faults.add(field, f"must have 1 to {_MOST_VALUES} values")
    for value in values:
        if not isinstance(value, str):
            continue
        if not value or len(value) > _LONGEST_VALUE or not value.isprintable():
            message = f"must be 1 to {_LONGEST_VALUE} printable characters"
            faults.add(field, message, item=value)
        elif "*" in value and not (is_open and value.find("*") == len(value) - 1 > 0):
            faults.add(
                field,
                "may end with * in prefix_claims of the issuer only, and have it nowhere else",
                item=value,
            )
        elif value.endswith("*") and name in issuer.required_claims and value[-2] != "/":
            # SECURITY: a claim with an identity must end with a whole segment: shop* matches
            # shopping.
            message = "must have a / before the *, as this claim says who the workload is"
            faults.add(field, message, item=value)


def _target(issuer: TrustedIssuer, rule: WorkloadRule) -> str:
    return f"issuer/{issuer.name}/rule/{rule.name}"


def fields_of(rule: WorkloadRule) -> dict[str, Any]:
    """Return the fields that may be changed, as plain values."""
    return {name: getattr(rule, name) for name in _FIELDS}
