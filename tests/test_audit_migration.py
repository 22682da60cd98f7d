"""The audit log before and after its rows that wait had a table of their own (migration 0018)."""

from typing import Any

import pytest
from playhouse.migrations import Runner

from installed import installed, rows_of
from keyosk.audit_chain import GENESIS, row_hash
from keyosk.installation import Installation
from keyosk.model import OPERATOR, AuditRow, ListQuery
from keyosk.storage import schema

pytestmark = pytest.mark.every_database(always=True)

_FIRST = "0018_waiting_audit_rows"
#: How rows were written until then.
_OLD = "INSERT INTO audit_row ({}) VALUES ({})"


def written(keyosk: Installation, *names: str) -> None:
    for name in names:
        keyosk.grants.create_account(OPERATOR, [], username=name, display_name="Zoë")


def migrate(keyosk: Installation, to: str | None) -> None:
    runner = Runner(keyosk.database.raw, str(schema.MIGRATIONS))
    if to is None:
        assert list(runner.up())
    else:
        assert list(runner.down(to))


def insert_old(keyosk: Installation, row: dict[str, Any]) -> None:
    raw = keyosk.database.raw
    names = ", ".join(f'"{name}"' for name in row)
    raw.execute_sql(_OLD.format(names, ", ".join([raw.param] * len(row))), list(row.values()))


def old_rows(keyosk: Installation) -> list[AuditRow]:
    cursor = keyosk.database.raw.execute_sql("SELECT * FROM audit_row ORDER BY sequence, id")
    names = [each[0] for each in cursor.description]
    return [AuditRow(**dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def test_a_log_of_old_is_verified_afterwards_and_goes_on(prepared_url: str) -> None:
    with installed(prepared_url) as keyosk:
        written(keyosk, "alice", "bob")
        assert keyosk.audit_verifier.verify().fault is None  # sealed, with a checkpoint
        written(keyosk, "carol", "dave")
        before = keyosk.database.raw.execute_sql("SELECT count(*) FROM checkpoint").fetchall()

        migrate(keyosk, _FIRST)
        rows = old_rows(keyosk)
        sealed = [row for row in rows if row.sequence is not None]
        waiting = [row for row in rows if row.sequence is None]
        assert [row.action for row in waiting] == ["account.create"] * 2
        assert [row.sequence for row in sealed] == list(range(1, len(sealed) + 1))
        assert all(isinstance(row.hash, str) and len(row.hash) == 64 for row in sealed)
        # A row that a Keyosk of then adds, with the spaces that its JSON had.
        template = rows_of(keyosk, "SELECT * FROM audit_row WHERE sequence IS NULL ORDER BY id")
        assert len(template) == 2
        last = sealed[-1]
        assert last.sequence is not None
        assert last.hash is not None
        added = {
            "id": "01a00000-0000-7000-8000-000000000000",
            "sequence": last.sequence + 1,
            "time": last.time,
            "actor_name": "operator",
            "action": "account.change",
            "target": "account/1",
            "after": '{"display_name": "Zo\u00eb", "enabled": true}',
            "outcome": "done",
        }
        shown = AuditRow(
            **{name: added.get(name) for name in AuditRow.__slots__ if name != "after"},  # type: ignore[arg-type]
            after={"display_name": "Zo\u00eb", "enabled": True},
        )
        insert_old(keyosk, {**added, "hash": row_hash(shown, last.hash)})

        migrate(keyosk, None)
        verdict = keyosk.audit_verifier.verify()
        assert (verdict.fault, verdict.rows) == (None, len(sealed) + 3)
        assert (
            before <= keyosk.database.raw.execute_sql("SELECT count(*) FROM checkpoint").fetchall()
        )
        actions = [row.action for row in keyosk.audit.page(ListQuery(limit=100, sort="sequence"))]
        assert actions[-3:] == ["account.change", "account.create", "account.create"]
        written(keyosk, "erin")
        assert keyosk.audit_verifier.verify().rows == len(sealed) + 4
        assert rows_of(keyosk, "SELECT count(*) FROM waiting_audit_row") == [(0,)]
        previous = GENESIS
        for row in keyosk.audit.page(ListQuery(limit=100, sort="sequence")):
            previous = row_hash(row, previous)
            assert row.hash == previous


@pytest.mark.attack
def test_what_somebody_changed_before_the_upgrade_is_found_after_it(prepared_url: str) -> None:
    with installed(prepared_url) as keyosk:
        written(keyosk, "alice", "bob")
        keyosk.audit.seal()
        migrate(keyosk, _FIRST)
        raw = keyosk.database.raw
        raw.execute_sql("UPDATE audit_row SET hash = 'no hash at all' WHERE sequence = 2")
        migrate(keyosk, None)
        assert keyosk.audit_verifier.verify().fault == "row 2 was changed"
