"""An index that tells at once whether a revocation is of a time to come: each change asks."""

from peewee import Database
from playhouse.migrate import SchemaMigrator


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Make it."""
    db.execute_sql(
        "CREATE INDEX revocation_issued_before ON revocation (issued_before)"
        " WHERE issued_before IS NOT NULL"
    )


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take it away."""
    db.execute_sql("DROP INDEX revocation_issued_before")
