"""Indexes of the API keys that nothing limits, and of those that something limits."""

from peewee import Database
from playhouse.migrate import SchemaMigrator

_INDEXES = {
    "api_key_without_limits": "expires_at IS NULL AND networks IS NULL AND scopes IS NULL",
    "api_key_with_limits": ("expires_at IS NOT NULL OR networks IS NOT NULL OR scopes IS NOT NULL"),
}


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Make them."""
    for name, where in _INDEXES.items():
        db.execute_sql(f"CREATE INDEX {name} ON api_key (id) WHERE {where}")


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take them away."""
    for name in _INDEXES:
        db.execute_sql(f"DROP INDEX {name}")
