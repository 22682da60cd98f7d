"""What the last verify-service found of each service."""

from peewee import (
    BigIntegerField,
    BooleanField,
    CharField,
    Database,
    ForeignKeyField,
    Model,
    TextField,
)
from playhouse.migrate import SchemaMigrator


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Make the table."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Service(Table):
        id = CharField(36, primary_key=True)

    class Verification(Table):
        service = ForeignKeyField(Service, primary_key=True, on_delete="CASCADE")
        verified_at = BigIntegerField()
        verified_by = TextField()
        url = TextField()
        passed = BooleanField()
        verdict = TextField()
        failed = TextField()

    db.create_tables([Verification])


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Drop it."""
    db.execute_sql("DROP TABLE verification")
