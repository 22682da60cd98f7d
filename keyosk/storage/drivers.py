"""Optional drivers, and the error if one is not installed."""

import peewee

from keyosk.config.database_urls import PostgresqlUrl
from keyosk.errors import ConfigurationError, Fault
from keyosk.storage.outage import Outage


def postgresql(
    url: PostgresqlUrl, schema: str | None, outage: Outage, *, prepare: int | str
) -> peewee.Database:
    """Return a PostgreSQL database. Raises ``ConfigurationError`` without its driver."""
    try:
        from keyosk.storage.postgresql import Postgresql  # noqa: PLC0415 - its driver is an extra
    except ImportError as error:
        fault = "needs the extra postgresql: pip install 'keyosk[postgresql]'"
        raise ConfigurationError([Fault("KEYOSK_DATABASE_URL", fault)]) from error
    return Postgresql(url, schema, outage, prepare=prepare)
