"""Finds the steps from the present state to that of a manifest. It only reads."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from keyosk.accounts import accounts as account_rules
from keyosk.accounts.accounts import Accounts
from keyosk.accounts.grants import Grants
from keyosk.apply.manifest import (
    Action,
    GrantName,
    Manifest,
    ManifestEntry,
    Noun,
    Step,
    by_name,
    issuer_and_name,
    name_of,
    username_of,
)
from keyosk.apply.ownership import Ownership
from keyosk.errors import NotFound
from keyosk.ids import is_id
from keyosk.merge_patch import is_same, merge_patch
from keyosk.model import Account, Grant, Role, Service, TrustedIssuer, WorkloadRule
from keyosk.permissions import roles as role_rules
from keyosk.permissions import services as service_rules
from keyosk.permissions.roles import Roles
from keyosk.permissions.services import Services
from keyosk.storage.manifest_records import ManifestRecord, ManifestRecordStore, RecordedObject
from keyosk.workloads import issuers as issuer_rules
from keyosk.workloads import rules as workload_rules
from keyosk.workloads.issuers import TrustedIssuers
from keyosk.workloads.rules import WorkloadRules

_OBJECTS: Final = ("claims", "metadata")
#: Compared as JSON, because to Python ``true`` and 1 are equal.
_AS_JSON: Final = (*_OBJECTS, "keys")


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in the order of the manifest.

    ``taken_over``: the objects that become this owner's (nobody's, if it is empty); ``stale``:
    records of objects that no longer exist.
    """

    steps: tuple[Step, ...]
    taken_over: tuple[ManifestRecord, ...]
    stale: tuple[ManifestRecord, ...]


class Planner:
    """Compares a manifest with the present state."""

    def __init__(
        self,
        store: ManifestRecordStore,
        *,
        services: Services,
        roles: Roles,
        accounts: Accounts,
        grants: Grants,
        issuers: TrustedIssuers,
        workload_rules: WorkloadRules,
    ) -> None:
        self._store = store
        self._services = services
        self._roles = roles
        self._accounts = accounts
        self._grants = grants
        self._issuers = issuers
        self._workload_rules = workload_rules

    def plan(self, manifest: Manifest, *, take_over: bool) -> Plan:
        """Return the steps that lead to the state of the manifest.

        ``take_over``: objects of another owner become this owner's. Raises ``Invalid`` for objects
        that the manifest may not contain.
        """
        manifest.check()
        recorded = self._store.all()
        ownership = Ownership(recorded, manifest.owner, take_over=take_over)
        steps = [
            *(self._service(ownership, each) for each in manifest.services),
            *(self._role(ownership, each) for each in manifest.roles),
            *(self._account(ownership, each) for each in manifest.accounts),
            *(self._granted(ownership, manifest, each) for each in manifest.grants),
            *(self._issuer(ownership, each) for each in manifest.issuers),
            *(self._rule(ownership, each) for each in manifest.rules),
        ]
        if manifest.prune:
            steps.extend(self._left_over(ownership, manifest))
        ownership.faults.raise_if_any()
        return Plan(
            tuple(step for step in steps if step is not None),
            tuple(ownership.taken_over),
            tuple(item.record for item in recorded if self._is_gone(item)),
        )

    def _service(self, ownership: Ownership, entry: ManifestEntry) -> Step | None:
        desired = _resolved(entry.fields, service_rules.RESET)
        if "scopes" in desired:
            desired["scopes"] = tuple(sorted(desired["scopes"], key=lambda scope: scope.name))
        service = _existing(self._services.get, entry.name)
        current = {} if service is None else _service_fields(service)
        return _compared(ownership, Noun.SERVICE, entry, pair=_Pair(service, current, desired))

    def _role(self, ownership: Ownership, entry: ManifestEntry) -> Step | None:
        desired = _resolved(entry.fields, role_rules.RESET)
        if "scopes" in desired:
            desired["scopes"] = tuple(sorted(set(desired["scopes"])))
        role = _existing(self._roles.get, entry.name)
        current = {} if role is None else _role_fields(role)
        return _compared(ownership, Noun.ROLE, entry, pair=_Pair(role, current, desired))

    def _account(self, ownership: Ownership, entry: ManifestEntry) -> Step | None:
        desired = _resolved(entry.fields, account_rules.RESET)
        for name in _OBJECTS:
            if name in desired:
                desired[name] = merge_patch({}, desired[name])  # then none of its members is null
        account = _existing(self._accounts.get, entry.name)
        current = {} if account is None else account_rules.fields_of(account)
        if account is not None and "grants" in desired:
            _, granted = self._grants.of(account.id)
            current["grants"] = ownership.owned_grants(
                entry, account.id, granted, desired=desired["grants"]
            )
        return _compared(ownership, Noun.ACCOUNT, entry, pair=_Pair(account, current, desired))

    def _issuer(self, ownership: Ownership, entry: ManifestEntry) -> Step | None:
        issuer = _existing(self._issuers.get, entry.name)
        if issuer is None:  # the preset fills in the missing fields
            desired = {n: value for n, value in entry.fields.items() if value is not None}
            return _compared(ownership, Noun.ISSUER, entry, pair=_Pair(None, {}, desired))
        desired = _resolved(_without(entry.fields, "preset"), issuer_rules.RESET)
        preset = entry.fields.get("preset")
        if preset not in (None, issuer.preset):
            ownership.faults.add(
                f"{entry.path}.preset", "cannot be changed: delete the issuer, or leave it out"
            )
        pair = _Pair(issuer, issuer_rules.fields_of(issuer), desired)
        return _compared(ownership, Noun.ISSUER, entry, pair=pair)

    def _rule(self, ownership: Ownership, entry: ManifestEntry) -> Step | None:
        desired = _resolved(entry.fields, workload_rules.RESET)
        desired["account"] = username_of(desired["account"])
        rule = self._existing_rule(entry.name)
        current = {} if rule is None else workload_rules.fields_of(rule)
        return _compared(ownership, Noun.RULE, entry, pair=_Pair(rule, current, desired))

    def _existing_rule(self, name: str) -> WorkloadRule | None:
        try:
            return self._workload_rules.get(*issuer_and_name(name))
        except NotFound:
            return None

    def _granted(
        self, ownership: Ownership, manifest: Manifest, entry: ManifestEntry
    ) -> Step | None:
        """Return the step for grants that the manifest lists separately from their account."""
        account = _existing(self._accounts.get, entry.name)
        desired: tuple[Grant, ...] = entry.fields["grants"]
        if account is None:  # an earlier step creates it, or this step will be refused
            return _grants_step(entry.name, entry.path, {}, desired=desired, dropped=())
        current = by_name(self._grants.of(account.id)[1])
        ownership.owned_grants(entry, account.id, current.values(), desired=desired, apart=True)
        dropped = []
        if manifest.prune:
            dropped = [
                current[name]
                for name in ownership.owned_grant_names(account.id) - by_name(desired).keys()
                if name in current
            ]
        return _grants_step(entry.name, entry.path, current, desired=desired, dropped=dropped)

    def _left_over(self, ownership: Ownership, manifest: Manifest) -> Iterator[Step]:
        """Return the objects that an earlier manifest of this owner created and this one lacks."""
        ruled = {
            username_of(each.name)
            for each in (*manifest.accounts, *manifest.grants)
            if "grants" in each.fields
        }
        pruned = set()
        for noun, item in ownership.left_out():
            if noun is Noun.SERVICE:
                before: Mapping[str, Any] = _service_fields(
                    self._services.get(item.record.object_id)
                )
            elif noun is Noun.ROLE:
                before = _role_fields(self._roles.get(item.role or ""))
            elif noun is Noun.ISSUER:
                before = issuer_rules.fields_of(self._issuers.get(item.record.object_id))
            elif noun is Noun.RULE:
                rule = self._workload_rules.get(*issuer_and_name(item.rule or ""))
                before = workload_rules.fields_of(rule)
            else:
                before = account_rules.fields_of(self._accounts.get(item.record.object_id))
                pruned.add(item.record.object_id)
            name = item.service or item.role or item.account or item.issuer or item.rule or ""
            yield Step(action=Action.DELETE, noun=noun, name=name, path="prune", before=before)
        for account_id, username in ownership.accounts_with_grants().items():
            if username in ruled or account_id in pruned:
                continue
            current = by_name(self._grants.of(account_id)[1])
            owned = ownership.owned_grant_names(account_id)
            dropped = [current[name] for name in owned if name in current]
            step = _grants_step(username, "prune", current, desired=(), dropped=dropped)
            if step is not None:
                yield step

    def _is_gone(self, item: RecordedObject) -> bool:
        names = (item.service, item.role, item.account, item.issuer, item.rule)
        if all(name is None for name in names):
            return True
        grant = (item.record.scope or None, item.record.role or None)
        return item.is_grant and grant not in by_name(self._grants.of(item.record.object_id)[1])


@dataclass(frozen=True, slots=True)
class _Pair:
    """An object, if it exists, and the fields that it has and should have."""

    existing: Service | Role | Account | TrustedIssuer | WorkloadRule | None
    current: Mapping[str, Any]
    desired: Mapping[str, Any]


def _compared(
    ownership: Ownership, noun: Noun, entry: ManifestEntry, *, pair: "_Pair"
) -> Step | None:
    """Return the step for an object, if it needs one."""
    if pair.existing is None:
        return Step(
            action=Action.CREATE,
            noun=noun,
            name=entry.name,
            path=entry.path,
            after=pair.desired,
        )
    differing = [
        name for name, value in pair.desired.items() if not _equal(name, pair.current[name], value)
    ]
    before = {name: pair.current[name] for name in differing}
    after = {name: pair.desired[name] for name in differing}
    owners = ownership.claim(entry, pair.existing.id)
    if owners is not None:
        before["owner"], after["owner"] = owners
    if not after:
        return None
    return Step(
        action=Action.CHANGE,
        noun=noun,
        name=entry.name,
        path=entry.path,
        before=before,
        after=after,
    )


def _grants_step(
    username: str,
    path: str,
    current: Mapping[GrantName, Grant],
    *,
    desired: Iterable[Grant],
    dropped: Iterable[Grant],
) -> Step | None:
    added = tuple(grant for grant in desired if current.get(name_of(grant)) != grant)
    replaced = [current[name_of(grant)] for grant in added if name_of(grant) in current]
    taken = tuple(_sorted([*replaced, *dropped]))
    if not added and not taken:
        return None
    return Step(
        action=Action.CHANGE,
        noun=Noun.GRANTS,
        name=username,
        path=path,
        before={"grants": taken},
        after={"grants": added},
    )


def _resolved(fields: Mapping[str, Any], reset: Mapping[str, Any]) -> dict[str, Any]:
    return {name: reset.get(name) if value is None else value for name, value in fields.items()}


def _without(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return {field: value for field, value in fields.items() if field != name}


def _existing(get: Callable[[str], Any], name: str) -> Any:
    """Return the object with this name, or ``None``. A manifest never uses ids."""
    if is_id(name):
        return None
    try:
        return get(name)
    except NotFound:
        return None


def _service_fields(service: Service) -> dict[str, Any]:
    return {
        name: getattr(service if hasattr(service, name) else service.policy, name)
        for name in (*service_rules.fields_of(service), "scopes")
    }


def _role_fields(role: Role) -> dict[str, Any]:
    return {"name": role.name, "description": role.description, "scopes": role.scopes}


def _equal(name: str, one: Any, other: Any) -> bool:
    if name == "grants":
        return set(one) == set(other)
    return is_same(one, other) if name in _AS_JSON else bool(one == other)


def _sorted(grants: Iterable[Grant]) -> list[Grant]:
    return sorted(grants, key=lambda grant: (grant.role or "", grant.scope or ""))
