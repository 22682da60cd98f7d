"""Indexes are dropped that find nothing that their table's primary key does not find."""

from peewee import Database
from playhouse.migrate import SchemaMigrator

_BEGIN_AS_THE_KEY = {
    "known_source_account_id": "known_source (account_id)",
    "role_scope_role_id": "role_scope (role_id)",
    "exchange_service_id": "exchange (service_id)",
}


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Drop them."""
    for name in _BEGIN_AS_THE_KEY:
        db.execute_sql(f"DROP INDEX {name}")


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Make them again."""
    for name, columns in _BEGIN_AS_THE_KEY.items():
        db.execute_sql(f"CREATE INDEX {name} ON {columns}")
