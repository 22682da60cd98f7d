"""Which account holds which scope or role."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import peewee
from peewee import JOIN, fn

from keyosk.errors import Conflict
from keyosk.model import ADMIN, CredentialKind, Grant
from keyosk.storage import tables
from keyosk.storage.conflicts import GONE
from keyosk.storage.database import Database

_SCOPE: Final = fn.COALESCE(tables.Grant.scope, tables.RoleScope.scope)


class GrantStore:
    """Reads and writes the grant table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_account(self, account_id: str) -> tuple[Grant, ...]:
        """Return the grants of an account: scopes by name, then roles by name."""
        return self.of_accounts([account_id])[account_id]

    def of_accounts(self, account_ids: Sequence[str]) -> dict[str, tuple[Grant, ...]]:
        """Return the grants of each of the accounts, in the order of ``of_account``."""
        if not account_ids:
            return {}
        rows = self._database.rows(
            tables.Grant.select(
                tables.Grant.account,
                tables.Grant.scope,
                tables.Role.name.alias("role_name"),
                tables.Grant.credential,
                tables.Grant.until,
            )
            .join(tables.Role, JOIN.LEFT_OUTER)
            .where(tables.Grant.account.in_(list(account_ids)))
        )
        by_account: dict[str, list[Grant]] = {account_id: [] for account_id in account_ids}
        for row in rows:
            by_account[row["account"]].append(
                Grant(
                    scope=row["scope"],
                    role=row["role_name"],
                    credential=CredentialKind(row["credential"]) if row["credential"] else None,
                    until=row["until"],
                )
            )
        return {account_id: in_order(grants) for account_id, grants in by_account.items()}

    def set(
        self, account_id: str, grants: Sequence[Grant], role_ids: Mapping[str, str], *, now: int
    ) -> None:
        """Replace the grants of the account, inside a transaction.

        ``role_ids``: the ids of the roles that the grants name. Raises ``Conflict`` when one of the
        scopes or roles was deleted meanwhile.
        """
        of_account = tables.Grant.account == account_id
        before = self._database.rows(
            tables.Grant.select(
                tables.Grant.scope, tables.Grant.role, tables.Grant.granted_at
            ).where(of_account)
        )
        since = {(row["scope"], row["role"]): row["granted_at"] for row in before}
        self._database.write(tables.Grant.delete().where(of_account))
        self._insert({account_id: grants}, role_ids, now=now, since=since)

    def add_all(
        self, grants: Mapping[str, Sequence[Grant]], role_ids: Mapping[str, str], *, now: int
    ) -> None:
        """Insert the grants of new accounts. Otherwise as ``set``."""
        self._insert(grants, role_ids, now=now, since={})

    def _insert(
        self,
        grants: Mapping[str, Sequence[Grant]],
        role_ids: Mapping[str, str],
        *,
        now: int,
        since: Mapping[tuple[str | None, str | None], int],
    ) -> None:
        """Insert grants. ``since``: when earlier grants of the same scopes and roles began."""
        rows = [
            (account_id, grant)
            for account_id, account_grants in grants.items()
            for grant in account_grants
        ]
        every = [grant for _, grant in rows]
        scopes = [grant.scope for grant in every]
        roles = [None if grant.role is None else role_ids[grant.role] for grant in every]
        held = zip(scopes, roles, strict=True)
        columns: dict[str, list[Any]] = {
            "account": [account_id for account_id, _ in rows],
            "scope": scopes,
            "role": roles,
            "credential": [grant.credential for grant in every],
            "until": [grant.until for grant in every],
            "granted_at": [since.get(each, now) for each in held] if since else [now] * len(rows),
        }
        try:
            self._database.insert_columns(tables.Grant, columns)
        except peewee.IntegrityError as error:
            raise Conflict("scopes", GONE) from error

    def scopes_of(self, account_id: str) -> frozenset[str]:
        """Return all scopes of the account's grants and roles, whatever their conditions."""
        query = (
            tables.Grant.select(_SCOPE.alias("name"))
            .join(tables.RoleScope, JOIN.LEFT_OUTER, on=_by_role())
            .where(tables.Grant.account == account_id)
        )
        return frozenset(row["name"] for row in self._database.rows(query) if row["name"])

    def use_of_scopes(
        self, scopes: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Return which scopes are in use, with the accounts and roles that have one.

        All are names, in order.
        """
        if not scopes:
            return (), (), ()
        granted = self._database.rows(
            tables.Grant.select(tables.Grant.scope, tables.Account.username)
            .join(tables.Account)
            .where(tables.Grant.scope.in_(list(scopes)))
        )
        within = self._database.rows(
            tables.RoleScope.select(tables.RoleScope.scope, tables.Role.name)
            .join(tables.Role)
            .where(tables.RoleScope.scope.in_(list(scopes)))
        )
        return (
            tuple(sorted({row["scope"] for row in (*granted, *within)})),
            tuple(sorted({row["username"] for row in granted})),
            tuple(sorted({row["name"] for row in within})),
        )

    def holders_of_role(self, role_id: str) -> tuple[str, ...]:
        """Return the accounts that were granted the role, by name, in order."""
        query = (
            tables.Grant.select(tables.Account.username)
            .join(tables.Account)
            .where(tables.Grant.role == role_id)
        )
        return tuple(sorted(row["username"] for row in self._database.rows(query)))

    def holders(
        self, scopes: Sequence[str] = (), *, role_id: str | None = None, limit: int
    ) -> list[str]:
        """Return up to ``limit`` accounts that were granted one of the scopes, or the role."""
        if not scopes and role_id is None:
            return []
        by_role = tables.RoleScope.select(tables.RoleScope.role).where(
            tables.RoleScope.scope.in_(list(scopes))
        )
        condition = tables.Grant.scope.in_(list(scopes)) | tables.Grant.role.in_(by_role)
        if role_id is not None:
            condition = tables.Grant.role == role_id
        query = tables.Grant.select(tables.Grant.account).where(condition).distinct().limit(limit)
        return [row["account"] for row in self._database.rows(query)]

    def has_lasting_admin(self) -> bool:
        """Return whether an enabled account holds ``keyosk:admin`` permanently and can log in.

        Permanently: the account, the grant and the credential never expire.
        """
        has_password = fn.EXISTS(
            tables.Password.select(tables.Password.account).where(
                tables.Password.account == tables.Account.id
            )
        )
        has_key = fn.EXISTS(
            tables.ApiKey.select(tables.ApiKey.id).where(
                (tables.ApiKey.account == tables.Account.id)
                & tables.ApiKey.enabled
                & tables.ApiKey.expires_at.is_null()
                & tables.ApiKey.scopes.is_null()
                & tables.ApiKey.networks.is_null()
            )
        )
        kind = tables.Grant.credential
        # A separate query, because PostgreSQL reads all grants for a subquery beside an OR. Many
        # changes call this, so its cost must not grow with the number of grants.
        bundled = self._database.rows(
            tables.RoleScope.select(tables.RoleScope.role).where(tables.RoleScope.scope == ADMIN)
        )
        gives = tables.Grant.scope == ADMIN
        if bundled:
            gives |= tables.Grant.role.in_([row["role"] for row in bundled])
        query = (
            tables.Grant.select(tables.Grant.account)
            .join(tables.Account)
            .where(
                gives
                & tables.Grant.until.is_null()
                & tables.Account.enabled
                & tables.Account.expires_at.is_null()
                & (
                    ((kind.is_null() | (kind == CredentialKind.PASSWORD)) & has_password)
                    | ((kind.is_null() | (kind == CredentialKind.API_KEY)) & has_key)
                )
            )
        )
        return self._database.row(query) is not None


def in_order(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Return grants of one account: scopes by name, then roles by name."""
    return tuple(sorted(grants, key=lambda grant: (grant.role or "", grant.scope or "")))


def _by_role() -> peewee.Expression:
    return tables.RoleScope.role == tables.Grant.role
