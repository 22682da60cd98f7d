"""Indexes that find API keys of all accounts, and audit rows by credential."""

from peewee import Database, PostgresqlDatabase
from playhouse.migrate import SchemaMigrator

#: Each with the columns and the rows that it has.
_INDEXES = {
    "api_key_any_name": ("name, id", ""),
    "api_key_enabled": ("enabled, id", ""),
    "api_key_expires_at": ("expires_at, id", "expires_at IS NOT NULL"),
    "api_key_unused": ("COALESCE(last_used_at, created_at)", ""),
    "api_key_anywhere": ("id", "networks IS NULL"),
    "api_key_limited": ("id", "networks IS NOT NULL"),
}


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Make them."""
    # By code point, as prefixes are compared, whatever the database's own collation is.
    by_code_point = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    db.execute_sql(f"CREATE INDEX api_key_prefix ON api_key (prefix{by_code_point}, id)")
    for name, (columns, rows) in _INDEXES.items():
        where = f" WHERE {rows}" if rows else ""
        db.execute_sql(f"CREATE INDEX {name} ON api_key ({columns}){where}")
    db.execute_sql(
        "CREATE INDEX audit_row_credential ON audit_row (credential, sequence)"
        " WHERE credential IS NOT NULL"
    )


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take them away."""
    for name in ("audit_row_credential", *_INDEXES, "api_key_prefix"):
        db.execute_sql(f"DROP INDEX {name}")
