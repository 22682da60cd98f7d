"""When signing keys go, whom a rotation waits for, and which keys services have fetched."""

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


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add the columns and the table."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Service(Table):
        id = CharField(36, primary_key=True)

    class KeySight(Table):
        service = ForeignKeyField(Service, primary_key=True, on_delete="CASCADE")
        kids = TextField()
        seen_at = BigIntegerField()

    db.create_tables([KeySight])
    migrator.migrate(
        migrator.add_column("signing_key", "gone_at", BigIntegerField(null=True)),
        migrator.add_column("signing_key", "when_seen", BooleanField(default=False)),
    )
    # SECURITY: two processes that both find no next key cannot both make one.
    db.execute_sql(
        "CREATE UNIQUE INDEX signing_key_next ON signing_key (algorithm) WHERE state = 'next'"
    )
