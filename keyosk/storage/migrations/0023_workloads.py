"""Issuers whose tokens log workloads in, their rules and keys, and the tokens that were used."""

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    CharField,
    Database,
    ForeignKeyField,
    Model,
    TextField,
)
from playhouse.migrate import SchemaMigrator

_NEW = ("used_assertion", "fetched_keys", "workload_rule", "trusted_issuer")


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Make the tables."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Account(Table):
        id = CharField(36, primary_key=True)

    class TrustedIssuer(Table):
        id = CharField(36, primary_key=True)
        created_at = BigIntegerField()
        updated_at = BigIntegerField()
        version = BigIntegerField()
        name = CharField(unique=True)
        description = TextField()
        issuer = CharField(512)
        audience = CharField()
        preset = CharField(32, null=True)
        jwks_uri = TextField(null=True)
        keys = TextField(null=True)
        algorithms = TextField()
        max_lifetime = BigIntegerField()
        required_claims = TextField()
        prefix_claims = TextField()
        allow_private = BooleanField()
        enabled = BooleanField()

        class Meta:
            indexes = ((("issuer", "audience"), True),)

    class WorkloadRule(Table):
        id = CharField(36, primary_key=True)
        created_at = BigIntegerField()
        updated_at = BigIntegerField()
        version = BigIntegerField()
        issuer = ForeignKeyField(TrustedIssuer, index=False, on_delete="CASCADE")
        name = CharField()
        description = TextField()
        claims = TextField()
        account = ForeignKeyField(Account, on_delete="CASCADE")
        scopes = TextField(null=True)
        once = BooleanField()
        enabled = BooleanField()
        expires_at = BigIntegerField(null=True)
        last_used_at = BigIntegerField(null=True)
        tokens_from = BigIntegerField(null=True)

        class Meta:
            indexes = ((("issuer", "name"), True),)

    class FetchedKeys(Table):
        issuer = ForeignKeyField(TrustedIssuer, primary_key=True, on_delete="CASCADE")
        document = TextField(null=True)
        fetched_at = BigIntegerField(null=True)
        fresh_until = BigIntegerField(null=True)
        tried_at = BigIntegerField()
        fault = TextField(null=True)

    class UsedAssertion(Table):
        digest = BlobField(primary_key=True)
        expires_at = BigIntegerField(index=True)

    db.create_tables([TrustedIssuer, WorkloadRule, FetchedKeys, UsedAssertion])


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take them away."""
    for table in _NEW:
        db.execute_sql(f'DROP TABLE "{table}"')
