"""Accounts with passwords and API keys, services with scopes, grants, signing keys."""

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    CharField,
    Database,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Make all tables."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Versioned(Table):
        id = CharField(36, primary_key=True)
        created_at = BigIntegerField()
        updated_at = BigIntegerField()
        version = BigIntegerField()

    class Account(Versioned):
        username = CharField(unique=True)
        kind = CharField(16)
        display_name = TextField()
        enabled = BooleanField()
        claims = TextField()
        metadata = TextField()
        expires_at = BigIntegerField(null=True)
        last_login_at = BigIntegerField(null=True)

    class Password(Table):
        account = ForeignKeyField(Account, primary_key=True, on_delete="CASCADE")
        id = CharField(36, unique=True)
        hash = TextField()
        changed_at = BigIntegerField()

    class ApiKey(Versioned):
        account = ForeignKeyField(Account, on_delete="CASCADE")
        name = TextField()
        description = TextField()
        digest = BlobField(unique=True)
        prefix = CharField(16)
        scopes = TextField(null=True)
        enabled = BooleanField()
        expires_at = BigIntegerField(null=True)
        last_used_at = BigIntegerField(null=True)

    class Service(Versioned):
        name = CharField(unique=True)
        audience = CharField(unique=True)
        title = TextField()
        description = TextField()
        enabled = BooleanField()
        on_request_only = BooleanField()
        token_lifetime = IntegerField(null=True)

    class Scope(Table):
        name = CharField(primary_key=True)
        service = ForeignKeyField(Service, on_delete="CASCADE")
        description = TextField()

    class Grant(Table):
        account = ForeignKeyField(Account, on_delete="CASCADE")
        scope = ForeignKeyField(Scope, on_delete="CASCADE")
        credential = CharField(16, null=True)
        until = BigIntegerField(null=True)

        class Meta:
            indexes = ((("account", "scope"), True),)

    class SigningKey(Table):
        kid = CharField(43, primary_key=True)
        algorithm = CharField(16)
        state = CharField(16)
        public = TextField()
        sealed = BlobField()
        published_at = BigIntegerField()
        active_from = BigIntegerField(null=True)
        retired_at = BigIntegerField(null=True)
        created_at = BigIntegerField()

    db.create_tables([Account, Password, ApiKey, Service, Scope, Grant, SigningKey])
    # SECURITY: two processes that both find no active key cannot both make one.
    db.execute_sql(
        "CREATE UNIQUE INDEX signing_key_active ON signing_key (algorithm) WHERE state = 'active'"
    )
