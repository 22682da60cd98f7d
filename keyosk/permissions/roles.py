"""Roles: named sets of scopes of any services."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from keyosk.audit import changed_fields
from keyosk.errors import InUse, Invalid, NotFound
from keyosk.ids import new_id, new_version
from keyosk.model import ADMIN, NAME, Caller, ListQuery, Role, RoleChanges, Versions
from keyosk.permissions import scope_names
from keyosk.permissions.context import Context
from keyosk.revocations import MOST_ACCOUNTS
from keyosk.storage.stores import Stores
from keyosk.validation import LONGEST_TEXT, Faults, check_version

#: The lock for transactions that read a role and write it back: one at a time.
LOCK: Final = "roles"
RESET: Final[Mapping[str, Any]] = {"description": "", "scopes": ()}
_FIELDS: Final = ("name", "description", "scopes")


class Roles:
    """What an admin does with roles. Every write is one transaction."""

    def __init__(self, context: Context, stores: Stores) -> None:
        self._database = context.database
        self._safeguards = context.safeguards
        self._revocations = context.revocations
        self._audit = context.audit
        self._clock = context.clock
        self._roles = stores.roles
        self._services = stores.services
        self._grants = stores.grants

    def create(
        self, caller: Caller, *, name: str, description: str = "", scopes: Sequence[str] = ()
    ) -> Role:
        """Create a role. Raises ``Invalid``, ``Conflict``, ``RefusedByRule``."""
        now = int(self._clock())
        role_id = new_id()
        role = Role(
            id=role_id,
            name=name,
            description=description,
            scopes=tuple(sorted(set(scopes))),
            created_at=now,
            updated_at=now,
            version=new_version(),
        )
        with self._database.transaction():
            self._check(caller, role, role.scopes)
            self._safeguards.may_give(caller, role.scopes)
            self._roles.add(role)
            self._audit.record(caller, "role.create", _target(role), after=_fields(role))
        return role

    def get(self, name: str) -> Role:
        """Return the role with this name. Raises ``NotFound``."""
        if not NAME.fullmatch(name):
            raise NotFound("There is no such role.")
        return self._roles.by_name(name)

    def page(self, list_query: ListQuery) -> list[Role]:
        """Return a page of roles."""
        return self._roles.page(list_query)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of roles that pass the filters of a list."""
        return self._roles.count(list_query)

    def change(
        self, caller: Caller, name: str, patch: RoleChanges, *, version: Versions | None = None
    ) -> Role:
        """Apply a merge patch (RFC 7396): every holder of the role has its new scopes at once.

        Raises ``Invalid``, ``NotFound``, ``Conflict``, ``Stale``, ``RefusedByRule``.
        """
        now = int(self._clock())
        with self._database.transaction():
            self._database.lock(LOCK)
            role = self.get(name)
            if patch.get("name", "") is None:
                raise Invalid.field("name", "cannot be removed")
            changes: dict[str, Any] = {
                field: RESET.get(field) if value is None else value
                for field, value in patch.items()
            }
            if "scopes" in changes:
                changes["scopes"] = tuple(sorted(set(changes["scopes"])))
            after = replace(role, **changes)
            added = set(after.scopes) - set(role.scopes)
            gone = set(role.scopes) - set(after.scopes)
            self._check(caller, after, sorted(added))
            # Removals too: removing a scope from a role removes it from every holder of the role.
            self._safeguards.may_give(caller, added)
            self._safeguards.may_take(caller, gone)
            if added:
                self._safeguards.not_by_api_key(caller)
            if after == role:
                return check_version(role, version)
            effective_at = self._revoke(role, gone)
            with self._safeguards.keeping_an_admin(at_risk=ADMIN in gone):
                number = self._roles.change(
                    after, now=now, version=version, rescoped=after.scopes != role.scopes
                )
            old, new = changed_fields(_fields(role), _fields(after))
            self._audit.record(caller, "role.change", _target(role), before=old, after=new)
            return replace(after, updated_at=now, version=number, effective_at=effective_at)

    def remove(
        self, caller: Caller, name: str, *, force: bool = False, version: Versions | None = None
    ) -> int | None:
        """Delete a role; its holders lose what it gave them.

        Returns when their tokens have expired, if there is any holder. Raises ``NotFound``,
        ``Stale``, ``RefusedByRule``, and ``InUse`` without ``force``.
        """
        with self._database.transaction():
            self._database.lock(LOCK)
            role = self.get(name)
            self._safeguards.may_take(caller, role.scopes)
            holders = self._grants.holders_of_role(role.id)
            if holders and not force:
                raise InUse([f"The role {role.name}"], accounts=holders)
            effective_at = self._revoke(role, set(role.scopes))
            with self._safeguards.keeping_an_admin(at_risk=ADMIN in role.scopes):
                self._roles.remove(role.id, version=version)
            self._audit.record(caller, "role.delete", _target(role), before=_fields(role))
            return effective_at

    def _revoke(self, role: Role, scopes: set[str]) -> int | None:
        """Revoke the tokens of the accounts that lose these scopes with the role."""
        if not scopes:
            return None
        return self._revocations.revoke_accounts(
            self._grants.holders(role_id=role.id, limit=MOST_ACCOUNTS + 1),
            audiences=self._services.audiences_of(scopes),
        )

    def _check(self, caller: Caller, role: Role, added: Collection[str]) -> None:
        faults = Faults()
        faults.name(role.name)
        faults.text("description", role.description, longest=LONGEST_TEXT)
        scope_names.check(faults, added, services=self._services, caller=caller)
        faults.raise_if_any()


def _target(role: Role) -> str:
    return f"role/{role.name}"


def _fields(role: Role) -> dict[str, Any]:
    return {name: getattr(role, name) for name in _FIELDS}
