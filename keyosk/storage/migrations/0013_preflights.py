"""Whether CORS preflights pass forward authentication."""

from peewee import BooleanField, Database
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add the column."""
    # Null, as SQLite would else make the table anew, and its references would take rows along.
    migrator.migrate(migrator.add_column("service", "cors_preflight", BooleanField(null=True)))
