"""Refresh sessions, one row each: however often their tokens are rotated."""

from peewee import (
    BigIntegerField,
    BlobField,
    CharField,
    Database,
    ForeignKeyField,
    Model,
    TextField,
)
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Make the table."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Account(Table):
        id = CharField(36, primary_key=True)

    class ApiKey(Table):
        id = CharField(36, primary_key=True)

    class Session(Table):
        id = CharField(36, primary_key=True)
        account = ForeignKeyField(Account, on_delete="CASCADE")
        password_id = CharField(36, null=True)
        api_key = ForeignKeyField(ApiKey, null=True, on_delete="CASCADE")
        audiences = TextField()
        scopes = TextField()
        digest = BlobField()
        tokens = TextField()
        address = TextField(null=True)
        authenticated_at = BigIntegerField()
        created_at = BigIntegerField()
        rotated_at = BigIntegerField()
        expires_at = BigIntegerField(index=True)

    db.create_tables([Session])
