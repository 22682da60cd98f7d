"""Indexes that serve each filter of a list together with an order; others that nothing needed."""

from peewee import Database, PostgresqlDatabase
from playhouse.migrate import SchemaMigrator

#: Each with the sequence, the order of the list, and of sealed rows only.
_AUDIT = {
    "time": "",
    "actor": " AND actor IS NOT NULL",
    "actor_name": "",
    "action": "",
    "target": " AND target IS NOT NULL",
    "outcome": " AND outcome <> 'done'",
}


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Make the new indexes, then drop those that they replace or that began like another."""
    is_postgresql = isinstance(db, PostgresqlDatabase)
    # By code point, as prefixes are compared, whatever the database's own collation is.
    by_code_point = ' COLLATE "C"' if is_postgresql else ""
    for statement in (
        "DROP INDEX account_display_key",
        "DROP INDEX account_username_prefix",
        f"CREATE INDEX account_display_key ON account (display_key{by_code_point}, id)"
        " WHERE display_key <> ''",
        "CREATE INDEX account_kind ON account (kind, enabled, id)",
        'CREATE UNIQUE INDEX grant_role_id_account_id ON "grant" (role_id, account_id)'
        " WHERE role_id IS NOT NULL",
        'CREATE INDEX grant_scope ON "grant" (scope_id, account_id) WHERE scope_id IS NOT NULL',
        "DROP INDEX grant_account_id_role_id",
        "DROP INDEX grant_account_id",
        "DROP INDEX grant_scope_id",
        "DROP INDEX grant_role_id",
        "DROP INDEX api_key_account_id",
        "DROP INDEX audit_row_time",
        "DROP INDEX audit_row_actor",
        "DROP INDEX audit_row_target",
        *(
            f"CREATE INDEX audit_row_{column} ON audit_row ({column}, sequence)"
            f" WHERE sequence IS NOT NULL{more}"
            for column, more in _AUDIT.items()
        ),
    ):
        db.execute_sql(statement)
    if is_postgresql:  # on SQLite the unique one is by code point
        db.execute_sql('CREATE INDEX account_username_prefix ON account (username COLLATE "C")')


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Put the indexes back."""
    is_postgresql = isinstance(db, PostgresqlDatabase)
    prefix = " text_pattern_ops" if is_postgresql else ""
    if is_postgresql:
        db.execute_sql("DROP INDEX account_username_prefix")
    for statement in (
        *(f"DROP INDEX audit_row_{column}" for column in _AUDIT),
        *(
            f"CREATE INDEX audit_row_{column} ON audit_row ({column}, id)"
            for column in ("time", "actor", "target")
        ),
        "CREATE INDEX api_key_account_id ON api_key (account_id)",
        'CREATE INDEX grant_role_id ON "grant" (role_id)',
        'CREATE INDEX grant_scope_id ON "grant" (scope_id)',
        'CREATE INDEX grant_account_id ON "grant" (account_id)',
        'CREATE UNIQUE INDEX grant_account_id_role_id ON "grant" (account_id, role_id)',
        "DROP INDEX grant_scope",
        "DROP INDEX grant_role_id_account_id",
        "DROP INDEX account_kind",
        "DROP INDEX account_display_key",
        f"CREATE INDEX account_display_key ON account (display_key{prefix})",
        f"CREATE INDEX account_username_prefix ON account (username{prefix})",
    ):
        db.execute_sql(statement)
