"""Databases that earlier versions of Keyosk wrote, upgraded by this one.

For each migration there is a database that has this one and those before it, with rows in the words
of its schema. What the rows said, the API says afterwards.
"""

import json
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from flask.testing import FlaskClient
from playhouse.migrations import Runner

from cheap_passwords import InsecurelyCheapPasswords
from installed import installed, settings
from keyosk import app
from keyosk.audit_chain import GENESIS, row_hash
from keyosk.credentials import api_key_format
from keyosk.keys import material
from keyosk.keys.material import Safe
from keyosk.model import AuditRow
from keyosk.storage import schema
from keyosk.storage.database import Database
from keyosk.tokens import refresh_token_format
from live import ADMIN_PASSWORD, SECRET_KEY, LiveServer, command, unique
from waiting import until

pytestmark = [pytest.mark.every_database, pytest.mark.slow]

MIGRATIONS: Final = sorted(path.stem for path in schema.MIGRATIONS.glob("[0-9]*.py"))
NOW: Final = int(time.time())
DAY: Final = 86_400
LONG_AGO: Final = NOW - 30 * DAY
PASSWORD: Final = "correct horse battery staple"
SECRET: Final = api_key_format.generate()
SAFE: Final = Safe([SECRET_KEY])
KEY: Final = material.generate("ES256")
KID: Final = material.public_jwk(KEY, "ES256")["kid"]
STOLEN: Final = material.public_jwk(material.generate("ES256"), "ES256")
Row = dict[str, Any]


def identity(number: int) -> str:
    """The id of an object."""
    return f"01930000-0000-7000-8000-{number:012}"


KEYOSK, TODO, ALICE, BOB, HER_KEY, ROLE, PASSWORD_ID, SESSION = map(identity, range(1, 9))
REFRESH: Final = refresh_token_format.first(SAFE, SESSION)
VERSIONED: Final = {"created_at": LONG_AGO, "updated_at": LONG_AGO, "version": 3}


@dataclass(frozen=True, slots=True)
class Written:
    """A row, and what later migrations gave it: their number and the columns that they added."""

    since: str
    table: str
    columns: Row
    later: tuple[tuple[str, Row], ...] = ()
    until: str = "9999"
    """The migration whose schema has it no more, as it is elsewhere then."""

    def at(self, number: str) -> Row:
        """The columns of the row in the schema of a migration."""
        row = dict(self.columns)
        for since, more in self.later:
            if since <= number:
                row |= more
        return row


def service(id_: str, name: str, *, own: bool, **more: Row) -> Written:
    return Written(
        "0001",
        "service",
        {
            "id": id_,
            "name": name,
            "audience": name if own else f"https://{name}.example.org",
            "title": name.title(),
            "description": "Things to do",
            "enabled": True,
            "on_request_only": own,
            "token_lifetime": None if own else 600,
            **VERSIONED,
        },
        (
            (
                "0002",
                {
                    "contact": "ops@example.org",
                    "accepts": "both",
                    "refresh_allowed": not own,
                    "refresh_lifetime": None if own else DAY,
                    "claims": "[]" if own else '["department"]',
                },
            ),
            *((f"00{number[1:]}", columns) for number, columns in more.items()),
        ),
    )


def account(id_: str, username: str, display_name: str, **more: Any) -> Written:
    columns = {
        "id": id_,
        "username": username,
        "kind": "person",
        "display_name": display_name,
        "enabled": True,
        "claims": '{"department": "sales"}',
        "metadata": '{"number": 7}',
        "expires_at": None,
        "last_login_at": LONG_AGO,
        **VERSIONED,
        **more,
    }
    return Written(
        "0001", "account", columns, (("0002", {"display_key": display_name.casefold()}),)
    )


def scope(name: str, of: str) -> Written:
    return Written("0001", "scope", {"name": name, "service_id": of, "description": "To read"})


def grant(account_id: str, scope_name: str, **more: Any) -> Written:
    columns = {"account_id": account_id, "scope_id": scope_name, "credential": None, "until": None}
    return Written("0001", "grant", columns | more, (("0002", {"role_id": None}),))


def audit_rows() -> Iterator[Written]:
    """Two rows that are sealed, by hashes in hexadecimal at first, and one that waits."""
    previous = GENESIS
    for sequence in (1, 2, 3):
        row: Row = {
            "id": identity(100 + sequence),
            "time": LONG_AGO,
            "actor": ALICE,
            "actor_name": "alice",
            "credential": None,
            "address": "192.0.2.7",
            "request_id": identity(200 + sequence),
            "action": "account.change",
            "target": f"account/{BOB}",
            "before": '{"display_name":""}',
            "after": f'{{"display_name":"Bob {sequence}"}}',
            "outcome": "done",
        }
        if sequence == 3:
            yield Written("0002", "audit_row", row, until="0018")
            yield Written("0018", "waiting_audit_row", row)
            continue
        shown = row | {name: json.loads(row[name]) for name in ("before", "after")}
        known = {each.name for each in fields(AuditRow)}
        filled = {name: shown.get(name) for name in known} | {"sequence": sequence}
        previous = row_hash(AuditRow(**filled), previous)  # type: ignore[arg-type]
        row |= {"sequence": sequence}
        yield Written("0002", "audit_row", row | {"hash": previous}, until="0018")
        yield Written("0018", "audit_row", row | {"hash": bytes.fromhex(previous)})


def rows() -> Iterator[Written]:
    """What an installation of then held, in an order that references allow."""
    yield account(ALICE, "alice", "Zoë Çelik")
    yield account(BOB, "bob", "Bob", kind="machine", enabled=False, expires_at=NOW + DAY)
    hash_ = InsecurelyCheapPasswords(memory_kib=64, time_cost=1).hash(PASSWORD)
    columns: Row = {"account_id": ALICE, "id": PASSWORD_ID, "hash": hash_, "changed_at": LONG_AGO}
    yield Written("0001", "password", columns)
    columns = {
        "id": HER_KEY,
        "account_id": ALICE,
        "name": "laptop",
        "description": "the old one",
        "digest": api_key_format.digest(SECRET),
        "prefix": api_key_format.prefix(SECRET),
        "scopes": '["todo:read"]',
        "enabled": True,
        "expires_at": NOW + DAY,
        "last_used_at": LONG_AGO,
        **VERSIONED,
    }
    yield Written("0001", "api_key", columns, (("0002", {"networks": '["127.0.0.0/8"]'}),))
    yield service(KEYOSK, "keyosk", own=True)
    yield service(
        TODO,
        "todo",
        own=False,
        _04={"account_id": BOB},
        _09={"audiences": '["https://todo.example.net"]'},
        _13={"cors_preflight": True},
        _15={"registry_version": 2},
    )
    yield scope("keyosk:admin", KEYOSK)
    yield scope("todo:read", TODO)
    yield scope("todo:write", TODO)
    yield grant(ALICE, "keyosk:admin")
    yield grant(ALICE, "todo:read")
    yield grant(ALICE, "todo:write", credential="password", until=NOW + DAY)
    columns = {
        "kid": KID,
        "algorithm": "ES256",
        "state": "active",
        "public": json.dumps(material.public_jwk(KEY, "ES256")),
        "sealed": SAFE.seal_private_key(KEY, KID),
        "published_at": LONG_AGO,
        "active_from": LONG_AGO,
        "retired_at": None,
        "created_at": LONG_AGO,
    }
    yield Written("0001", "signing_key", columns, (("0008", {"when_seen": False}),))
    columns = {"id": ROLE, "name": "editor", "description": "Edits", **VERSIONED}
    yield Written("0002", "role", columns)
    yield Written("0002", "role_scope", {"role_id": ROLE, "scope_id": "todo:write"})
    yield Written("0002", "grant", {"account_id": BOB, "role_id": ROLE})
    yield from audit_rows()
    yield Written(
        "0003", "declared", {"object_id": TODO, "scope": "", "role": "", "owner": "team-todo"}
    )
    columns = {"claim": "jti", "value": "stolen-token", "expires": NOW + DAY}
    yield Written("0004", "revocation", {"sequence": 1, **columns})
    yield Written(
        "0004",
        "signing_key",
        columns_of_the_stolen_key(),
        (("0008", {"gone_at": NOW - 60, "when_seen": False}),),
    )
    columns = {"claim": "kid", "value": STOLEN["kid"], "expires": NOW + DAY}
    yield Written(
        "0004", "revocation", {"sequence": 2, **columns, "issued_before": NOW - 60}, until="0010"
    )
    yield Written("0010", "revocation", {"sequence": 2, **columns})
    yield Written("0004", "lifetime", {"seconds": 3600, "ended_at": NOW})
    columns = {"service_id": TODO, "target_id": KEYOSK, "scopes": "[]"}
    yield Written("0004", "exchange", columns)
    columns = {
        "id": SESSION,
        "account_id": ALICE,
        "password_id": PASSWORD_ID,
        "audiences": '["https://todo.example.org"]',
        "scopes": '["todo:read"]',
        "digest": REFRESH.digest,
        "tokens": json.dumps({identity(9): NOW - 1}),
        "address": "192.0.2.7",
        "authenticated_at": NOW - 900,
        "created_at": NOW - 900,
        "rotated_at": NOW - 900,
        "expires_at": NOW + DAY,
    }
    yield Written("0005", "session", columns)
    columns = {"account_id": ALICE, "source": "127.0.0.1", "seen_at": NOW - DAY}
    yield Written("0007", "known_source", columns)
    yield Written("0008", "key_sight", {"service_id": TODO, "kids": "[]", "seen_at": NOW - DAY})
    for key in (KEYOSK, "keyosk"):
        yield Written("0009", "service_identifier", {"key": key, "service_id": KEYOSK})
    for key in (TODO, "todo", "https://todo.example.org", "https://todo.example.net"):
        yield Written("0009", "service_identifier", {"key": key, "service_id": TODO})


def columns_of_the_stolen_key() -> Row:
    return {
        "kid": STOLEN["kid"],
        "algorithm": "ES256",
        "state": "compromised",
        "public": json.dumps(STOLEN),
        "sealed": b"",
        "published_at": LONG_AGO,
        "active_from": LONG_AGO,
        "retired_at": None,
        "created_at": LONG_AGO,
    }


def of_then(url: str, migration: str) -> None:
    """Make the database that a Keyosk with this newest migration had."""
    number = migration[:4]
    database = Database(url)
    raw = database.raw
    with schema.exclusive(database):
        Runner(raw, str(schema.MIGRATIONS)).up(migration)
        for written in rows():
            if written.since <= number < written.until:
                row = written.at(number)
                names = ", ".join(f'"{name}"' for name in row)
                places = ", ".join([raw.param] * len(row))
                sql = f'INSERT INTO "{written.table}" ({names}) VALUES ({places})'
                raw.execute_sql(sql, list(row.values()))
    database.close()


def basic(secret: str, username: str = "alice") -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{username}:{secret}".encode()).decode()}


def token(client: FlaskClient, secret: str, **form: str) -> Any:
    response = client.post("/auth/token", headers=basic(secret), data=form)
    assert response.status_code == 200, response.json
    return response.json


def shown(client: FlaskClient, path: str) -> Any:
    response = client.get(path, headers=basic(PASSWORD))
    assert response.status_code == 200, (path, response.json)
    return response.json


def objects_are_there(client: FlaskClient, then: str) -> None:
    alice = shown(client, "/accounts/alice")
    assert (alice["id"], alice["kind"], alice["display_name"]) == (ALICE, "person", "Zoë Çelik")
    assert (alice["claims"], alice["metadata"]) == ({"department": "sales"}, {"number": 7})
    assert alice["has_password"] is True
    assert [each["username"] for each in shown(client, "/accounts?q=zo%C3%AB")["items"]] == [
        "alice"
    ]
    bob = shown(client, "/accounts/bob")
    assert (bob["kind"], bob["enabled"], bool(bob["expires_at"])) == ("machine", False, True)
    (key,) = shown(client, "/accounts/alice/api-keys")["items"]
    assert (key["id"], key["name"], key["scopes"]) == (HER_KEY, "laptop", ["todo:read"])
    assert key["networks"] == (["127.0.0.0/8"] if then >= "0002" else None)
    granted = shown(client, "/accounts/alice/grants")
    by_name = {each["name"]: each for each in granted["scopes"] if isinstance(each, dict)}
    assert by_name["todo:write"]["with"] == "password"
    assert by_name["todo:write"]["until"]
    todo = shown(client, "/services/todo")
    assert (todo["id"], todo["title"], todo["token_lifetime"]) == (TODO, "Todo", 600)
    assert {each["name"] for each in todo["scopes"]} == {"todo:read", "todo:write"}
    if then >= "0002":
        assert todo["contact"] == "ops@example.org"
        assert (todo["claims"], todo["refresh_lifetime"]) == (["department"], DAY)
        assert shown(client, "/roles/editor")["scopes"] == ["todo:write"]
        assert shown(client, "/accounts/bob/grants")["roles"] == ["editor"]
    assert todo["account"] == ("bob" if then >= "0004" else None)
    assert todo["audiences"] == (["https://todo.example.net"] if then >= "0009" else [])
    assert todo["cors_preflight"] is (then >= "0013")
    assert todo["registry_version"] == (2 if then >= "0015" else None)


def credentials_and_keys_work(client: FlaskClient, then: str) -> None:
    by_password = token(client, PASSWORD)
    assert set(by_password["scope"].split()) == {"todo:read", "todo:write"}
    assert by_password["expires_in"] == 600
    assert token(client, SECRET)["scope"] == "todo:read"
    assert "keyosk:admin" in token(client, PASSWORD, audience="keyosk")["scope"]
    more = ["https://todo.example.net"] if then >= "0009" else []
    for name in ("todo", "https://todo.example.org", *more):
        assert token(client, SECRET, audience=name)["scope"] == "todo:read", name
    keys = {each["kid"]: each["state"] for each in shown(client, "/signing-keys")["items"]}
    assert keys[KID] == "active"
    assert KID in {each["kid"] for each in shown(client, "/auth/jwks")["keys"]}
    if then >= "0004":
        assert keys[STOLEN["kid"]] == "compromised"
        entries = shown(client, "/auth/revocations")["entries"]
        (token_entry,) = [each for each in entries if each.get("jti") == "stolen-token"]
        assert token_entry.keys() == {"jti", "expires"}
        (key_entry,) = [each for each in entries if each.get("kid") == STOLEN["kid"]]
        assert key_entry.keys() == {"kid", "expires"}  # whatever they say was their time
    if then >= "0005":
        form = {"grant_type": "refresh_token", "refresh_token": REFRESH.text}
        response = client.post("/auth/token", headers=basic(PASSWORD), data=form)
        assert response.status_code == 200, response.json
        assert response.json
        assert response.json["scope"].split() == ["todo:read", "offline_access"]


def the_audit_log_goes_on(client: FlaskClient, then: str) -> None:
    changed = client.patch("/accounts/bob", headers=basic(PASSWORD), json={"display_name": "B"})
    assert changed.status_code == 200, changed.json
    log = shown(client, "/audit?sort=sequence&target=account/" + BOB)["items"]
    names = [each["after"]["display_name"] for each in log if each["action"] == "account.change"]
    assert names == (["Bob 1", "Bob 2", "Bob 3"] if then >= "0002" else []) + ["B"]


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_what_an_earlier_keyosk_wrote_works_after_the_upgrade(
    migration: str, database_url: str
) -> None:
    of_then(database_url, migration)
    assert app.prepare(settings(database_url)) is None  # nobody takes it for a new one
    with installed(database_url) as keyosk:
        keyosk.signing_keys.refresh()
        client, then = app.create_app(keyosk).test_client(), migration[:4]
        objects_are_there(client, then)
        credentials_and_keys_work(client, then)
        the_audit_log_goes_on(client, then)
        assert keyosk.audit_verifier.verify().fault is None
        assert [finding for finding in keyosk.maintenance.check() if finding.faults] == []


# --- Old and new at a time ------------------------------------------------------------------------

_ADDITIVE: Final = '''
"""What the next version adds."""

from peewee import CharField, TextField


def up(migrator, db):
    db.execute_sql("CREATE TABLE novelty (id VARCHAR(36) PRIMARY KEY)")
    migrator.migrate(
        migrator.add_column("account", "novelty", TextField(null=True)),
        migrator.add_index("account", ("novelty",), False),
    )
'''
_OTHER: Final = '"""What the next version changes."""\n\n\ndef up(migrator, db):\n    pass\n'


def next_version(folder: Path, migration: str, text: str) -> list[str]:
    """The program that this one becomes by one more migration."""
    package = folder / "next" / "keyosk"
    if not package.exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(app.__file__).parent, package, ignore=ignored)
    (package / "storage" / "migrations" / f"{migration}.py").write_text(text)
    start = f"import sys; sys.path.insert(0, {str(package.parent)!r}); "
    return [sys.executable, "-c", f"{start}from keyosk.cli import main; main()"]


@contextmanager
def two_nodes(database_url: str, folder: Path) -> Iterator[tuple[LiveServer, LiveServer]]:
    """One that serves, and another that does not yet."""
    settings_ = {"issuer": "https://login.example.org", "workers": "1"}
    new = LiveServer(database_url, folder, **settings_)
    with LiveServer(database_url, folder, **settings_) as old:
        try:
            yield old, new
        finally:
            new.stop()


def health(server: LiveServer) -> requests.Response:
    return requests.get(f"{server.url}/health/ready", timeout=60)


def test_old_and_new_work_together_after_an_additive_one(database_url: str, tmp_path: Path) -> None:
    with two_nodes(database_url, tmp_path) as (old, new):
        new.program = next_version(tmp_path, "9999_novelty_additive", _ADDITIVE)
        new.start()
        for one, other in ((old, new), (new, old)):
            name = unique("alice")
            response = one.admin().post("/accounts", json={"username": name, "password": PASSWORD})
            assert response.status_code == 201, response.text
            assert other.client(name, PASSWORD).post("/auth/token").status_code == 200
            admin = other.client("admin", ADMIN_PASSWORD)
            bearer = admin.post("/auth/token", data={"audience": "keyosk", "format": "header"}).text
            header, _, value = bearer.strip().partition(": ")
            seen = requests.get(f"{one.url}/accounts/{name}", headers={header: value}, timeout=60)
            assert seen.status_code == 200, seen.text
            changed = other.admin().patch(f"/accounts/{name}", json={"display_name": "A"})
            assert changed.status_code == 200, changed.text
        # One that begins anew: it finds a migration that it does not know.
        old.stop()
        old.start()
        assert old.admin().get("/accounts?q=alice").json()["items"]
        listed = subprocess.run(command("account", "list"), env=old.environment, check=False)
        assert listed.returncode == 0
        assert (health(old).status_code, health(new).status_code) == (200, 200)
        assert "no request is served" not in old.log.read_text()


def test_the_old_one_steps_aside_after_any_other(database_url: str, tmp_path: Path) -> None:
    with two_nodes(database_url, tmp_path) as (old, new):
        new.program = next_version(tmp_path, "9999_novelty", _OTHER)
        new.start()
        until(lambda: health(old).status_code != 200)
        refused = requests.post(f"{old.url}/auth/token", auth=("admin", ADMIN_PASSWORD), timeout=60)
        assert refused.status_code == 503
        assert refused.json()["detail"] == (
            "This database was upgraded by a newer Keyosk (9999_novelty); run that one, or "
            "restore the backup from before the upgrade."
        )
        assert requests.get(f"{old.url}/health/live", timeout=60).status_code == 200
        assert new.client("admin", ADMIN_PASSWORD).post("/auth/token").status_code == 200
        assert old.stop() == 0
        assert old.log.read_text().count("no request is served any more: This database was") == 1
        with pytest.raises(RuntimeError, match="upgraded by a newer Keyosk"):
            old.start()
        assert health(new).status_code == 200


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of each table (type, may it be null, may it be left out), and its indexes.

    An index that is not unique begins with its name.
    """

    tables: dict[str, dict[str, tuple[str, bool, bool]]]
    indexes: set[tuple[str, tuple[str, ...], bool]]


def shape(database: Database) -> Shape:
    raw = database.raw
    tables = {
        table: {
            each.name: (each.data_type, each.null, each.null or each.default is not None)
            for each in raw.get_columns(table)
        }
        for table in raw.get_tables()
    }
    indexes = {
        # By name too, as partial indexes of the same columns are of other rows; a database names
        # those of unique columns as it likes.
        (table, (*(() if index.unique else (index.name,)), *index.columns), index.unique)
        for table in tables
        for index in raw.get_indexes(table)
    }
    return Shape(tables, indexes)


def what_breaks(url: str, migrate: Callable[[Database], object]) -> list[str]:
    """What programs from before a migration could no longer do after it."""
    database = Database(url)
    with schema.exclusive(database):
        before = shape(database)
        migrate(database)
        after = shape(database)
    database.close()
    missing = [
        f"{table}.{column}"
        for table, columns in before.tables.items()
        for column, was in columns.items()
        if after.tables.get(table, {}).get(column) != was
    ]
    missing += [
        f"{table}.{column} must be written"
        for table in before.tables.keys() & after.tables.keys()
        for column, (_, _, optional) in after.tables[table].items()
        if column not in before.tables[table] and not optional
    ]
    missing += [
        f"{table} is unique by {', '.join(by)}"
        for table, by, unique_now in after.indexes - before.indexes
        if unique_now and table in before.tables
    ]
    return missing


def test_an_additive_migration_takes_nothing_from_the_program_before_it(database_url: str) -> None:
    for migration in MIGRATIONS:

        def migrate(database: Database, name: str = migration) -> None:
            Runner(database.raw, str(schema.MIGRATIONS)).up(name)

        broken = what_breaks(database_url, migrate)
        assert not (broken and migration.endswith(schema.ADDITIVE)), (migration, broken)


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("CREATE TABLE novelty (id VARCHAR(36) PRIMARY KEY)", []),
        ("ALTER TABLE role ADD COLUMN novelty TEXT", []),
        ("ALTER TABLE role ADD COLUMN novelty TEXT NOT NULL DEFAULT ''", []),
        ("CREATE INDEX novelty ON role (description)", []),
        ("CREATE UNIQUE INDEX novelty ON role (description)", ["role is unique by description"]),
        ("ALTER TABLE role RENAME COLUMN description TO novelty", ["role.description"]),
        ("ALTER TABLE role DROP COLUMN description", ["role.description"]),
        ("DROP TABLE refusal", ["refusal.account", "refusal.credential"]),
    ],
)
def test_what_is_not_additive_is_seen(statement: str, broken: list[str], migrated_url: str) -> None:
    found = what_breaks(migrated_url, lambda database: database.raw.execute_sql(statement))
    assert set(broken) <= set(found)
    assert bool(broken) is bool(found)


def has_way_back(migration: str) -> bool:
    return "def down(" in (schema.MIGRATIONS / f"{migration}.py").read_text()


@pytest.mark.parametrize("migration", [each for each in MIGRATIONS if has_way_back(each)])
def test_the_way_back_leaves_the_schema_as_it_was(migration: str, database_url: str) -> None:
    of_then(database_url, MIGRATIONS[MIGRATIONS.index(migration) - 1])
    database = Database(database_url)
    runner = Runner(database.raw, str(schema.MIGRATIONS))
    with schema.exclusive(database):
        was = shape(database)
        assert runner.up(migration) == [migration]
        assert shape(database) != was
        assert runner.down() == [migration]
        left = shape(database)
        assert left.tables == was.tables
        assert left.indexes ^ was.indexes == set()
    database.close()
