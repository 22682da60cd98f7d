"""Revocations, how long tokens may live, and the account that acts for a service."""

from peewee import (
    BigIntegerField,
    CharField,
    CompositeKey,
    Database,
    ForeignKeyField,
    Model,
    TextField,
)
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add the tables and columns."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Account(Table):
        id = CharField(36, primary_key=True)

    class Service(Table):
        id = CharField(36, primary_key=True)

    class Revocation(Table):
        sequence = BigIntegerField(primary_key=True)
        claim = CharField(8)
        value = CharField(255)
        issued_before = BigIntegerField(null=True)
        expires = BigIntegerField(index=True)

        class Meta:
            indexes = ((("value", "claim"), False),)

    class Lifetime(Table):
        seconds = BigIntegerField(primary_key=True)
        ended_at = BigIntegerField(null=True)

    class Exchange(Table):
        service = ForeignKeyField(Service, on_delete="CASCADE")
        target = ForeignKeyField(Service, on_delete="CASCADE")
        scopes = TextField()

        class Meta:
            primary_key = CompositeKey("service", "target")

    db.create_tables([Revocation, Lifetime, Exchange])
    migrator.migrate(
        migrator.add_column("account", "tokens_from", BigIntegerField(null=True)),
        migrator.add_column("api_key", "tokens_from", BigIntegerField(null=True)),
        migrator.add_column(
            "service",
            "account_id",
            ForeignKeyField(Account, field=Account.id, null=True, on_delete="SET NULL"),
        ),
    )
