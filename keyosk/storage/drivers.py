"""The two drivers: that of PostgreSQL is optional, and its absence an error of the settings."""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from keyosk.config import database_urls
from keyosk.config.database_urls import PostgresqlUrl, SqliteUrl
from keyosk.errors import ConfigurationError, Fault
from keyosk.storage.outage import Outage
from keyosk.storage.sqlite import Sqlite

if TYPE_CHECKING:
    from keyosk.storage.postgresql import Postgresql

#: A database of peewee, and what both have beyond it.
Driver: TypeAlias = "Sqlite | Postgresql"


def postgresql(
    url: PostgresqlUrl, schema: str | None, outage: Outage, *, prepare: int | str
) -> "Postgresql":
    """Return a PostgreSQL database. Raises ``ConfigurationError`` without its driver."""
    try:
        from keyosk.storage.postgresql import Postgresql  # noqa: PLC0415 - its driver is an extra
    except ImportError as error:
        fault = "needs the extra postgresql: pip install 'keyosk[postgresql]'"
        raise ConfigurationError([Fault("KEYOSK_DATABASE_URL", fault)]) from error
    return Postgresql(url, schema, outage, prepare=prepare)


def loop_starter(url: str) -> Callable[[Callable[[], None]], object]:
    """Return what starts a request in the event loop, so that it can read this database there."""
    if isinstance(database_urls.parse(url), SqliteUrl):
        return operator.call  # a file is read at once
    from keyosk.suspension import Suspendable  # noqa: PLC0415 - its library is part of the extra

    return Suspendable().run
