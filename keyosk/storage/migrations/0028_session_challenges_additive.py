"""What a passkey is asked to sign within a console session."""

from peewee import BigIntegerField, BlobField, Database
from playhouse.migrate import SchemaMigrator

_SESSION = "console_session"


def up(migrator: SchemaMigrator, _db: Database) -> None:
    """Add the columns."""
    migrator.migrate(
        migrator.add_column(_SESSION, "challenge", BlobField(null=True)),
        migrator.add_column(_SESSION, "challenged_at", BigIntegerField(null=True)),
    )


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take them away."""
    for column in ("challenge", "challenged_at"):
        db.execute_sql(f"ALTER TABLE {_SESSION} DROP COLUMN {column}")
