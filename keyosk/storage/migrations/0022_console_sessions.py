"""Console sessions, and by which way a change in the audit log was made."""

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
    """Make the table, and add the columns."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Account(Table):
        id = CharField(36, primary_key=True)

    class ConsoleSession(Table):
        id = CharField(36, primary_key=True)
        account = ForeignKeyField(Account, on_delete="CASCADE")
        password_id = CharField(36)
        digest = BlobField(unique=True)
        address = TextField(null=True)
        agent = TextField()
        created_at = BigIntegerField()
        seen_at = BigIntegerField()
        confirmed_at = BigIntegerField()
        expires_at = BigIntegerField(index=True)
        notice = TextField()

    db.create_tables([ConsoleSession])
    for table in ("audit_row", "waiting_audit_row"):
        migrator.migrate(migrator.add_column(table, "via", CharField(16, null=True)))


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take both away."""
    db.execute_sql("DROP TABLE console_session")
    db.execute_sql("ALTER TABLE audit_row DROP COLUMN via")
    db.execute_sql("ALTER TABLE waiting_audit_row DROP COLUMN via")
