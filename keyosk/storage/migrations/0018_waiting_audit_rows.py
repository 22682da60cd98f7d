"""Rows of the audit log that wait for their place have a table of their own.

A row is then written to the log once, with its place, and not changed afterwards; the log needs no
index of ids, and a hash takes 32 bytes.
"""

from peewee import (
    BigIntegerField,
    BlobField,
    CharField,
    Database,
    Model,
    PostgresqlDatabase,
    TextField,
)
from playhouse.migrate import SchemaMigrator

#: The columns of both.
_SAME = (
    "id, time, actor, actor_name, credential, address, request_id, action, target, "
    '"before", "after", outcome'
)
#: Each with the sequence, the order of the list, and which rows it has.
_INDEXES = {
    "time": "",
    "actor": "actor IS NOT NULL",
    "actor_name": "",
    "action": "",
    "target": "target IS NOT NULL",
    "outcome": "outcome <> 'done'",
}


class _Row(Model):
    time = BigIntegerField()
    actor = CharField(36, null=True)
    actor_name = TextField()
    credential = CharField(36, null=True)
    address = TextField(null=True)
    request_id = CharField(36, null=True)
    action = CharField(64)
    target = TextField(null=True)
    before = TextField(null=True)
    after = TextField(null=True)
    outcome = CharField(32)


class _Int8Field(BigIntegerField):
    field_type = "INT8"


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Copy the rows into their tables, in their order."""

    class Waiting(_Row):
        id = CharField(36, primary_key=True)

        class Meta:
            database = db
            table_name = "waiting_audit_row"

    class Sealed(_Row):
        sequence = _Int8Field(primary_key=True)
        id = CharField(36)
        hash = BlobField()

        class Meta:
            database = db
            table_name = "new_audit_row"

    db.create_tables([Waiting, Sealed], safe=False)
    db.execute_sql(
        f"INSERT INTO waiting_audit_row ({_SAME}) SELECT {_SAME} FROM audit_row"  # noqa: S608  # nosec B608
        " WHERE sequence IS NULL"
    )
    # What is not a hash stays as it is: verifying the chain will tell, not the upgrade.
    if isinstance(db, PostgresqlDatabase):
        decoded = (
            "CASE WHEN hash ~ '^([0-9a-f]{2})*$' THEN decode(hash, 'hex')"
            " ELSE convert_to(hash, 'UTF8') END"
        )
    else:
        db.connection().create_function("bytes_of", 1, _bytes_of, deterministic=True)
        decoded = "bytes_of(hash)"
    db.execute_sql(
        f"INSERT INTO new_audit_row (sequence, hash, {_SAME}) SELECT sequence, {decoded}, {_SAME}"  # noqa: S608  # nosec B608
        " FROM audit_row WHERE sequence IS NOT NULL ORDER BY sequence"
    )
    _replace(db)
    for column, which in _INDEXES.items():
        where = f" WHERE {which}" if which else ""
        db.execute_sql(f"CREATE INDEX audit_row_{column} ON audit_row ({column}, sequence){where}")


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Put all rows into one table again."""

    class Both(_Row):
        id = CharField(36, primary_key=True)
        sequence = BigIntegerField(null=True)
        hash = CharField(64, null=True)

        class Meta:
            database = db
            table_name = "new_audit_row"

    db.create_tables([Both], safe=False)
    is_postgresql = isinstance(db, PostgresqlDatabase)
    encoded = "encode(hash, 'hex')" if is_postgresql else "lower(hex(hash))"
    db.execute_sql(
        f"INSERT INTO new_audit_row (sequence, hash, {_SAME}) SELECT sequence, {encoded}, {_SAME}"  # noqa: S608  # nosec B608
        " FROM audit_row ORDER BY sequence"
    )
    db.execute_sql(
        f"INSERT INTO new_audit_row ({_SAME}) SELECT {_SAME} FROM waiting_audit_row"  # noqa: S608  # nosec B608
    )
    db.execute_sql("DROP TABLE waiting_audit_row")
    _replace(db)
    db.execute_sql("CREATE UNIQUE INDEX audit_row_sequence ON audit_row (sequence)")
    db.execute_sql("CREATE INDEX audit_row_unsealed ON audit_row (id) WHERE sequence IS NULL")
    for column, which in _INDEXES.items():
        where = f" AND {which}" if which else ""
        db.execute_sql(
            f"CREATE INDEX audit_row_{column} ON audit_row ({column}, sequence)"
            f" WHERE sequence IS NOT NULL{where}"
        )


def _bytes_of(hash_: str) -> bytes:
    try:
        return bytes.fromhex(hash_)
    except ValueError:
        return hash_.encode()


def _replace(db: Database) -> None:
    db.execute_sql("DROP TABLE audit_row")
    db.execute_sql("ALTER TABLE new_audit_row RENAME TO audit_row")
    if isinstance(db, PostgresqlDatabase):
        db.execute_sql("ALTER INDEX new_audit_row_pkey RENAME TO audit_row_pkey")
