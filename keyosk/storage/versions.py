"""Writes that are made only at certain versions of an object."""

from typing import TypeVar

import peewee

from keyosk.model import Versions

_Write = TypeVar("_Write", "peewee.ModelUpdate", "peewee.ModelDelete")


def at_version(query: _Write, column: peewee.Field, wanted: Versions | None) -> _Write:
    """The write, made only where the object is at a version that is wanted; ``None``: at any."""
    if wanted is not None and wanted.among is not None:
        query = query.where(column.in_(sorted(wanted.among)))
    if wanted is not None and wanted.but:
        query = query.where(column.not_in(sorted(wanted.but)))
    return query
