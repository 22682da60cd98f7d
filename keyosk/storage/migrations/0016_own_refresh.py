"""Refresh tokens for Keyosk's own API, which ``keyosk login`` keeps."""

from peewee import BooleanField, CharField, Database, IntegerField, Model
from playhouse.migrate import SchemaMigrator

_WEEK = 7 * 86_400


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Allow them: nobody could until now."""

    class Service(Model):
        name = CharField(255)
        refresh_allowed = BooleanField()
        refresh_lifetime = IntegerField(null=True)

        class Meta:
            database = db
            legacy_table_names = False

    own = Service.update(refresh_allowed=True, refresh_lifetime=_WEEK)
    own.where(Service.name == "keyosk").execute()
