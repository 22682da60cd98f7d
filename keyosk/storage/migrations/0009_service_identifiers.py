"""One namespace for the names and audiences of services, and more spellings of audiences."""

import re

from peewee import CharField, Database, ForeignKeyField, Model, TextField
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Add the column and the table, and fill the table."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Service(Table):
        id = CharField(36, primary_key=True)

    class ServiceIdentifier(Table):
        key = CharField(primary_key=True)
        service = ForeignKeyField(Service, on_delete="CASCADE")

    db.create_tables([ServiceIdentifier])
    # Null, as SQLite would else make the table anew, and its references would take rows along.
    migrator.migrate(migrator.add_column("service", "audiences", TextField(null=True)))
    fill(db)


def fill(db: Database) -> None:
    """Give each service its identifiers; of two that share one the older keeps it.

    ``keyosk database check`` tells of such.
    """
    taken = set()
    insert = "INSERT INTO service_identifier (key, service_id) VALUES (?, ?)"
    rows = db.execute_sql("SELECT id, name, audience FROM service ORDER BY id").fetchall()
    for service_id, name, audience in rows:
        for text in (service_id, name, audience):
            key = re.sub(r"^(https://[^/]+):443(?=/|$)", r"\1", text.lower()).rstrip("/") or text
            if key not in taken:
                taken.add(key)
                db.execute_sql(insert.replace("?", db.param), (key, service_id))
