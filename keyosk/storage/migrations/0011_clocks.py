"""By which clock an allowance was counted, and counts of what was refused to whom."""

from peewee import (
    BigIntegerField,
    CharField,
    CompositeKey,
    Database,
    IntegerField,
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

    class Refusal(Table):
        account = CharField(36)
        credential = CharField(36)
        action = CharField(64)
        minute = BigIntegerField()
        count = IntegerField()
        sample = TextField()

        class Meta:
            primary_key = CompositeKey("account", "credential", "action", "minute")

    db.create_tables([Refusal])
    # By which clock these were counted is not known, and one that was ahead may have written them.
    db.execute_sql("DELETE FROM allowance")
    migrator.migrate(
        migrator.add_column("allowance", "counted_at", BigIntegerField(default=0)),
        migrator.add_column("allowance", "latest_at", BigIntegerField(default=0)),
    )
