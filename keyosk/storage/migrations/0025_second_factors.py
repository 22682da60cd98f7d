"""Second factors of accounts, logins that wait for one, and how a console session began."""

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

_NEW = ("recovery_code", "second_factor", "pending_login")


def up(migrator: SchemaMigrator, db: Database) -> None:
    """Make the tables, and add the column."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Account(Table):
        id = CharField(36, primary_key=True)

    class PendingLogin(Table):
        digest = BlobField(primary_key=True)
        account = ForeignKeyField(Account, on_delete="CASCADE")
        password_id = CharField(36)
        created_at = BigIntegerField()
        expires_at = BigIntegerField(index=True)

    class SecondFactor(Table):
        id = CharField(36, primary_key=True)
        account = ForeignKeyField(Account, on_delete="CASCADE")
        kind = CharField(16)
        name = TextField()
        created_at = BigIntegerField()
        last_used_at = BigIntegerField(null=True)
        sealed = BlobField(null=True)
        last_step = BigIntegerField(null=True)

    class RecoveryCode(Table):
        digest = BlobField(primary_key=True)
        factor = ForeignKeyField(SecondFactor, on_delete="CASCADE")

    db.create_tables([PendingLogin, SecondFactor, RecoveryCode])
    migrator.migrate(migrator.add_column("console_session", "amr", TextField(null=True)))


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take them away."""
    for table in _NEW:
        db.execute_sql(f"DROP TABLE {table}")
    db.execute_sql("ALTER TABLE console_session DROP COLUMN amr")
