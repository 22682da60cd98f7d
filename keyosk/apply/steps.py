"""Executes single steps, by kind of object, with the methods that the REST API calls.

``executor`` has what all steps share: their order, their locks and their faults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from keyosk.accounts.accounts import Accounts
from keyosk.accounts.grants import Grants
from keyosk.apply.manifest import Action, Noun, Step, by_name, issuer_and_name
from keyosk.merge_patch import merge_difference
from keyosk.model import (
    AccountChanges,
    Caller,
    IssuerChanges,
    RoleChanges,
    RuleChanges,
    ServiceChanges,
    SigningKey,
)
from keyosk.permissions.roles import Roles
from keyosk.permissions.services import Services
from keyosk.revocations import latest
from keyosk.storage.manifest_records import ManifestRecord, ManifestRecordStore
from keyosk.workloads.issuers import TrustedIssuers
from keyosk.workloads.rules import WorkloadRules

#: New signing keys by algorithm; ``None`` where none is needed.
Drafts = Mapping[str | None, SigningKey | None]
#: The fields of an issuer that say what its rules may be.
_OF_RULES: Final = ("required_claims", "prefix_claims")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What all steps of one execution share.

    ``owner``: that of the manifest. ``force``: delete also what objects outside of the manifest
    use.
    """

    caller: Caller
    owner: str | None
    force: bool
    drafts: Drafts


class ObjectSteps(Protocol):
    """The steps of one kind of object; the last two return ``effective_at``."""

    def id_of(self, name: str) -> str:
        """Return the id of an existing object."""

    def create(self, run: Run, step: Step) -> str:
        """Create an object; returns its id."""

    def change(self, run: Run, step: Step) -> int | None:
        """Change what differs; nothing if only the owner does."""

    def remove(self, run: Run, step: Step) -> int | None:
        """Delete an object."""


class ServiceSteps:
    """Steps for services.

    A scope goes when everything else in the manifest has lost it: ``finish`` removes it.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def id_of(self, name: str) -> str:
        return self._services.get(name).id

    def create(self, run: Run, step: Step) -> str:
        return self._services.create(run.caller, name=step.name, **step.after).id

    def change(self, run: Run, step: Step) -> int | None:
        patch = _without(step.after, "owner")
        if loses_scopes(step):
            current = self._services.get(step.name).scopes
            desired = {scope.name: scope for scope in step.after["scopes"]}
            going = [scope for scope in current if scope.name not in desired]
            patch["scopes"] = (*desired.values(), *going)
            if set(patch["scopes"]) == set(current):
                del patch["scopes"]
        return self._patch(run, step, patch)

    def finish(self, run: Run, step: Step) -> int | None:
        return self._patch(run, step, {"scopes": step.after["scopes"]})

    def remove(self, run: Run, step: Step) -> int | None:
        return self._services.remove(run.caller, step.name, force=run.force)

    def _patch(self, run: Run, step: Step, patch: dict[str, Any]) -> int | None:
        if not patch:
            return None
        draft = run.drafts.get(patch.get("signing_algorithm"))
        return self._services.change(
            run.caller, step.name, cast(ServiceChanges, patch), force=run.force, draft=draft
        ).effective_at


class RoleSteps:
    """Steps for roles."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles

    def id_of(self, name: str) -> str:
        return self._roles.get(name).id

    def create(self, run: Run, step: Step) -> str:
        return self._roles.create(run.caller, name=step.name, **step.after).id

    def change(self, run: Run, step: Step) -> int | None:
        patch = _without(step.after, "owner")
        if not patch:
            return None
        return self._roles.change(run.caller, step.name, cast(RoleChanges, patch)).effective_at

    def remove(self, run: Run, step: Step) -> int | None:
        return self._roles.remove(run.caller, step.name, force=run.force)


class GrantSteps:
    """Steps for the grants of one account, which are changed only."""

    def __init__(self, grants: Grants, store: ManifestRecordStore) -> None:
        self._grants = grants
        self._store = store

    def change(self, run: Run, step: Step, *, owner: str | None) -> int | None:
        """Revoke ``before`` and give ``after``; grants of an owner are recorded as theirs."""
        taken, given = by_name(step.before["grants"]), by_name(step.after["grants"])
        account, _ = self._grants.change(
            run.caller,
            step.name,
            add=[grant for name, grant in given.items() if taken.get(name) != grant],
            remove=[grant for name, grant in taken.items() if name not in given],
        )
        self._store.forget(
            ManifestRecord("", account.id, scope or "", role or "")
            for scope, role in taken.keys() - given.keys()
        )
        if owner is not None:
            for scope, role in given.keys() - taken.keys():
                self._store.remember(ManifestRecord(owner, account.id, scope or "", role or ""))
        return account.effective_at


class AccountSteps:
    """Steps for accounts, with all of their grants where the manifest has these."""

    def __init__(self, accounts: Accounts, grants: Grants, grant_steps: GrantSteps) -> None:
        self._accounts = accounts
        self._grants = grants
        self._grant_steps = grant_steps

    def id_of(self, name: str) -> str:
        return self._accounts.get(name).id

    def create(self, run: Run, step: Step) -> str:
        fields = _without(step.after, "grants")
        grants = step.after.get("grants", ())
        return self._grants.create_account(run.caller, grants, username=step.name, **fields).id

    def change(self, run: Run, step: Step) -> int | None:
        account = self._accounts.get(step.name)
        patch = _without(step.after, "owner", "grants")
        for name in ("claims", "metadata"):
            if name in patch:
                patch[name] = merge_difference(getattr(account, name), patch[name])
        effective_at = None
        if patch:
            effective_at = self._accounts.change(
                run.caller, account.id, cast(AccountChanges, patch)
            ).effective_at
        if "grants" in step.after:
            # If the manifest has all grants of the account, they need no owner of their own.
            effective_at = latest(effective_at, self._grant_steps.change(run, step, owner=None))
        return effective_at

    def remove(self, run: Run, step: Step) -> int | None:
        return self._accounts.remove(run.caller, step.name)


class IssuerSteps:
    """Steps for issuers.

    New requirements for its rules take effect when the rules are as in the manifest: ``finish``
    sets them.
    """

    def __init__(self, issuers: TrustedIssuers) -> None:
        self._issuers = issuers

    def id_of(self, name: str) -> str:
        return self._issuers.get(name).id

    def create(self, run: Run, step: Step) -> str:
        return self._issuers.create(run.caller, name=step.name, **step.after).id

    def change(self, run: Run, step: Step) -> int | None:
        patch = _without(step.after, "owner")
        if binds_rules(step):
            # For now only the requirements that every present rule meets.
            current = self._issuers.get(step.name)
            if "required_claims" in patch:
                patch["required_claims"] = tuple(
                    name for name in patch["required_claims"] if name in current.required_claims
                )
            if "prefix_claims" in patch:
                both = (*patch["prefix_claims"], *current.prefix_claims)
                patch["prefix_claims"] = tuple(dict.fromkeys(both))
        return self._patch(run, step, patch)

    def finish(self, run: Run, step: Step) -> int | None:
        fields = {name: step.after[name] for name in _OF_RULES if name in step.after}
        return self._patch(run, step, fields)

    def remove(self, run: Run, step: Step) -> int | None:
        return self._issuers.remove(run.caller, step.name, force=run.force)

    def _patch(self, run: Run, step: Step, patch: dict[str, Any]) -> int | None:
        if not patch:
            return None
        return self._issuers.change(run.caller, step.name, cast(IssuerChanges, patch)).effective_at


class RuleSteps:
    """Steps for the rules of issuers."""

    def __init__(self, rules: WorkloadRules) -> None:
        self._rules = rules

    def id_of(self, name: str) -> str:
        return self._rules.get(*issuer_and_name(name)).id

    def create(self, run: Run, step: Step) -> str:
        issuer, name = issuer_and_name(step.name)
        return self._rules.create(run.caller, issuer, name=name, **step.after).id

    def change(self, run: Run, step: Step) -> int | None:
        issuer, name = issuer_and_name(step.name)
        patch = _without(step.after, "owner")
        if "claims" in patch:  # a merge patch adds members
            current = self._rules.get(issuer, name).claims
            patch["claims"] = {**dict.fromkeys(current), **patch["claims"]}
        if not patch:
            return None
        return self._rules.change(run.caller, issuer, name, cast(RuleChanges, patch)).effective_at

    def remove(self, run: Run, step: Step) -> int | None:
        return self._rules.remove(run.caller, *issuer_and_name(step.name))


def loses_scopes(step: Step) -> bool:
    """Return whether a service has fewer scopes than before."""
    if step.noun is not Noun.SERVICE or step.action is not Action.CHANGE:
        return False
    names = {scope.name for scope in step.after.get("scopes", ())}
    return any(scope.name not in names for scope in step.before.get("scopes", ()))


def binds_rules(step: Step) -> bool:
    """Return whether an issuer has stricter requirements for its rules than before."""
    if step.noun is not Noun.ISSUER or step.action is not Action.CHANGE:
        return False
    required, prefix = (
        [set(side.get(name, ())) for side in (step.before, step.after)] for name in _OF_RULES
    )
    return bool(required[1] - required[0] or prefix[0] - prefix[1])


def _without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}
