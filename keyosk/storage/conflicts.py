"""What a violated constraint means to callers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import peewee

from keyosk.errors import BadCredentials, Conflict
from keyosk.storage import driver_errors

#: Nothing more can be said: PostgreSQL answers no question in a transaction that failed.
GONE: Final = "Something that is named here was just changed or deleted: send the request again."


def conflict(
    error: peewee.IntegrityError,
    table: type[peewee.Model],
    fields: Mapping[str, str],
    *,
    field: str | None = None,
    reference: str | None = None,
) -> Conflict:
    """Return the ``Conflict`` that a violated uniqueness means; ``fields`` maps column to sentence.

    ``field``: what callers call the column, where its name is another. ``reference``: the field
    that names other objects, which may have been deleted since they were looked up.

    SQLite names table and column in its message. PostgreSQL names the index, which peewee named
    after them, in a field of the error: its message may be in any language.
    """
    if reference is not None and driver_errors.is_missing_reference(error):
        return Conflict(reference, GONE)
    diagnosis = getattr(driver_errors.original_of(error), "diag", None)
    index = getattr(diagnosis, "constraint_name", None)
    text = str(error).partition("\n")[0]
    name, key = table._meta.table_name, table._meta.primary_key
    for column, detail in fields.items():
        is_key = key is not False and column == key.column_name
        if index == f"{name}_{'pkey' if is_key else column}" or (
            index is None and f"{name}.{column}" in text
        ):
            return Conflict(field or column, detail)
    raise error


@contextmanager
def for_login() -> Iterator[None]:
    """Enclose, or decorate, an insert for a login whose credentials have just been verified.

    Raises ``BadCredentials`` if its account or API key was deleted meanwhile.
    """
    try:
        yield
    except peewee.IntegrityError as error:
        raise BadCredentials from error
