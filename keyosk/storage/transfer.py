"""Copies a database into another one, such as from SQLite to PostgreSQL."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from peewee import AutoField, sort_models  # type: ignore[attr-defined]

from keyosk.errors import Invalid
from keyosk.storage.database import Database
from keyosk.storage.tables import ALL, Account, SigningKey, Table

_AT_ONCE: Final = 500


def copy_rows(source: Database, target: Database) -> int:
    """Copy all rows into an empty, upgraded database, in one transaction; returns their number.

    Only for the holder of the target's ``schema.exclusive``. A SQLite source is locked against
    writes meanwhile. Raises ``Invalid`` if there is anything in the
    target already, ``Unavailable``.
    """
    copied = 0
    tables = sort_models(ALL)  # each after the tables that it refers to
    with source.transaction(), target.transaction():
        refuse_used(target)
        for table in reversed(tables):
            target.write(table.delete())  # rows that migrations wrote into the empty database
        for table in tables:
            for rows in _read(source, table):
                target.insert_all(table, rows)
                copied += len(rows)
    return copied


def refuse_used(target: Database) -> None:
    """Raise ``Invalid`` if a database of any version has been set up."""
    for key in (Account.id, SigningKey.kid):
        if target.row(key.model.select(key)) is not None:
            raise Invalid.field("database", "is in use already; give an empty one")


def _read(database: Database, table: type[Table]) -> Iterator[list[dict[str, Any]]]:
    # Rows with automatic numbers get new ones in the same order; otherwise the next automatic
    # number would be taken.
    columns = [field for field in table._meta.sorted_fields if not isinstance(field, AutoField)]
    order = table._meta.get_primary_keys()
    with database.driver_errors():
        rows = table.select(*columns).order_by(*order).dicts().iterator(database.raw)
        while batch := list(islice(rows, _AT_ONCE)):
            yield batch
