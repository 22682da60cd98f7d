"""Whether a service is a container registry, and of which version."""

from peewee import Database, IntegerField
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add the column."""
    migrator.migrate(migrator.add_column("service", "registry_version", IntegerField(null=True)))
