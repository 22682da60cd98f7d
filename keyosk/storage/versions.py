"""Writes that depend on the version of the object."""

from typing import Any

import peewee
from peewee import fn

from keyosk.errors import Stale
from keyosk.ids import new_version
from keyosk.model import Versions
from keyosk.storage.database import Database


def following(database: Database, table: Any) -> Any:
    """Return the version of an object of a table after a write, as the database computes it.

    It grows with time, so that a database that was restored to an earlier state repeats no version,
    and no earlier entity tag matches a later object.
    """
    larger = fn.MAX if database.is_sqlite else fn.GREATEST
    return larger(table.version + 1, new_version())


def change(
    database: Database, query: "peewee.ModelUpdate", versions: Versions | None, *, noun: str
) -> int:
    """Run the update of one object; returns its new version.

    Only if the object is at a wanted version (``None``: any). Raises ``Stale``,
    ``peewee.IntegrityError``.
    """
    version = query.model.version
    rows = database.returned(_at(query, versions, noun=noun).returning(version))
    if not rows:
        raise Stale.version(noun)
    number: int = rows[0]["version"]
    return number


def remove(
    database: Database, query: "peewee.ModelDelete", versions: Versions | None, *, noun: str
) -> None:
    """Run the deletion of one object, as ``change`` does. Raises ``Stale``."""
    if not database.write(_at(query, versions, noun=noun)):
        raise Stale.version(noun)


def _at(query: Any, versions: Versions | None, *, noun: str) -> Any:
    if versions is None:
        return query
    if versions.any_of is not None and not versions.any_of:
        raise Stale.version(noun)  # no version matches, so no query is needed
    column = query.model.version
    if versions.any_of is not None:
        query = query.where(column.in_(sorted(versions.any_of)))
    if versions.none_of:
        query = query.where(column.not_in(sorted(versions.none_of)))
    return query
