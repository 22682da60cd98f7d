"""What a token asks of PostgreSQL can be asked of one shard: statements look up single keys."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from installed import installed, settings, statements_with_values
from keyosk import app
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Scope

PASSWORD = "a password for looking up"


@pytest.fixture
def keyosk(postgresql_url: str) -> Iterator[Installation]:
    app.prepare(settings(postgresql_url))
    with installed(postgresql_url) as made:
        made.services.create(
            OPERATOR, name="todo", scopes=[Scope("todo:read")], refresh_allowed=True
        )
        made.roles.create(OPERATOR, name="reader", scopes=["todo:read"])
        grants = [Grant("todo:read")]
        made.grants.create_account(OPERATOR, grants, username="alice", password=PASSWORD)
        yield made


#: What grows with the accounts, and by what a statement may ask for it. All else is small: it has
#: as many rows as there are services, roles and signing keys, and every shard may hold all of it.
BY_ACCOUNT = {
    "account": [{"id"}, {"username"}],
    "api_key": [{"digest"}, {"id"}],  # by its id: that of the account's own session
    "password": [{"id"}, {"account_id"}],
    "grant": [{"account_id"}],
    "session": [{"id"}],
    "allowance": [{"key"}],
    "known_source": [{"account_id", "source"}],
}
SMALL = {"signing_key", "service", "scope", "role", "role_scope", "lifetime"}


def test_every_statement_of_a_token_looks_up_single_keys(keyosk: Installation) -> None:
    asked = of_tokens(keyosk)
    assert {name: len(sent) > 0 for name, sent in asked.items()} == dict.fromkeys(asked, True)
    seen = set()
    for name, sent in asked.items():
        for statement, values in sent:
            for scan in scans(keyosk, statement, values):
                table = scan["Relation Name"]
                seen.add(table)
                if table in SMALL:
                    continue
                assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), (name, statement)
                columns = set(re.findall(r"\((\w+)\)?(?:::\w+)? = ", scan["Index Cond"]))
                assert columns in BY_ACCOUNT[table], (name, table, scan)
    assert seen >= {"account", "api_key", "password", "grant", "session", "signing_key"}


def test_those_keys_are_unique(keyosk: Installation) -> None:
    rows = keyosk.database.raw.execute_sql(
        "SELECT indrelid::regclass::text, array_agg(attname::text) FROM pg_index"
        " JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)"
        " WHERE indisunique GROUP BY indexrelid, indrelid"
    ).fetchall()
    unique = [(table.strip('"'), set(columns)) for table, columns in rows]
    for table, keys in BY_ACCOUNT.items():
        for key in keys:
            assert table == "grant" or (table, key) in unique, (table, key)


def of_tokens(keyosk: Installation) -> dict[str, list[tuple[str, Any]]]:
    """The statements of each way to a token, at its second use."""
    client = app.create_app(keyosk).test_client()
    secret = keyosk.api_keys.create(OPERATOR, "alice", name="job").secret
    offline = {"scope": "todo:read offline_access"}
    asked = client.post("/auth/token", auth=("alice", PASSWORD), data=offline)
    assert asked.json is not None
    refresh = asked.json["refresh_token"]
    ways: dict[str, dict[str, Any]] = {
        "key": {"headers": {"Authorization": f"Bearer {secret}"}},
        "password": {"auth": ("alice", PASSWORD)},
    }
    statements = {}
    for name, way in ways.items():
        client.post("/auth/token", **way)  # its first use is noted
        with statements_with_values() as sent:
            assert client.post("/auth/token", **way).status_code == 200
            statements[name] = list(sent)
    form = {"grant_type": "refresh_token", "refresh_token": refresh}
    with statements_with_values() as sent:
        assert client.post("/auth/token", data=form).status_code == 200
        statements["refresh"] = list(sent)
    return statements


def scans(keyosk: Installation, sql: str, values: Any) -> list[dict[str, Any]]:
    """The nodes of a statement's plan that read a table."""
    database = keyosk.database
    if not sql.startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
        return []
    with database.transaction():
        database.raw.execute_sql("SET LOCAL enable_seqscan = off")
        database.raw.execute_sql("SET LOCAL enable_bitmapscan = off")
        [(plan,)] = database.raw.execute_sql(f"EXPLAIN (FORMAT JSON) {sql}", values).fetchall()
    found, nodes = [], [plan[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if "Scan" in node["Node Type"]:
            found.append(node)
    return found
