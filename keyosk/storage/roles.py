"""Roles: named sets of scopes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import peewee

from keyosk.errors import Conflict, NotFound
from keyosk.model import ListQuery, Role, Versions
from keyosk.storage import listing as lists
from keyosk.storage import tables, versions
from keyosk.storage.conflicts import GONE, conflict
from keyosk.storage.database import Database

_TAKEN: Final = {"name": "Another role already has this name."}
_SORTS: Final = {"created_at": tables.Role.id, "name": tables.Role.name}
_FILTERS: Final[lists.Filters] = {
    "scope": lambda value: tables.Role.id.in_(
        tables.RoleScope.select(tables.RoleScope.role).where(tables.RoleScope.scope == value)
    )
}


class RoleStore:
    """Reads and writes the role and role_scope tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, role: Role) -> None:
        """Insert a role with its scopes. Raises ``Conflict``."""
        row = {
            "id": role.id,
            "name": role.name,
            "description": role.description,
            "created_at": role.created_at,
            "updated_at": role.updated_at,
            "version": role.version,
        }
        with self._database.transaction():
            try:
                self._database.insert(tables.Role, [row])
            except peewee.IntegrityError as error:
                raise conflict(error, tables.Role, _TAKEN) from error
            self._set_scopes(role, role.created_at)

    def by_name(self, name: str) -> Role:
        """Return the role with this name. Raises ``NotFound``."""
        roles = self._roles(tables.Role.select().where(tables.Role.name == name))
        if not roles:
            raise NotFound("There is no such role.")
        return roles[0]

    def named(self, names: Sequence[str]) -> dict[str, Role]:
        """Return the roles with these names, with their scopes."""
        if not names:
            return {}
        roles = self._roles(tables.Role.select().where(tables.Role.name.in_(list(names))))
        return {role.name: role for role in roles}

    def page(self, list_query: ListQuery) -> list[Role]:
        """Return a page of roles."""
        return self._roles(
            lists.page(
                tables.Role.select(), list_query, key=tables.Role.id, sorts=_SORTS, filters=_FILTERS
            )
        )

    def count(self, list_query: ListQuery) -> int:
        """Return the number of roles that pass the filters of a list."""
        query = lists.filtered(tables.Role.select(), list_query, _FILTERS)
        return lists.count(self._database, query, list_query)

    def change(
        self,
        role: Role,
        *,
        now: int,
        version: Versions | None = None,
        rescoped: bool = True,
    ) -> int:
        """Write the role; returns its new version.

        ``rescoped``: its scopes have changed. Raises ``Stale``, ``Conflict``.
        """
        query = tables.Role.update(
            name=role.name,
            description=role.description,
            updated_at=now,
            version=versions.following(self._database, tables.Role),
        ).where(tables.Role.id == role.id)
        try:
            number = versions.change(self._database, query, version, noun="role")
        except peewee.IntegrityError as error:
            raise conflict(error, tables.Role, _TAKEN) from error
        if rescoped:
            self._set_scopes(role, now)
        return number

    def remove(self, role_id: str, *, version: Versions | None = None) -> None:
        """Delete the role and its grants. Raises ``Stale``."""
        query = tables.Role.delete().where(tables.Role.id == role_id)
        versions.remove(self._database, query, version, noun="role")

    def _set_scopes(self, role: Role, now: int) -> None:
        """Write the scopes; those that it had keep the time at which they were added."""
        bundled, of_role = tables.RoleScope, tables.RoleScope.role == role.id
        had = {row["scope"] for row in self._database.rows(bundled.select().where(of_role))}
        gone = sorted(had - {*role.scopes})
        if gone:
            self._database.write(bundled.delete().where(of_role & bundled.scope.in_(gone)))
        added = [
            {"role": role.id, "scope": scope, "added_at": now}
            for scope in role.scopes
            if scope not in had
        ]
        try:
            self._database.insert(bundled, added)
        except peewee.IntegrityError as error:
            raise Conflict("scopes", GONE) from error

    def _roles(self, query: "peewee.ModelSelect[Any]") -> list[Role]:
        rows = self._database.rows(query)
        scopes: dict[str, list[str]] = defaultdict(list)
        if rows:
            bundled = tables.RoleScope.select().where(
                tables.RoleScope.role.in_([row["id"] for row in rows])
            )
            for row in self._database.rows(bundled):
                scopes[row["role"]].append(row["scope"])
        # Sorted here, as in changes, because databases sort in their own ways.
        return [_role(row, sorted(scopes[row["id"]])) for row in rows]


def _role(row: Mapping[str, Any], scopes: Sequence[str]) -> Role:
    return Role(
        id=row["id"],
        name=row["name"],
        description=row["description"],
        scopes=tuple(scopes),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )
