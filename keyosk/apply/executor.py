"""Executes a manifest: all its steps in one transaction. ``steps`` executes single steps."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from operator import itemgetter
from typing import Final

from keyosk.accounts.accounts import Accounts
from keyosk.accounts.grants import Grants
from keyosk.apply.manifest import Action, Manifest, Noun, Step
from keyosk.apply.planner import Plan, Planner
from keyosk.apply.steps import (
    AccountSteps,
    Drafts,
    GrantSteps,
    IssuerSteps,
    ObjectSteps,
    RoleSteps,
    RuleSteps,
    Run,
    ServiceSteps,
    binds_rules,
    loses_scopes,
)
from keyosk.errors import (
    Conflict,
    Forbidden,
    InsufficientScope,
    InUse,
    Invalid,
    NotFound,
    RefusedByRule,
    Stale,
)
from keyosk.model import ADMIN, Caller
from keyosk.permissions import roles as role_rules
from keyosk.permissions import services as service_rules
from keyosk.permissions.roles import Roles
from keyosk.permissions.services import Services
from keyosk.revocations import latest
from keyosk.storage.database import Database
from keyosk.storage.manifest_records import ManifestRecord, ManifestRecordStore
from keyosk.validation import Faults
from keyosk.workloads import issuers as issuer_rules
from keyosk.workloads.issuers import TrustedIssuers
from keyosk.workloads.rules import WorkloadRules

#: The lock for applying a manifest: one at a time. An earlier version that runs at the same time
#: takes it by this name.
_LOCK: Final = "declarations"

# An object is created before those that need it, and deleted after them. Scopes that a service
# loses are removed last, when roles and grants of the manifest no longer have them.
_ORDER: Final = {
    # Issuers are deleted first, because a new issuer may take over their ``iss``.
    (Action.DELETE, Noun.RULE): 0,
    (Action.DELETE, Noun.ISSUER): 1,
    (Action.CREATE, Noun.SERVICE): 2,
    (Action.CHANGE, Noun.SERVICE): 2,
    (Action.CREATE, Noun.ROLE): 3,
    (Action.CHANGE, Noun.ROLE): 3,
    (Action.CREATE, Noun.ACCOUNT): 4,
    (Action.CHANGE, Noun.ACCOUNT): 4,
    (Action.CHANGE, Noun.GRANTS): 5,
    (Action.CREATE, Noun.ISSUER): 6,
    (Action.CHANGE, Noun.ISSUER): 6,
    (Action.CREATE, Noun.RULE): 7,
    (Action.CHANGE, Noun.RULE): 7,
    (Action.DELETE, Noun.ACCOUNT): 9,
    (Action.DELETE, Noun.ROLE): 10,
    (Action.DELETE, Noun.SERVICE): 12,
}
#: An issuer gets new requirements for its rules once the rules are as in the manifest.
_BIND_RULES: Final = 8
_REMOVE_SCOPES: Final = 11
#: The fields of an account's grants, as faults name them.
_GRANT_FIELDS: Final = ("scopes", "roles", "until")
#: The scope of Keyosk's own that each kind of object requires, as at its own endpoint.
_SCOPES: Final[Mapping[Noun, str]] = {
    Noun.SERVICE: "keyosk:services:write",
    Noun.ROLE: "keyosk:services:write",
    Noun.ACCOUNT: "keyosk:accounts:write",
    Noun.GRANTS: "keyosk:grants:write",
    Noun.ISSUER: "keyosk:services:write",
    Noun.RULE: "keyosk:services:write",
}


class _RollBack(Exception):
    """Rolls back the transaction of a plan."""


class Manifests:
    """Plans and applies manifests. Each change is made by the caller, under the usual rules.

    ``force`` deletes services and roles even if objects outside of the manifest use them.
    ``take_over`` makes objects of other owners this owner's; it needs ``keyosk:admin``.
    """

    def __init__(
        self,
        database: Database,
        store: ManifestRecordStore,
        *,
        services: Services,
        roles: Roles,
        accounts: Accounts,
        grants: Grants,
        issuers: TrustedIssuers,
        workload_rules: WorkloadRules,
    ) -> None:
        self._database = database
        self._store = store
        self._services = services
        self._accounts = accounts
        self._grant_steps = GrantSteps(grants, store)
        self._service_steps = ServiceSteps(services)
        self._issuer_steps = IssuerSteps(issuers)
        self._steps: Final[Mapping[Noun, ObjectSteps]] = {
            Noun.SERVICE: self._service_steps,
            Noun.ROLE: RoleSteps(roles),
            Noun.ACCOUNT: AccountSteps(accounts, grants, self._grant_steps),
            Noun.ISSUER: self._issuer_steps,
            Noun.RULE: RuleSteps(workload_rules),
        }
        self._planner = Planner(
            store,
            services=services,
            roles=roles,
            accounts=accounts,
            grants=grants,
            issuers=issuers,
            workload_rules=workload_rules,
        )

    def plan(
        self, caller: Caller, manifest: Manifest, *, force: bool = False, take_over: bool = False
    ) -> tuple[Step, ...]:
        """Return the steps that ``apply`` would take now, without a change.

        They are executed and rolled back, so the plan fails where ``apply`` would: it raises the
        same. Do not call it in a transaction, which would keep the changes.
        """
        _check_scopes(caller, manifest, take_over=take_over)
        plan = self._planner.plan(manifest, take_over=take_over)
        if plan.steps:
            try:
                with self._drafted_keys(plan) as drafts, self._database.transaction():
                    plan = self._execute(
                        caller, manifest, force=force, take_over=take_over, drafts=drafts
                    )
                    raise _RollBack
            except _RollBack:
                pass
        return plan.steps

    @contextmanager
    def draft_keys(
        self, caller: Caller, manifest: Manifest, *, take_over: bool
    ) -> Iterator[Drafts]:
        """Generate the signing keys that ``apply`` will apparently need, before a transaction.

        Raises as ``apply`` does.
        """
        _check_scopes(caller, manifest, take_over=take_over)
        plan = self._planner.plan(manifest, take_over=take_over)
        with self._drafted_keys(plan) as drafts:
            yield drafts

    def apply(
        self,
        caller: Caller,
        manifest: Manifest,
        *,
        force: bool = False,
        take_over: bool = False,
        drafts: Drafts | None = None,
    ) -> tuple[Step, ...]:
        """Apply a manifest; returns the steps that were taken.

        ``drafts``: the result of ``draft_keys``, for callers with an open transaction. Raises
        ``Invalid`` with all faults, by path, ``Forbidden``, ``Unavailable``; then nothing has
        changed.
        """
        _check_scopes(caller, manifest, take_over=take_over)
        plan = self._planner.plan(manifest, take_over=take_over)
        if plan.steps or plan.stale or plan.taken_over:
            with ExitStack() as stack:
                if drafts is None:
                    drafts = stack.enter_context(self._drafted_keys(plan))
                stack.enter_context(self._database.transaction())
                plan = self._execute(
                    caller, manifest, force=force, take_over=take_over, drafts=drafts
                )
        return plan.steps

    @contextmanager
    def _drafted_keys(self, plan: Plan) -> Iterator[Drafts]:
        """Generate the signing keys that the steps will publish, before any transaction."""
        with ExitStack() as stack:
            algorithms = {
                step.after.get("signing_algorithm")
                for step in plan.steps
                if step.noun is Noun.SERVICE and step.action is Action.CHANGE
            }
            yield {
                algorithm: stack.enter_context(self._services.draft_key(algorithm))
                for algorithm in algorithms
            }

    def _execute(
        self,
        caller: Caller,
        manifest: Manifest,
        *,
        force: bool,
        take_over: bool,
        drafts: Drafts,
    ) -> Plan:
        """Plan again under the lock and execute the steps, inside a transaction."""
        self._database.lock(_LOCK)
        plan = self._planner.plan(manifest, take_over=take_over)
        # SECURITY: the manifest does not name the objects that ``prune`` deletes.
        _require_scopes(caller, {step.noun for step in plan.steps})
        self._lock(plan)
        self._store.forget(plan.stale)
        for record in plan.taken_over:
            self._record_owner(record.owner or None, record)
        run = Run(caller=caller, owner=manifest.owner, force=force, drafts=drafts)
        faults = Faults()
        effective: dict[tuple[Noun, str], int | None] = {}
        for order, step in _ordered(plan.steps):
            with _collected(caller, faults, step):
                moment = self._execute_step(run, order, step)
                key = (step.noun, step.name)
                effective[key] = latest(effective.get(key), moment)
        faults.raise_if_any()
        return replace(
            plan,
            steps=tuple(
                replace(step, effective_at=effective[step.noun, step.name]) for step in plan.steps
            ),
        )

    def _lock(self, plan: Plan) -> None:
        """Take all locks that the steps need, in one order.

        Other changes take one of them first and then wait for one that an earlier step holds.
        """
        nouns = {step.noun for step in plan.steps}
        if Noun.SERVICE in nouns:
            self._database.lock(service_rules.LOCK)
        if Noun.ROLE in nouns:
            self._database.lock(role_rules.LOCK)
        if nouns & {Noun.ISSUER, Noun.RULE}:
            self._database.lock(issuer_rules.LOCK)
        names = {
            step.name
            for step in plan.steps
            if step.noun in (Noun.ACCOUNT, Noun.GRANTS) and step.action is not Action.CREATE
        }
        for name in sorted(names):
            try:
                self._accounts.locked(name)
            except NotFound:
                continue  # an earlier step will create it

    def _execute_step(self, run: Run, order: int, step: Step) -> int | None:
        """Execute one step, or its second part; returns its ``effective_at``."""
        if order == _REMOVE_SCOPES:
            return self._service_steps.finish(run, step)
        if order == _BIND_RULES:
            return self._issuer_steps.finish(run, step)
        if step.noun is Noun.GRANTS:
            return self._grant_steps.change(run, step, owner=run.owner)
        steps = self._steps[step.noun]
        if step.action is Action.CHANGE:
            return steps.change(run, step)
        if step.action is Action.CREATE:
            self._record_owner(run.owner, ManifestRecord(run.owner or "", steps.create(run, step)))
            return None
        self._store.forget([ManifestRecord("", steps.id_of(step.name))])
        return steps.remove(run, step)

    def _record_owner(self, owner: str | None, record: ManifestRecord) -> None:
        if owner is None:
            self._store.forget([record])
        else:
            self._store.remember(record)


def _ordered(steps: tuple[Step, ...]) -> list[tuple[int, Step]]:
    ordered = [(_ORDER[step.action, step.noun], step) for step in steps]
    ordered += [(_REMOVE_SCOPES, step) for step in steps if loses_scopes(step)]
    ordered += [(_BIND_RULES, step) for step in steps if binds_rules(step)]
    return sorted(ordered, key=itemgetter(0))


def _check_scopes(caller: Caller, manifest: Manifest, *, take_over: bool) -> None:
    """Raise ``InsufficientScope`` if the caller may not change an object of the manifest.

    SECURITY: before anything is compared, because an empty plan reveals the present state.
    """
    if take_over and not caller.has(ADMIN):
        raise InsufficientScope(ADMIN)
    named = {
        Noun.SERVICE: manifest.services,
        Noun.ROLE: manifest.roles,
        Noun.ACCOUNT: manifest.accounts,
        Noun.GRANTS: (
            *manifest.grants,
            *(account for account in manifest.accounts if "grants" in account.fields),
        ),
        Noun.ISSUER: manifest.issuers,
        Noun.RULE: manifest.rules,
    }
    _require_scopes(caller, {noun for noun, entries in named.items() if entries})


def _require_scopes(caller: Caller, nouns: Collection[Noun]) -> None:
    for noun in sorted(nouns):
        if not caller.has(_SCOPES[noun]):
            raise InsufficientScope(_SCOPES[noun])


@contextmanager
def _collected(caller: Caller, faults: Faults, step: Step) -> Iterator[None]:
    """Collect the faults of one step, by its path, and go on with the others.

    An error of the database ends the execution, because its transaction can do nothing more. So
    does a safeguard, except for an operator, who gets all faults at once.
    """
    try:
        yield
    except Invalid as error:
        for fault in error.faults:
            faults.add(_fault_path(step, fault.field), fault.message)
    except Conflict as error:
        faults.add(_fault_path(step, error.field), error.detail)
        faults.raise_if_any()
    except InUse as error:
        # SECURITY: a caller who may change services or roles need not be allowed to see accounts.
        message = error.named if caller.is_operator else error.detail
        faults.add(step.path, f"{message} Repeat with force to remove it.")
    except RefusedByRule as error:
        message = f"{step.noun} {step.name}: {error.detail}"
        if not caller.is_operator:
            raise RefusedByRule(message) from None
        faults.add(step.path, message)
    except (Forbidden, NotFound, Stale) as error:
        faults.add(step.path, f"{step.noun} {step.name}: {error.detail}")


def _fault_path(step: Step, field: str) -> str:
    infix = ".grants" if step.noun is Noun.ACCOUNT and field in _GRANT_FIELDS else ""
    return f"{step.path}{infix}.{field}"
