"""What declarations made, and under which owner's name."""

from peewee import CharField, CompositeKey, Database, Model
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Make the table."""

    class Declared(Model):
        object_id = CharField(36)
        scope = CharField()
        role = CharField()
        owner = CharField(64)

        class Meta:
            database = db
            legacy_table_names = False
            primary_key = CompositeKey("object_id", "scope", "role")

    db.create_tables([Declared])
