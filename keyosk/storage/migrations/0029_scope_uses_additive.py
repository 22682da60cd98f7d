"""When scopes were last used, and since when they are held.

For what is held already that is this moment: nothing is known of the time before.
"""

import time

from peewee import (
    BigIntegerField,
    CharField,
    CompositeKey,
    Database,
    ForeignKeyField,
    Model,
    SqliteDatabase,
)
from playhouse.migrate import SchemaMigrator

_MOMENTS = {"grant": "granted_at", "role_scope": "added_at"}


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Make the table and the columns."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Account(Table):
        id = CharField(36, primary_key=True)

    class Scope(Table):
        name = CharField(primary_key=True)

    class ScopeUse(Table):
        account = ForeignKeyField(Account, index=False, on_delete="CASCADE")
        scope = ForeignKeyField(Scope, on_delete="CASCADE")
        issued_on = BigIntegerField()
        named_on = BigIntegerField()

        class Meta:
            primary_key = CompositeKey("account", "scope")

    db.create_tables([ScopeUse])
    # Programs of before go on to write rows without it.
    kind = "INTEGER" if isinstance(db, SqliteDatabase) else "BIGINT"
    for table, column in _MOMENTS.items():
        db.execute_sql(
            f'ALTER TABLE "{table}" ADD COLUMN {column} {kind} NOT NULL DEFAULT {int(time.time())}'
        )


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take them away."""
    for table, column in _MOMENTS.items():
        db.execute_sql(f'ALTER TABLE "{table}" DROP COLUMN {column}')
    db.execute_sql("DROP TABLE scope_use")
