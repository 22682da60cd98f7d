"""Whose token a revocation is for, so that one entry can take the place of many."""

from peewee import BigIntegerField, CharField, Database
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add the columns; nobody knows them of entries from before, which expire soon."""
    migrator.migrate(
        migrator.add_column("revocation", "account", CharField(36, null=True)),
        migrator.add_column("revocation", "issued_at", BigIntegerField(null=True)),
        migrator.add_index("revocation", ("account",), False),
    )
