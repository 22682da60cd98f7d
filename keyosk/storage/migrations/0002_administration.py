"""Roles, what services say of their tokens, API keys by network and with successors, the audit."""

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    CharField,
    CompositeKey,
    Database,
    ForeignKeyField,
    IntegerField,
    Model,
    PostgresqlDatabase,
    TextField,
)
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add columns and tables, and the indexes that lists walk along."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Account(Table):
        id = CharField(36, primary_key=True)

    class Scope(Table):
        name = CharField(primary_key=True)

    class Role(Table):
        id = CharField(36, primary_key=True)
        created_at = BigIntegerField()
        updated_at = BigIntegerField()
        version = BigIntegerField()
        name = CharField(unique=True)
        description = TextField()

    class RoleScope(Table):
        role = ForeignKeyField(Role, on_delete="CASCADE")
        scope = ForeignKeyField(Scope, on_delete="CASCADE")

        class Meta:
            primary_key = CompositeKey("role", "scope")

    class AuditRow(Table):
        id = CharField(36, primary_key=True)
        sequence = BigIntegerField(null=True, unique=True)
        time = BigIntegerField()
        actor = CharField(36, null=True)
        actor_name = TextField()
        credential = CharField(36, null=True)
        address = TextField(null=True)
        request_id = CharField(36, null=True)
        action = CharField(64)
        target = TextField(null=True)
        before = TextField(null=True)
        after = TextField(null=True)
        outcome = CharField(32)
        hash = CharField(64, null=True)

    class Checkpoint(Table):
        sequence = BigIntegerField(primary_key=True)
        hash = CharField(64)
        time = BigIntegerField()
        signature = TextField()

    class LoginFailure(Table):
        account = CharField(36)
        address = CharField(64)
        minute = BigIntegerField()
        count = IntegerField()

        class Meta:
            primary_key = CompositeKey("account", "address", "minute")

    class Idempotency(Table):
        caller = CharField(80)
        key = CharField(255)
        fingerprint = CharField(64)
        status = IntegerField()
        headers = TextField()
        body = TextField()
        sealed = BlobField(null=True)
        created_at = BigIntegerField(index=True)

        class Meta:
            primary_key = CompositeKey("caller", "key")

    db.create_tables([Role, RoleScope, AuditRow, Checkpoint, LoginFailure, Idempotency])
    migrator.migrate(
        migrator.add_column("account", "display_key", TextField(default="")),
        migrator.add_column("api_key", "networks", TextField(null=True)),
        migrator.add_column("api_key", "successor", CharField(36, null=True)),
        migrator.add_column("service", "contact", TextField(default="")),
        migrator.add_column("service", "signing_algorithm", CharField(16, null=True)),
        migrator.add_column("service", "typ", CharField(16, null=True)),
        migrator.add_column("service", "accepts", CharField(32, default="both")),
        migrator.add_column("service", "refresh_allowed", BooleanField(default=False)),
        migrator.add_column("service", "refresh_lifetime", IntegerField(null=True)),
        migrator.add_column("service", "claims", TextField(default="[]")),
        migrator.drop_not_null("grant", "scope_id"),
        migrator.add_column(
            "grant",
            "role_id",
            ForeignKeyField(Role, field=Role.id, null=True, on_delete="CASCADE"),
        ),
        migrator.add_index("grant", ("account_id", "role_id"), unique=True),
    )
    _fill_display_keys(db)
    _index_lists(db)


def _fill_display_keys(db: Database) -> None:
    update = "UPDATE account SET display_key = ? WHERE id = ?"
    names = db.execute_sql("SELECT id, display_name FROM account WHERE display_name <> ''")
    for account_id, display_name in names.fetchall():
        arguments = (display_name.casefold(), account_id)
        db.execute_sql(update.replace("?", db.param), arguments)


def _index_lists(db: Database) -> None:
    """What each sort order walks along, and what a prefix search looks into."""
    prefix = " text_pattern_ops" if isinstance(db, PostgresqlDatabase) else ""
    for name, columns in (
        ("account_created", "account (created_at, id)"),
        ("account_updated", "account (updated_at, id)"),
        ("account_display_key", f"account (display_key{prefix})"),
        ("account_username_prefix", f"account (username{prefix})"),
        ("api_key_created", "api_key (account_id, created_at, id)"),
        ("api_key_name", "api_key (account_id, name, id)"),
        ("audit_row_time", "audit_row (time, id)"),
        ("audit_row_actor", "audit_row (actor, id)"),
        ("audit_row_target", "audit_row (target, id)"),
    ):
        db.execute_sql(f"CREATE INDEX {name} ON {columns}")
    # Sealing looks for just these.
    db.execute_sql("CREATE INDEX audit_row_unsealed ON audit_row (id) WHERE sequence IS NULL")
