"""Entries of stolen signing keys without ``issued_before``, as long as a cache may hold the key."""

import time
from typing import Any

from peewee import BigIntegerField, CharField, Database, Model, fn
from playhouse.migrate import SchemaMigrator

_LIVES = 7 * 86_400


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Write them anew, under new numbers, so that whoever polls gets them."""

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False

    class SigningKey(Table):
        kid = CharField(43, primary_key=True)
        state = CharField(16)
        gone_at = BigIntegerField(null=True)

    class Revocation(Table):
        sequence = BigIntegerField(primary_key=True)
        claim = CharField(8)
        value = CharField(255)
        issued_before = BigIntegerField(null=True)
        expires = BigIntegerField()

    now = int(time.time())
    # Before those that they replace are deleted: the highest number must never fall.
    sequence = Revocation.select(fn.MAX(Revocation.sequence)).scalar() or 0
    stolen = SigningKey.select(SigningKey.kid, SigningKey.gone_at).where(
        SigningKey.state == "compromised"
    )
    rows: Any = stolen.order_by(SigningKey.gone_at, SigningKey.kid).tuples()
    for kid, gone_at in rows:
        # A clock that was ahead must not keep it for longer.
        expires = min(gone_at or now, now) + _LIVES
        if expires > now:
            sequence += 1
            entry = {"sequence": sequence, "claim": "kid", "value": kid, "expires": expires}
            Revocation.insert(entry).execute()
    dated = (Revocation.claim == "kid") & Revocation.issued_before.is_null(False)
    Revocation.delete().where(dated & (Revocation.sequence < sequence)).execute()
    # One that is left is the last of all, and holds the number.
    Revocation.update(issued_before=None).where(dated).execute()
