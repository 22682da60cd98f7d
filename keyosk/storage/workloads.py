"""Issuers whose tokens log workloads in, their rules, their keys, and used tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee

from keyosk.errors import Conflict, NotFound
from keyosk.model import ListQuery, TrustedIssuer, Versions, WorkloadRule
from keyosk.storage import listing as lists
from keyosk.storage import tables, versions
from keyosk.storage.compiled import parameter
from keyosk.storage.conflicts import conflict
from keyosk.storage.database import Database

_NO_ISSUER: Final = "There is no such issuer."
_NO_RULE: Final = "This issuer has no such rule."
_TAKEN: Final = {"name": "Another issuer already has this name."}
_ISSUER_SORTS: Final = {"created_at": tables.TrustedIssuer.id, "name": tables.TrustedIssuer.name}
_RULE_SORTS: Final = {"created_at": tables.WorkloadRule.id, "name": tables.WorkloadRule.name}
_ISSUER_FILTERS: Final[lists.Filters] = {
    "enabled": lambda value: tables.TrustedIssuer.enabled == value
}
_RULE_FILTERS: Final[lists.Filters] = {
    "enabled": lambda value: tables.WorkloadRule.enabled == value,
    "account": lambda value: tables.WorkloadRule.account.in_(
        tables.Account.select(tables.Account.id).where(tables.Account.username == value)
    ),
}
#: How many expired tokens are deleted for each one that is stored.
_FORGOTTEN: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedKeys:
    """The key set that an issuer last published.

    Attributes:
        document: The key set as JSON text; ``None`` if it was never fetched.
        fetched_at: When it was fetched.
        fresh_until: When it should be fetched again.
        tried_at: When a node last began to fetch it.
        fault: Why that failed; ``None`` if it did not.
    """

    document: str | None
    fetched_at: int | None
    fresh_until: int | None
    tried_at: int
    fault: str | None


class IssuerStore:
    """Reads and writes the trusted_issuer, fetched_keys and used_assertion tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        issuer = tables.TrustedIssuer
        self._by_claim = database.compile(
            issuer.select().where(issuer.issuer == parameter("issuer"))
        )
        keys = tables.FetchedKeys
        self._keys = database.compile(keys.select().where(keys.issuer == parameter("issuer_id")))

    def add(self, issuer: TrustedIssuer) -> None:
        """Insert an issuer. Raises ``Conflict``."""
        row = {"id": issuer.id, "created_at": issuer.created_at, "version": issuer.version}
        try:
            self._database.insert(
                tables.TrustedIssuer,
                [{**row, **_columns(issuer), "updated_at": issuer.updated_at}],
            )
        except peewee.IntegrityError as error:
            raise conflict(error, tables.TrustedIssuer, _TAKEN) from error

    def by_name(self, name: str) -> TrustedIssuer:
        """Return the issuer with this name. Raises ``NotFound``."""
        return self._one(tables.TrustedIssuer.name == name)

    def by_id(self, issuer_id: str) -> TrustedIssuer:
        """Return the issuer with this id. Raises ``NotFound``."""
        return self._one(tables.TrustedIssuer.id == issuer_id)

    def by_claim(self, issuer: str) -> list[TrustedIssuer]:
        """Return the issuers with this ``iss``; their audiences differ."""
        return [_issuer(row) for row in self._by_claim.dicts(issuer=issuer)]

    def page(self, list_query: ListQuery) -> list[TrustedIssuer]:
        """Return a page of issuers."""
        query = lists.page(
            tables.TrustedIssuer.select(),
            list_query,
            key=tables.TrustedIssuer.id,
            sorts=_ISSUER_SORTS,
            filters=_ISSUER_FILTERS,
        )
        return [_issuer(row) for row in self._database.rows(query)]

    def count(self, list_query: ListQuery) -> int:
        """Return the number of issuers that pass the filters of a list."""
        query = lists.filtered(tables.TrustedIssuer.select(), list_query, _ISSUER_FILTERS)
        return lists.count(self._database, query, list_query)

    def change(self, issuer: TrustedIssuer, *, now: int, version: Versions | None = None) -> int:
        """Write the issuer; returns its new version. Raises ``Stale``, ``Conflict``."""
        query = tables.TrustedIssuer.update(
            **_columns(issuer),
            updated_at=now,
            version=versions.following(self._database, tables.TrustedIssuer),
        ).where(tables.TrustedIssuer.id == issuer.id)
        try:
            return versions.change(self._database, query, version, noun="issuer")
        except peewee.IntegrityError as error:
            raise conflict(error, tables.TrustedIssuer, _TAKEN) from error

    def remove(self, issuer_id: str, *, version: Versions | None = None) -> None:
        """Delete the issuer with its rules and keys. Raises ``Stale``."""
        query = tables.TrustedIssuer.delete().where(tables.TrustedIssuer.id == issuer_id)
        versions.remove(self._database, query, version, noun="issuer")

    def fetched_keys(self, issuer_id: str) -> FetchedKeys | None:
        """Return the fetched keys of an issuer; ``None`` if no node ever tried."""
        row = self._keys.first(issuer_id=issuer_id)
        if row is None:
            return None
        return FetchedKeys(
            document=row["document"],
            fetched_at=row["fetched_at"],
            fresh_until=row["fresh_until"],
            tried_at=row["tried_at"],
            fault=row["fault"],
        )

    def claim_fetch(self, issuer_id: str, *, now: int, not_after: int, latest: int) -> bool:
        """Claim the fetch of an issuer's keys, unless one began after ``not_after``.

        Only one process of all nodes gets it. ``latest``: a later start is ignored, because a clock
        was ahead.
        """
        keys = tables.FetchedKeys
        is_due = (keys.tried_at <= not_after) | (keys.tried_at > latest)
        turn = (
            keys.update(tried_at=now, fault=None)
            .where((keys.issuer == issuer_id) & is_due)
            .returning(keys.tried_at)
        )
        first = (
            keys.insert(issuer=issuer_id, tried_at=now)
            .on_conflict_ignore()
            .returning(keys.tried_at)
        )
        try:
            with self._database.transaction():
                return bool(self._database.returned(first) or self._database.returned(turn))
        except peewee.IntegrityError:  # the issuer was deleted meanwhile
            return False

    def store_keys(
        self, issuer: TrustedIssuer, document: str, *, now: int, fresh_until: int
    ) -> None:
        """Store a fetched key set, unless the issuer has changed meanwhile."""
        keys = tables.FetchedKeys
        self._database.write(
            keys.update(
                document=document, fetched_at=now, fresh_until=fresh_until, fault=None
            ).where(_is_of(issuer))
        )

    def store_fault(self, issuer: TrustedIssuer, fault: str) -> None:
        """Store why the fetch failed; the last valid key set stays."""
        self._database.write(tables.FetchedKeys.update(fault=fault).where(_is_of(issuer)))

    def forget_keys(self, issuer_id: str) -> None:
        """Delete the key set, so that it is fetched again."""
        keys = tables.FetchedKeys
        self._database.write(keys.delete().where(keys.issuer == issuer_id))

    def use(self, digest: bytes, *, expires_at: int, now: int) -> bool:
        """Record a token as used; returns false if it was used before."""
        used = tables.UsedAssertion
        over = (
            used.select(used.digest)
            .where(used.expires_at <= now)
            .order_by(used.expires_at)
            .limit(_FORGOTTEN)
        )
        self._database.write(used.delete().where(used.digest.in_(over)))
        query = used.insert(digest=digest, expires_at=expires_at).on_conflict_ignore()
        return bool(self._database.returned(query.returning(used.expires_at)))

    def _one(self, condition: peewee.Expression) -> TrustedIssuer:
        row = self._database.row(tables.TrustedIssuer.select().where(condition))
        if row is None:
            raise NotFound(_NO_ISSUER)
        return _issuer(row)


class WorkloadRuleStore:
    """Reads and writes the workload_rule table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        rule = tables.WorkloadRule
        self._of_issuer = database.compile(
            rule.select(rule, tables.Account.username)
            .join(tables.Account)
            .where(rule.issuer == parameter("issuer_id"))
            .order_by(rule.id)
        )
        issuer = tables.TrustedIssuer
        is_same = (rule.id == parameter("rule_id")) & (rule.version == parameter("rule_version"))
        unchanged = issuer.select(issuer.id).where(
            (issuer.id == parameter("issuer_id")) & (issuer.version == parameter("issuer_version"))
        )
        self._record_use = database.compile(
            rule.update(last_used_at=parameter("now"))
            .where(is_same & rule.issuer.in_(unchanged))
            .returning(rule.id),
            repeatable=False,
        )

    def add(self, rule: WorkloadRule) -> None:
        """Insert a rule. Raises ``Conflict``, ``NotFound`` if issuer or account are gone."""
        row = {
            "id": rule.id,
            "issuer": rule.issuer_id,
            "created_at": rule.created_at,
            "updated_at": rule.updated_at,
            "version": rule.version,
            **_rule_columns(rule),
        }
        try:
            self._database.insert(tables.WorkloadRule, [row])
        except peewee.IntegrityError as error:
            raise NotFound(_NO_ISSUER) from error

    def of_issuer(self, issuer_id: str) -> list[WorkloadRule]:
        """Return all rules of an issuer, the oldest first."""
        return [_rule(row) for row in self._of_issuer.dicts(issuer_id=issuer_id)]

    def by_name(self, issuer_id: str, name: str) -> WorkloadRule:
        """Return the rule of an issuer with this name. Raises ``NotFound``."""
        row = self._database.row(_with_username().where(_named(issuer_id, name)))
        if row is None:
            raise NotFound(_NO_RULE)
        return _rule(row)

    def check_name(self, rule: WorkloadRule) -> None:
        """Raise ``Conflict`` if another rule of the issuer has the name."""
        query = tables.WorkloadRule.select(tables.WorkloadRule.id).where(
            _named(rule.issuer_id, rule.name) & (tables.WorkloadRule.id != rule.id)
        )
        if self._database.row(query) is not None:
            raise Conflict("name", "Another rule of this issuer already has this name.")

    def page(self, issuer_id: str, list_query: ListQuery) -> list[WorkloadRule]:
        """Return a page of the rules of an issuer."""
        query = lists.page(
            _with_username().where(tables.WorkloadRule.issuer == issuer_id),
            list_query,
            key=tables.WorkloadRule.id,
            sorts=_RULE_SORTS,
            filters=_RULE_FILTERS,
        )
        return [_rule(row) for row in self._database.rows(query)]

    def count(self, issuer_id: str, list_query: ListQuery) -> int:
        """Return the number of rules of an issuer that pass the filters of a list."""
        rule = tables.WorkloadRule
        query = lists.filtered(
            rule.select().where(rule.issuer == issuer_id), list_query, _RULE_FILTERS
        )
        return lists.count(self._database, query, list_query)

    def change(self, rule: WorkloadRule, *, now: int, version: Versions | None = None) -> int:
        """Write the rule; returns its new version. Raises ``Stale``, ``Conflict``."""
        query = tables.WorkloadRule.update(
            **_rule_columns(rule),
            updated_at=now,
            version=versions.following(self._database, tables.WorkloadRule),
        ).where(tables.WorkloadRule.id == rule.id)
        try:
            return versions.change(self._database, query, version, noun="rule")
        except peewee.IntegrityError as error:
            raise NotFound(_NO_RULE) from error

    def remove(self, rule_id: str, *, version: Versions | None = None) -> None:
        """Delete the rule. Raises ``Stale``."""
        query = tables.WorkloadRule.delete().where(tables.WorkloadRule.id == rule_id)
        versions.remove(self._database, query, version, noun="rule")

    def record_use(self, rule: WorkloadRule, issuer: TrustedIssuer, now: int) -> bool:
        """Record a login by the rule, without changing its version.

        Returns false if the rule or its issuer was changed or deleted meanwhile.
        """
        return bool(
            self._record_use(
                now=now,
                rule_id=rule.id,
                rule_version=rule.version,
                issuer_id=issuer.id,
                issuer_version=issuer.version,
            )
        )


def _is_of(issuer: TrustedIssuer) -> peewee.Expression:
    # SECURITY: keys from a URL that an admin has replaced meanwhile are not stored.
    table = tables.TrustedIssuer
    unchanged = table.select(table.id).where(
        (table.id == issuer.id) & (table.version == issuer.version)
    )
    return tables.FetchedKeys.issuer.in_(unchanged)


def _with_username() -> "peewee.ModelSelect[Any]":
    rule = tables.WorkloadRule
    return rule.select(rule, tables.Account.username).join(tables.Account)


def _named(issuer_id: str, name: str) -> Any:
    return (tables.WorkloadRule.issuer == issuer_id) & (tables.WorkloadRule.name == name)


def _columns(issuer: TrustedIssuer) -> dict[str, Any]:
    return {
        "name": issuer.name,
        "description": issuer.description,
        "issuer": issuer.issuer,
        "audience": issuer.audience,
        "preset": issuer.preset,
        "jwks_uri": issuer.jwks_uri,
        "keys": None if issuer.keys is None else json.dumps(issuer.keys),
        "algorithms": _text(issuer.algorithms),
        "max_lifetime": issuer.max_lifetime,
        "required_claims": _text(issuer.required_claims),
        "prefix_claims": _text(issuer.prefix_claims),
        "allow_private": issuer.allow_private,
        "enabled": issuer.enabled,
    }


def _issuer(row: Mapping[str, Any]) -> TrustedIssuer:
    return TrustedIssuer(
        id=row["id"],
        name=row["name"],
        description=row["description"],
        issuer=row["issuer"],
        audience=row["audience"],
        preset=row["preset"],
        jwks_uri=row["jwks_uri"],
        keys=None if row["keys"] is None else json.loads(row["keys"]),
        algorithms=_items(row["algorithms"]),
        max_lifetime=row["max_lifetime"],
        required_claims=_items(row["required_claims"]),
        prefix_claims=_items(row["prefix_claims"]),
        allow_private=bool(row["allow_private"]),
        enabled=bool(row["enabled"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )


def _rule_columns(rule: WorkloadRule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "description": rule.description,
        "claims": json.dumps({name: list(values) for name, values in rule.claims.items()}),
        "account": rule.account_id,
        "scopes": None if rule.scopes is None else _text(rule.scopes),
        "once": rule.once,
        "enabled": rule.enabled,
        "expires_at": rule.expires_at,
    }


def _rule(row: Mapping[str, Any]) -> WorkloadRule:
    claims = json.loads(row["claims"])
    return WorkloadRule(
        id=row["id"],
        issuer_id=row["issuer"],
        name=row["name"],
        description=row["description"],
        claims={name: tuple(values) for name, values in claims.items()},
        account=row["username"],
        account_id=row["account"],
        scopes=None if row["scopes"] is None else _items(row["scopes"]),
        once=bool(row["once"]),
        enabled=bool(row["enabled"]),
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )


def _text(items: Sequence[str]) -> str:
    return json.dumps(list(items))


def _items(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))
