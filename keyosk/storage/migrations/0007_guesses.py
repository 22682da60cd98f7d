"""What is left of each allowance to guess passwords, and from where accounts logged in before."""

from peewee import (
    BigIntegerField,
    BooleanField,
    CharField,
    CompositeKey,
    Database,
    ForeignKeyField,
    Model,
)
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Make the tables."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Account(Table):
        id = CharField(36, primary_key=True)

    class Allowance(Table):
        key = CharField(64, primary_key=True)
        until = BigIntegerField(index=True)
        step = BigIntegerField()
        room = BigIntegerField()

    class KnownSource(Table):
        account = ForeignKeyField(Account, on_delete="CASCADE")
        source = CharField(64)
        seen_at = BigIntegerField()

        class Meta:
            primary_key = CompositeKey("account", "source")

    db.create_tables([Allowance, KnownSource])
    migrator.migrate(migrator.add_column("login_failure", "throttled", BooleanField(default=False)))
