"""Services and the scopes they own."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import peewee

from keyosk.errors import Conflict, Invalid, NotFound, listed
from keyosk.model import (
    USUAL_CREDENTIALS,
    CredentialKind,
    Exchange,
    ListQuery,
    Scope,
    Service,
    TokenPolicy,
    Versions,
    namespace_key,
)
from keyosk.storage import listing as lists
from keyosk.storage import service_identifiers, tables, versions
from keyosk.storage.compiled import Row, parameter
from keyosk.storage.conflicts import conflict
from keyosk.storage.database import Database

_TAKEN: Final = {
    "name": "Another service already has this name.",
    "audience": "Another service already has this audience.",
}
_SCOPE_TAKEN: Final = {"name": "Another service has just got one of these scopes."}
_BOTH: Final = "both"
#: Of scopes that a misspelt one may mean: how many characters are the same, and how many are read.
_BEGINNING: Final = 2
_MOST_LIKE: Final = 50

#: The columns that ``policy`` reads, in its order.
POLICY_COLUMNS: Final = (
    tables.Service.name,
    tables.Service.audience,
    tables.Service.enabled,
    tables.Service.on_request_only,
    tables.Service.accepts,
    tables.Service.token_lifetime,
    tables.Service.signing_algorithm,
    tables.Service.typ,
    tables.Service.refresh_allowed,
    tables.Service.refresh_lifetime,
    tables.Service.claims,
    tables.Service.cors_preflight,
    tables.Service.registry_version,
)
_SORTS: Final = {"created_at": tables.Service.id, "name": tables.Service.name}
_TARGET: Final = tables.Service.alias()


def _exchanges_for(name: str) -> peewee.Expression:
    """Return the condition that tokens may be exchanged for those of the service ``name``."""
    exchanges = tables.Exchange.select(tables.Exchange.service).join(
        _TARGET, on=(tables.Exchange.target == _TARGET.id)
    )
    condition: peewee.Expression = tables.Service.id.in_(exchanges.where(_TARGET.name == name))
    return condition


_FILTERS: Final[lists.Filters] = {
    "enabled": lambda value: tables.Service.enabled == value,
    "exchanges_for": _exchanges_for,
}


class ServiceStore:
    """Reads and writes the service and scope tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        service = tables.Service
        self._meant = database.compile(
            service.select(*POLICY_COLUMNS, service.audiences)
            .join(tables.ServiceIdentifier)
            .where(tables.ServiceIdentifier.key == parameter("key"))
        )
        self._acted_for = database.compile(
            service.select(*POLICY_COLUMNS).where(service.account == parameter("account_id"))
        )
        reference = parameter("reference")
        self._algorithm_of = database.compile(
            service.select(service.signing_algorithm).where(
                (service.name == reference) | (service.id == reference)
            )
        )

    def add(self, service: Service) -> None:
        """Insert a service with its scopes. Raises ``Conflict``, ``Invalid`` as ``change``."""
        row = {
            "id": service.id,
            "title": service.title,
            "description": service.description,
            "contact": service.contact,
            "created_at": service.created_at,
            "updated_at": service.updated_at,
            "version": service.version,
            "account": self._account_of(service),
            "audiences": service_identifiers.column(service),
            **_columns(service.policy),
        }
        with self._database.transaction():
            service_identifiers.check(self._database, service)
            try:
                self._database.insert(tables.Service, [row])
            except peewee.IntegrityError as error:
                raise conflict(error, tables.Service, _TAKEN, reference="account") from error
            service_identifiers.claim(self._database, service)
            self._add_scopes(service.id, service.scopes)
            self._add_exchanges(service)

    def by_id(self, service_id: str) -> Service:
        """Return the service with this id. Raises ``NotFound``."""
        return self._one(tables.Service.id == service_id)

    def by_name(self, name: str) -> Service:
        """Return the service with this name. Raises ``NotFound``."""
        return self._one(tables.Service.name == name)

    def policy_for(self, target: str) -> TokenPolicy | None:
        """Return the policy of the service with this name or audience."""
        rows = self._meant(key=namespace_key(target))
        if not rows:
            return None
        *columns, audiences = rows[0]
        service_policy = policy(tuple(columns))
        others = json.loads(audiences or "[]")
        return (
            service_policy
            if target in (service_policy.audience, service_policy.name, *others)
            else None
        )

    def page(self, list_query: ListQuery) -> list[Service]:
        """Return a page of services."""
        return self._services(
            lists.page(
                tables.Service.select(),
                list_query,
                key=tables.Service.id,
                sorts=_SORTS,
                filters=_FILTERS,
            )
        )

    def count(self, list_query: ListQuery) -> int:
        """Return the number of services that pass the filters of a list."""
        query = lists.filtered(tables.Service.select(), list_query, _FILTERS)
        return lists.count(self._database, query, list_query)

    def acting(self, account_id: str) -> list[Service]:
        """Return the services that the account acts for."""
        return self._services(tables.Service.select().where(tables.Service.account == account_id))

    def policies_acted_for(self, account_id: str) -> list[TokenPolicy]:
        """Return the policies of the services that the account acts for."""
        return [policy(row) for row in self._acted_for(account_id=account_id)]

    def algorithm_of(self, reference: str) -> str | None:
        """Return the signing algorithm of the service with this name or id. Raises ``NotFound``."""
        rows = self._algorithm_of(reference=reference)
        if not rows:
            raise NotFound("There is no such service.")
        algorithm: str | None = rows[0][0]
        return algorithm

    def algorithms(self, limit: int) -> dict[str, str | None]:
        """Return the signing algorithms of the first services, by their names and by their ids."""
        service = tables.Service
        query = service.select(service.id, service.name, service.signing_algorithm)
        rows = self._database.rows(query.order_by(service.id).limit(limit))
        return {row[key]: row["signing_algorithm"] for row in rows for key in ("id", "name")}

    def change(
        self,
        service: Service,
        *,
        now: int,
        version: Versions | None = None,
        readdressed: bool = True,
        exchanged: bool = True,
    ) -> int:
        """Write the service without its scopes; returns its new version.

        ``readdressed``: its name or audiences have changed; ``exchanged``: its exchanges have.
        Raises ``Stale``, ``Conflict``, ``Invalid`` if there is no such account, or no such service
        to exchange for.
        """
        if readdressed:
            service_identifiers.check(self._database, service)
        query = tables.Service.update(
            title=service.title,
            description=service.description,
            contact=service.contact,
            account=self._account_of(service),
            audiences=service_identifiers.column(service),
            **_columns(service.policy),
            updated_at=now,
            version=versions.following(self._database, tables.Service),
        ).where(tables.Service.id == service.id)
        try:
            number = versions.change(self._database, query, version, noun="service")
        except peewee.IntegrityError as error:
            raise conflict(error, tables.Service, _TAKEN, reference="account") from error
        if readdressed:
            service_identifiers.claim(self._database, service)
        if exchanged:
            self._database.write(
                tables.Exchange.delete().where(tables.Exchange.service == service.id)
            )
            self._add_exchanges(service)
        return number

    def remove(self, service_id: str, *, version: Versions | None = None) -> None:
        """Delete the service, its scopes and their grants. Raises ``Stale``."""
        query = tables.Service.delete().where(tables.Service.id == service_id)
        versions.remove(self._database, query, version, noun="service")

    def set_scopes(self, service: Service, scopes: Sequence[Scope]) -> None:
        """Replace the scopes of the service; scopes that stay keep their grants.

        Raises ``Conflict`` when another service owns some of the names, and names them.
        """
        old = {scope.name: scope for scope in service.scopes}
        new = {scope.name: scope for scope in scopes}
        with self._database.transaction():
            gone = [name for name in old if name not in new]
            if gone:
                self._database.write(tables.Scope.delete().where(tables.Scope.name.in_(gone)))
            for name in old.keys() & new.keys():
                if old[name] != new[name]:
                    self._database.write(
                        tables.Scope.update(description=new[name].description).where(
                            tables.Scope.name == name
                        )
                    )
            self._add_scopes(service.id, [new[name] for name in new if name not in old])

    def audiences_of(self, scopes: Iterable[str]) -> list[str]:
        """Return the audiences of the services that own these scopes."""
        query = (
            tables.Service.select(tables.Service.audience)
            .join(tables.Scope, on=(tables.Scope.service == tables.Service.id))
            .where(tables.Scope.name.in_(list(scopes)))
            .distinct()
        )
        return [row["audience"] for row in self._database.rows(query)]

    def existing_scopes(self, names: Iterable[str]) -> set[str]:
        """Return those names that are scopes of a service."""
        names = list(names)
        if not names:
            return set()
        query = tables.Scope.select(tables.Scope.name).where(tables.Scope.name.in_(names))
        return {row["name"] for row in self._database.rows(query)}

    def scopes_like(self, name: str) -> list[str]:
        """Return some scopes whose names begin like this one, or follow it in the index."""
        query = (
            tables.Scope.select(tables.Scope.name)
            .where(tables.Scope.name >= name[:_BEGINNING])
            .order_by(tables.Scope.name)
            .limit(_MOST_LIKE)
        )
        return [row["name"] for row in self._database.rows(query)]

    def _add_scopes(self, service_id: str, scopes: Sequence[Scope]) -> None:
        # The insert finds concurrent conflicts, but cannot tell which scopes they are about.
        if taken := sorted(self.existing_scopes(scope.name for scope in scopes)):
            raise Conflict("scopes", f"Another service already has {listed(taken)}.")
        try:
            self._database.insert(
                tables.Scope,
                [
                    {"name": scope.name, "service": service_id, "description": scope.description}
                    for scope in scopes
                ],
            )
        except peewee.IntegrityError as error:
            raise conflict(error, tables.Scope, _SCOPE_TAKEN, field="scopes") from error

    def _account_of(self, service: Service) -> str | None:
        return None if service.account is None else self.account_id(service.account)

    def account_id(self, username: str) -> str:
        """Return the id of the account that will act for a service. Raises ``Invalid``."""
        query = tables.Account.select(tables.Account.id)
        row = self._database.row(query.where(tables.Account.username == username))
        if row is None:
            raise Invalid.field("account", "there is no such account")
        account_id: str = row["id"]
        return account_id

    def _add_exchanges(self, service: Service) -> None:
        names = [exchange.service for exchange in service.exchanges]
        if not names:
            return
        query = tables.Service.select(tables.Service.id, tables.Service.name)
        ids = {
            row["name"]: row["id"]
            for row in self._database.rows(query.where(tables.Service.name.in_(names)))
        }
        if missing := [name for name in names if name not in ids]:
            raise Invalid.field("exchanges", f"there is no service {missing[0][:100]}")
        self._database.insert(
            tables.Exchange,
            [
                {
                    "service": service.id,
                    "target": ids[exchange.service],
                    "scopes": json.dumps(exchange.scopes),
                }
                for exchange in service.exchanges
            ],
        )

    def _exchanges(self, service_ids: Sequence[str]) -> dict[str, list[Exchange]]:
        query = (
            tables.Exchange.select(
                tables.Exchange.service, tables.Service.name, tables.Exchange.scopes
            )
            .join(tables.Service, on=(tables.Exchange.target == tables.Service.id))
            .where(tables.Exchange.service.in_(service_ids))
        )
        exchanges: dict[str, list[Exchange]] = defaultdict(list)
        # Sorted here, as in changes, because databases sort in their own ways.
        for row in sorted(self._database.rows(query), key=lambda row: str(row["name"])):
            exchange = Exchange(row["name"], tuple(json.loads(row["scopes"])))
            exchanges[row["service"]].append(exchange)
        return exchanges

    def _usernames(self, account_ids: Iterable[str | None]) -> dict[str, str]:
        ids = [account_id for account_id in account_ids if account_id is not None]
        if not ids:
            return {}
        query = tables.Account.select(tables.Account.id, tables.Account.username)
        rows = self._database.rows(query.where(tables.Account.id.in_(ids)))
        return {row["id"]: row["username"] for row in rows}

    def _one(self, condition: peewee.Expression) -> Service:
        services = self._services(tables.Service.select().where(condition))
        if not services:
            raise NotFound("There is no such service.")
        return services[0]

    def _services(self, query: "peewee.ModelSelect[tables.Service]") -> list[Service]:
        rows = self._database.rows(query)
        scopes: dict[str, list[Scope]] = defaultdict(list)
        if rows:
            owned = tables.Scope.select().where(
                tables.Scope.service.in_([row["id"] for row in rows])
            )
            for row in sorted(self._database.rows(owned), key=lambda row: str(row["name"])):
                scopes[row["service"]].append(Scope(row["name"], row["description"]))
        usernames = self._usernames(row["account"] for row in rows)
        exchanges = self._exchanges([row["id"] for row in rows]) if rows else {}
        return [
            _service(
                row,
                scopes[row["id"]],
                usernames.get(row["account"]),
                exchanges=exchanges.get(row["id"], ()),
            )
            for row in rows
        ]


@lru_cache(maxsize=1024)
def policy(columns: Row) -> TokenPolicy:
    """Return the policy from the columns of ``POLICY_COLUMNS``.

    Cached, because nearly every token is for the same few services; it takes 6 us.
    """
    accepts = columns[4]
    return TokenPolicy(
        name=columns[0],
        audience=columns[1],
        enabled=bool(columns[2]),
        on_request_only=bool(columns[3]),
        accepts=USUAL_CREDENTIALS
        if accepts == _BOTH
        else frozenset(CredentialKind(kind) for kind in accepts.split(",")),
        token_lifetime=columns[5],
        signing_algorithm=columns[6],
        typ=columns[7],
        refresh_allowed=bool(columns[8]),
        refresh_lifetime=columns[9],
        claims=tuple(json.loads(columns[10])),
        cors_preflight=bool(columns[11]),
        registry_version=columns[12],
    )


def _columns(policy: TokenPolicy) -> dict[str, Any]:
    return {
        "name": policy.name,
        "audience": policy.audience,
        "enabled": policy.enabled,
        "on_request_only": policy.on_request_only,
        "accepts": _BOTH
        if policy.accepts == USUAL_CREDENTIALS
        else ",".join(kind for kind in CredentialKind if kind in policy.accepts),
        "token_lifetime": policy.token_lifetime,
        "signing_algorithm": policy.signing_algorithm,
        "typ": policy.typ,
        "refresh_allowed": policy.refresh_allowed,
        "refresh_lifetime": policy.refresh_lifetime,
        "claims": json.dumps(list(policy.claims)),
        "cors_preflight": policy.cors_preflight,
        "registry_version": policy.registry_version,
    }


def _service(
    row: Mapping[str, Any],
    scopes: Sequence[Scope],
    account: str | None,
    *,
    exchanges: Sequence[Exchange],
) -> Service:
    return Service(
        id=row["id"],
        policy=policy(tuple(row[column.name] for column in POLICY_COLUMNS)),
        title=row["title"],
        description=row["description"],
        contact=row["contact"],
        account=account,
        exchanges=tuple(exchanges),
        audiences=tuple(json.loads(row["audiences"] or "[]")),
        scopes=tuple(scopes),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )
