"""The two drivers: that of PostgreSQL is optional, and its absence an error of the settings."""

from typing import TYPE_CHECKING, TypeAlias

from keyosk.config.database_urls import PostgresqlUrl
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
