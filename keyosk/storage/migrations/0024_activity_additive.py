"""What was counted per minute, and which nodes there are."""

from peewee import BigIntegerField, CharField, CompositeKey, Database, Model
from playhouse.migrate import SchemaMigrator


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Make the tables."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Activity(Table):
        minute = BigIntegerField()
        kind = CharField(64)
        count = BigIntegerField()

        class Meta:
            primary_key = CompositeKey("minute", "kind")

    class Node(Table):
        name = CharField(primary_key=True)
        version = CharField(64)
        started_at = BigIntegerField()
        seen_at = BigIntegerField()

    db.create_tables([Activity, Node])


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Drop them."""
    for table in ("node", "activity"):
        db.execute_sql(f"DROP TABLE {table}")
