"""Grants: which account holds which scope or role, for which logins and until when."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Unpack

from keyosk.accounts.accounts import Accounts, Draft, target
from keyosk.model import Account, Caller, Grant, NewAccount, Versions
from keyosk.permissions import scope_names
from keyosk.permissions.context import Context
from keyosk.storage.grants import in_order
from keyosk.storage.stores import Stores
from keyosk.validation import Faults, check_version


class Grants:
    """Grants and revokes scopes and roles. Every write is one transaction."""

    def __init__(self, context: Context, stores: Stores, accounts: Accounts) -> None:
        self._database = context.database
        self._safeguards = context.safeguards
        self._revocations = context.revocations
        self._audit = context.audit
        self._clock = context.clock
        self._account_store = stores.accounts
        self._grants = stores.grants
        self._services = stores.services
        self._roles = stores.roles
        self._accounts = accounts

    def of(self, reference: str) -> tuple[Account, tuple[Grant, ...]]:
        """Return an account with its grants. Raises ``NotFound``."""
        account = self._accounts.get(reference)
        return account, self._grants.of_account(account.id)

    def create_account(
        self, caller: Caller, grants: Sequence[Grant], **fields: Unpack[NewAccount]
    ) -> Account:
        """Create an account together with its first grants.

        ``fields``: as for ``Accounts.draft``. Raises what that and ``add_account`` raise.
        """
        return self.add_account(caller, grants, self._accounts.draft(caller, **fields))

    def add_account(self, caller: Caller, grants: Sequence[Grant], draft: Draft) -> Account:
        """Store an account together with its first grants. Raises what ``replace`` raises."""

        def give(account: Account) -> Account:
            return self._write(caller, account, (), grants=grants) if grants else account

        return self._accounts.add(caller, draft, on_add=give)

    def replace(
        self,
        caller: Caller,
        reference: str,
        grants: Sequence[Grant],
        *,
        version: Versions | None = None,
        may_be_over: bool = False,
    ) -> tuple[Account, tuple[Grant, ...]]:
        """Replace the grants of the account.

        ``may_be_over``: whether a new grant may have expired already.

        Raises ``Invalid``, ``NotFound``, ``Stale`` (unless the account is at ``version``),
        ``RefusedByRule``.
        """
        with self._database.transaction():
            account = self._accounts.locked(reference)
            before = self._grants.of_account(account.id)
            account = self._write(
                caller, account, before, grants=grants, version=version, may_be_over=may_be_over
            )
            return account, in_order(grants)

    def change(
        self,
        caller: Caller,
        reference: str,
        *,
        add: Iterable[Grant] = (),
        remove: Iterable[Grant] = (),
        version: Versions | None = None,
    ) -> tuple[Account, tuple[Grant, ...]]:
        """Add grants, each replacing one of the same name, and remove others by name.

        Raises as ``replace``.
        """
        with self._database.transaction():
            account = self._accounts.locked(reference)
            before = self._grants.of_account(account.id)
            kept = {(grant.scope, grant.role): grant for grant in before}
            for grant in remove:
                kept.pop((grant.scope, grant.role), None)
            kept |= {(grant.scope, grant.role): grant for grant in add}
            grants = list(kept.values())
            account = self._write(caller, account, before, grants=grants, version=version)
            return account, in_order(grants)

    def _write(
        self,
        caller: Caller,
        account: Account,
        before: Sequence[Grant],
        *,
        grants: Sequence[Grant],
        version: Versions | None = None,
        may_be_over: bool = False,
    ) -> Account:
        """Write the grants of an account; returns the account as it is then.

        Writes nothing if nothing changes.
        """
        now = int(self._clock())
        roles = self._roles.named([grant.role for grant in grants if grant.role is not None])
        scopes = [grant.scope for grant in grants if grant.scope is not None]
        fresh = () if may_be_over else [grant for grant in grants if grant not in before]

        def meant(faults: Faults, scope: str) -> str | None:
            return scope_names.meant(faults, scope, self._services, caller=caller)

        existing = self._services.existing_scopes(scopes)
        check(grants, existing, roles, ends_after=(now, fresh), meant=meant)
        self._safeguards.not_oneself(caller, account.id)
        self._safeguards.may_change(caller, account.id)
        widened = [grant for grant in grants if grant not in before]
        if widened:
            self._safeguards.not_by_api_key(caller)
        for grant in widened:
            self._safeguards.may_grant(caller, grant, roles)
        if set(grants) == set(before):
            return check_version(account, version)
        takes = not all(any(_covers(new, old) for new in grants) for old in before)
        with self._safeguards.keeping_an_admin(at_risk=takes):
            number = self._account_store.change(account.id, {}, now=now, version=version)
            role_ids = {role.name: role.id for role in roles.values()}
            self._grants.set(account.id, grants, role_ids, now=now)
        effective_at = self._revocations.revoke_account(account.id) if takes else None
        self._audit.record(
            caller,
            "grants.change",
            target(account.id),
            before={"grants": shapes(grant for grant in before if grant not in grants)},
            after={"grants": shapes(widened)},
        )
        return replace(account, updated_at=now, version=number, effective_at=effective_at)


def _covers(new: Grant, old: Grant) -> bool:
    """Return whether a grant gives at least what an earlier one gave."""
    return (
        (new.scope, new.role) == (old.scope, old.role)
        and new.credential in (None, old.credential)
        and (new.until is None or (old.until is not None and new.until >= old.until))
    )


def check(
    grants: Sequence[Grant],
    scopes: Collection[str],
    roles: Collection[str],
    *,
    ends_after: tuple[int, Sequence[Grant]] = (0, ()),
    meant: Callable[[Faults, str], str | None] = lambda *_: None,
) -> None:
    """Check that each grant names an existing scope or role, and none is named twice.

    ``scopes`` and ``roles``: the existing ones. ``ends_after``: a time, and the grants that must
    not have ended by then. ``meant``: returns the scope that a misspelt one may mean. Raises
    ``Invalid``.
    """
    now, fresh = ends_after
    faults = Faults()
    seen = set()
    for grant in grants:
        name = (grant.scope, grant.role)
        field, text = ("scopes", grant.scope) if grant.role is None else ("roles", grant.role)
        if grant.scope is not None and grant.scope not in scopes:
            faults.no_scope(field, grant.scope, meant=meant(faults, grant.scope))
        elif grant.role is not None and grant.role not in roles:
            faults.add(field, f"there is no role {grant.role[:200]}")
        elif name in seen:
            faults.add(field, "is given twice", item=text)
        seen.add(name)
        item = f"the end of {text}"
        faults.time("until", grant.until, after=now if grant in fresh else None, item=item)
    faults.raise_if_any()


def shapes(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """Return grants as plain values, for the audit log."""
    return [
        {
            name: value
            for name, value in (
                ("scope", grant.scope),
                ("role", grant.role),
                ("with", grant.credential),
                ("until", grant.until),
            )
            if value is not None
        }
        for grant in grants
    ]
