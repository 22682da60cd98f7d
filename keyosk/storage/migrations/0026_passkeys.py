"""Passkeys, and what they are challenged with."""

from peewee import BigIntegerField, BlobField, Database
from playhouse.migrate import SchemaMigrator

_FACTOR = "second_factor"


def up(migrator: SchemaMigrator, _db: Database) -> None:
    """Add the columns."""
    migrator.migrate(
        migrator.add_column(_FACTOR, "credential_id", BlobField(null=True)),
        migrator.add_column(_FACTOR, "public_key", BlobField(null=True)),
        migrator.add_column(_FACTOR, "sign_count", BigIntegerField(null=True)),
        migrator.add_index(_FACTOR, ("credential_id",), True),
        migrator.add_column("pending_login", "challenge", BlobField(null=True)),
    )


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take them away."""
    db.execute_sql("DROP INDEX second_factor_credential_id")
    for column in ("credential_id", "public_key", "sign_count"):
        db.execute_sql(f"ALTER TABLE {_FACTOR} DROP COLUMN {column}")
    db.execute_sql("ALTER TABLE pending_login DROP COLUMN challenge")
