"""Every filter of every list, in every order, at its beginning and deep inside, costs a page.

The tests read the query plans, and count the rows that each statement touches. Both are the same on
every machine.
"""

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Final

import peewee
import pytest

from installed import rows_of, sqlite_steps
from keyosk.accounts import accounts
from keyosk.ids import new_id
from keyosk.installation import Installation
from keyosk.model import MATCH, OPERATOR, ListQuery, Scope, matching_name
from keyosk.storage import tables
from keyosk.storage.audit import AuditStore
from keyosk.storage.listing import FEW

# Part of `make test-long`.
pytestmark = [pytest.mark.slow, pytest.mark.every_database]

MANY: Final = 6_000
PAGE: Final = 51
START: Final = 1_600_000_000
#: Rows that one page may touch, in tables and indexes together. A thousand accounts are sorted
#: where so few pass a filter.
MOST_ROWS: Final = 5_000
#: Instructions of SQLite's virtual machine.
MOST_STEPS: Final = 50_000

#: Tables that are small enough to be read as a whole.
SMALL: Final = frozenset(
    {"role", "role_scope", "password", "checkpoint", "service", "scope", "refusal", "login_failure"}
    | {"trusted_issuer", "workload_rule"}
)

Read = Callable[[ListQuery], Sequence[Any]]


def fill(installation: Installation) -> None:
    """Accounts, grants, API keys and audit rows. About half of them pass each filter."""
    rng = random.Random(1)
    installation.services.create(
        OPERATOR, name="todo", scopes=[Scope("todo:read"), Scope("todo:rare"), Scope("todo:few")]
    )
    installation.roles.create(OPERATOR, name="reader", scopes=["todo:read"])
    installation.roles.create(OPERATOR, name="other", scopes=["todo:read", "todo:few"])
    roles = [row[0] for row in rows_of(installation, "SELECT id FROM role WHERE name <> 'x'")]
    accounts = [account_row(rng, number) for number in range(MANY)]
    grants = [
        grant
        for number, account in enumerate(accounts)
        for grant in grant_rows(account["id"], number, roles[number % len(roles)])
    ]
    database = installation.database
    with database.transaction():
        database.insert_all(tables.Account, accounts)
        database.insert_all(tables.Grant, grants)
        database.insert_all(tables.AuditRow, [audit_row(rng, n, accounts) for n in range(MANY)])
        database.insert_all(tables.ApiKey, [key_row(rng, n, accounts) for n in range(MANY)])
    if not database.is_sqlite:
        database.raw.execute_sql("VACUUM ANALYZE")  # as autovacuum does by itself


def account_row(rng: random.Random, number: int) -> dict[str, Any]:
    name = f"{rng.randrange(16**8):08x}-{number}"
    # Found by its username, its display name or both.
    display_name = rng.choice(["", name, name[::-1], "Same Name"])
    return {
        "id": new_id(),
        "username": name,
        "kind": rng.choice(["person", "machine"]),
        "enabled": rng.random() < 0.5,
        "display_name": display_name,
        "display_key": display_name.casefold(),
        "claims": "{}",
        "metadata": "{}",
        "last_login_at": START + rng.randrange(MANY),
        "created_at": START + number // 3,
        "updated_at": START + rng.randrange(3),
        "version": 1,
    }


def grant_rows(account_id: str, number: int, role: str) -> Iterator[dict[str, Any]]:
    grant = {"account": account_id, "credential": None, "until": None}
    if number % 2:
        yield {**grant, "scope": "todo:read", "role": None}
    yield {**grant, "scope": None, "role": role}
    if number % 100 == 99:
        yield {**grant, "scope": "todo:rare", "role": None}


def audit_row(
    rng: random.Random, number: int, accounts: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A row of one half or of the other: the halves differ in all that lists are filtered by."""
    is_first_half = rng.random() < 0.5
    return {
        "id": new_id(),
        "sequence": 1_000_000 + number,
        "time": START + number // 2,
        "actor": accounts[0 if is_first_half else -1]["id"],
        "actor_name": "alice" if is_first_half else "bob",
        "credential": "password" if is_first_half else accounts[0]["id"],
        "action": "test.one" if is_first_half else "test.two",
        "target": "account/one" if is_first_half else "account/two",
        "outcome": "done" if is_first_half else "refused",
        "hash": bytes(32),
    }


def key_row(rng: random.Random, number: int, accounts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """An API key; half of them belong to one account."""
    return {
        "id": new_id(),
        "account": accounts[0 if number % 2 else number]["id"],
        "name": f"key {rng.randrange(3)}",
        "description": "",
        "digest": number.to_bytes(32),
        "prefix": f"kysk_{rng.randrange(16**7):07x}",
        "networks": rng.choice([None, '["10.0.0.0/8"]']),
        "enabled": rng.random() < 0.5,
        "expires_at": None if number % 7 == 0 else START + rng.randrange(MANY),
        "last_used_at": START + rng.randrange(MANY),
        "created_at": START + number // 3,
        "updated_at": START,
        "version": 1,
    }


def value_of(item: Any, list_query: ListQuery) -> Any:
    """The value by which a list is sorted."""
    if list_query.sort == MATCH:
        return matching_name(list_query.filters["q"], item.username, display_name=item.display_name)
    return getattr(item, list_query.sort)


MIDDLE: Final = START + MANY // 6
#: Filters of each list that few or many objects pass, and combinations that people use.
ACCOUNTS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"enabled": True},
    {"enabled": False},
    {"kind": "person"},
    {"kind": "machine", "enabled": True},
    {"role": "reader"},
    {"role": "nobody"},
    {"scope": "todo:read"},
    {"scope": "todo:rare"},
    {"scope": "todo:few"},
    {"scope": "todo:none"},
    {"created_after": MIDDLE},
    {"created_after": START + MANY},
    {"last_login_before": START + MANY // 2},
    {"q": "a"},
    {"q": "same"},
    {"q": "zzz"},
    {"q": "a", "kind": "person"},
    {"scope": "todo:read", "enabled": False},
    {"scope": "todo:rare", "kind": "machine", "created_after": START},
    {"created_after": START, "enabled": True},
)
AUDIT: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"actor": "alice"},
    {"actor": "00000000-0000-7000-8000-000000000000"},
    {"action": "test.one"},
    {"action": "service.delete"},
    {"target": "account/two"},
    {"credential": "password"},
    {"credential": "00000000-0000-7000-8000-000000000000"},
    {"outcome": "refused"},
)
#: Actor and action share an index. Half of the rows pass both filters, or none does.
PAIRS: Final[tuple[dict[str, Any], ...]] = (
    {"actor": "alice", "action": "test.one"},
    {"actor": "alice", "action": "test.two"},
)
#: No row passes two of these, half of them each one.
APART: Final[tuple[dict[str, Any], ...]] = (
    {"actor": "alice"},
    {"action": "test.two"},
    {"credential": "password"},
    {"target": "account/two"},
    {"outcome": "done"},
    {"outcome": "refused"},
    {"since": START + MANY},
    {"until": START},
)
#: Sorted by sequence number, all rows before ``since`` would have to be skipped.
TIMES: Final[tuple[dict[str, Any], ...]] = (
    {"since": START + MANY // 4},
    {"until": START + MANY // 4},
    {"since": START, "until": START + MANY // 4, "action": "test.two"},
)
KEYS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"enabled": True},
    {"expires_before": START + MANY // 2},
    {"expires_after": START + MANY // 2},
    {"expires_after": START + MANY // 2, "expires_before": START + MANY // 2 + 5},
    {"unused_since": START + MANY // 2},
    {"networks": "any"},
    {"networks": "limited", "enabled": False},
    {"limits": "none"},
    {"limits": "some"},
    {"limits": "none", "enabled": True},
    {"limits": "some", "networks": "any"},
    {"prefix": "kysk_a"},
    {"prefix": "kysk_zz"},
)
#: For the keys of all accounts there are more filters that few or many keys pass.
ALL_KEYS: Final[tuple[dict[str, Any], ...]] = (
    *KEYS,
    {"enabled": False},
    {"networks": "limited"},
    {"expires_before": START + 5},
    {"expires_before": START},
    {"unused_since": START + 5},
    {"prefix": "kysk_"},
    {"prefix": "kysk_abc"},
    {"prefix": "kysk_", "enabled": True},
    {"digest": f"{5:064x}"},
    {"digest": "ab" * 32},
    {"unused_since": START + MANY // 2, "networks": "any", "enabled": True},
)


def listings(filters: dict[str, Any], sorts: Sequence[str]) -> Iterator[ListQuery]:
    """A page in every order, forwards and backwards."""
    for sort in sorts:
        for descending in (False, True):
            yield ListQuery(limit=PAGE, sort=sort, descending=descending, filters=filters)
    if "q" in filters:
        yield ListQuery(limit=PAGE, sort=MATCH, filters=filters)


def assert_cheap(
    installation: Installation,
    read: Read,
    many: Sequence[dict[str, Any]],
    sorts: Sequence[str],
    small: frozenset[str] = SMALL,
) -> None:
    """Assert that the first page and a page in the middle of every listing cost a page."""
    for filters in many:
        for list_query in listings(filters, sorts):
            items = read(replace(list_query, limit=MANY * 2))
            first_page = read_cheaply(installation, read, list_query, small)
            assert first_page == [_key(item) for item in items[:PAGE]], list_query
            if len(items) > PAGE:
                middle = items[len(items) // 2]
                after = (value_of(middle, list_query), _key(middle))
                page = read_cheaply(installation, read, replace(list_query, after=after), small)
                start = len(items) // 2 + 1
                assert page == [_key(item) for item in items[start : start + PAGE]], list_query


def _key(item: Any) -> Any:
    return getattr(item, "sequence", None) or item.id


def read_cheaply(
    installation: Installation, read: Read, list_query: ListQuery, small: frozenset[str] = SMALL
) -> list[Any]:
    """Return the keys of a page, after a look at what the database did to read it."""
    database = installation.database
    queries: list[peewee.Query] = []
    real = database.rows

    def rows(query: peewee.Query) -> list[dict[str, Any]]:
        queries.append(query)
        return real(query)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "rows", rows)
        keys = [_key(item) for item in read(list_query)]
    costs: list[tuple[int, str]] = []
    for query in queries:
        sql, parameters = query.bind(database.raw).sql()
        if any(f'FROM "{table}"' in sql for table in small):
            continue
        cost_of = sqlite_cost if database.is_sqlite else postgresql_cost
        try:
            costs.append((cost_of(installation, sql, parameters, small), sql[-300:]))
        except AssertionError as error:
            raise AssertionError(f"{list_query}: {sql[:600]}: {error}") from None
    total = sum(cost for cost, _ in costs)
    most = MOST_STEPS if database.is_sqlite else MOST_ROWS
    assert total <= most, (list_query, total, costs)
    return keys


def sorts_few(sql: str) -> bool:
    """Whether a statement sorts at most a thousand rows, by their keys."""
    return "ORDER BY COALESCE(" in sql and ('"id" IN (' in sql or '"sequence" IN (' in sql)


def sqlite_cost(installation: Installation, sql: str, parameters: Any, _: frozenset[str]) -> int:
    """The steps of SQLite's virtual machine for a statement that neither scans nor sorts."""
    connection: sqlite3.Connection = installation.database.raw.connection()
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    for line in plan:
        assert not line.startswith("SCAN") or " USING " in line, plan
        assert "TEMP B-TREE" not in line or sorts_few(sql), plan
    return sqlite_steps(connection, lambda: connection.execute(sql, parameters).fetchall())


def postgresql_cost(
    installation: Installation, sql: str, parameters: Any, small: frozenset[str]
) -> int:
    """The rows that PostgreSQL touches for a statement that neither scans nor sorts."""
    explained = installation.database.raw.execute_sql(
        f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", parameters
    ).fetchall()[0][0]
    touched = 0
    for node in _nodes(explained[0]["Plan"]):
        kind = node["Node Type"]
        if "Sort" in kind:
            assert all(inner["Actual Rows"] <= FEW + 1 for inner in node["Plans"]), explained
        if "Scan" in kind and node.get("Relation Name") not in small:
            assert kind != "Seq Scan", explained
            read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            touched += int(read * node["Actual Loops"])
    return touched


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def test_a_page_of_accounts_costs_a_page_with_any_filters(installation: Installation) -> None:
    fill(installation)
    read = installation.accounts.page
    assert_cheap(installation, read, ACCOUNTS, ("created_at", "updated_at", "username"))


def test_a_page_of_a_search_inside_names_costs_what_it_looks_at(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "LOOKED_AT", 1_000)
    fill(installation)
    read, horizon = installation.accounts.page, installation.accounts.horizon

    def bounded(list_query: ListQuery) -> Sequence[Any]:
        last = horizon(list_query)
        end = None if last is None else (value_of(last, list_query), last.id)
        return read(replace(list_query, end=end))

    for filters in ({"contains": "nobody"}, {"contains": "nobody", "kind": "person"}):
        for list_query in listings(filters, ("created_at", "updated_at", "username")):
            assert read_cheaply(installation, bounded, list_query) == []
            middle = read(replace(list_query, filters={}, limit=MANY // 2))[-1]
            after = (value_of(middle, list_query), middle.id)
            assert read_cheaply(installation, bounded, replace(list_query, after=after)) == []


def test_a_page_of_the_audit_log_costs_a_page_with_any_filters(installation: Installation) -> None:
    fill(installation)
    assert_cheap(installation, AuditStore(installation.database).page, AUDIT, ("sequence", "time"))
    assert_cheap(installation, AuditStore(installation.database).page, TIMES, ("time",))
    assert_cheap(installation, AuditStore(installation.database).page, PAIRS, ("sequence",))


def test_a_page_of_the_audit_log_whose_filters_have_no_index_costs_what_it_looks_at(
    installation: Installation,
) -> None:
    fill(installation)
    store = AuditStore(installation.database)
    ((someone,),) = rows_of(installation, "SELECT actor FROM audit_row WHERE sequence = 1000000")

    def bounded(list_query: ListQuery) -> Sequence[Any]:
        last = store.horizon(list_query, looked_at=1_000)
        end = None if last is None else (value_of(last, list_query), last.sequence)
        return store.page(replace(list_query, end=end))

    pairs = [one | other for one, other in combinations((*APART, {"actor": someone}), 2)]
    three = {"actor": "bob", "action": "test.two", "credential": "password"}
    for filters in (*pairs, three, {"outcome": "done"}):
        for list_query in listings(filters, ("sequence", "time")):
            read_cheaply(installation, bounded, list_query)
            middle = store.page(replace(list_query, filters={}, limit=MANY // 2))[-1]
            after = (value_of(middle, list_query), middle.sequence)
            read_cheaply(installation, bounded, replace(list_query, after=after))


def test_a_page_of_services_and_roles_costs_a_page_in_any_order(installation: Installation) -> None:
    rng, services, roles = random.Random(1), [], []
    for number in range(MANY):
        name = f"{rng.randrange(16**8):08x}-{number}"
        times = {"created_at": START, "updated_at": START, "version": 1}
        base = {"id": new_id(), "name": name, "description": "", **times}
        text = {"audience": name, "title": "", "contact": "", "accepts": "both", "claims": "[]"}
        flags = {"enabled": True, "on_request_only": False, "refresh_allowed": False}
        services.append({**base, **text, **flags})
        roles.append(base)
    database = installation.database
    with database.transaction():
        database.insert_all(tables.Service, services)
        database.insert_all(tables.Role, roles)
    if not database.is_sqlite:
        database.raw.execute_sql("VACUUM ANALYZE")
    small = SMALL - {"service", "role"} | {"exchange"}
    for read in (installation.services.page, installation.roles.page):
        assert_cheap(installation, read, ({},), ("created_at", "name"), small)


def test_a_page_of_api_keys_costs_a_page_with_any_filters(installation: Installation) -> None:
    fill(installation)
    owner = the_owner(installation)
    assert_cheap(
        installation,
        lambda list_query: installation.api_keys.page(owner, list_query),
        KEYS,
        ("created_at", "name"),
    )


def test_a_page_of_the_api_keys_of_all_accounts_costs_a_page_whatever_its_filters_and_order(
    installation: Installation,
) -> None:
    fill(installation)
    orders = ("created_at", "name")
    assert_cheap(installation, installation.api_keys.page_of_all, ALL_KEYS, orders)
    owned = [{**filters, "owner": the_owner(installation)} for filters in KEYS]
    assert_cheap(installation, installation.api_keys.page_of_all, owned, orders)


def the_owner(installation: Installation) -> str:
    """The account that has half of the keys."""
    query = "SELECT account_id FROM api_key GROUP BY account_id ORDER BY COUNT(*) DESC LIMIT 1"
    [(owner,)] = rows_of(installation, query)
    return str(owner)
