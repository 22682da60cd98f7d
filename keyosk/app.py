"""The program around an installation: its first start, its database, its web application."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask

from keyosk import __version__, bootstrap, traces
from keyosk.bootstrap import FirstAdmin
from keyosk.config import Config
from keyosk.console import application as console
from keyosk.errors import Invalid
from keyosk.installation import Installation, open_database
from keyosk.keys import hsm, secret_key
from keyosk.storage import schema
from keyosk.storage.database import Database
from keyosk.storage.outage import OutageLog
from keyosk.storage.shared_clock import SharedClock
from keyosk.storage.transfer import copy_rows, refuse_used
from keyosk.web import application
from keyosk.web.access_log import LineWriter

if TYPE_CHECKING:
    from keyosk.traces.spans import Tracing

Clock = Callable[[], float]

_log = logging.getLogger(__name__)


def prepare(
    config: Config, *, clock: Clock | None = None, outage_log: OutageLog | None = None
) -> FirstAdmin | None:
    """Upgrade the database and create what is missing in it, in one process at a time.

    Returns the first admin if this call created it. Raises ``ConfigurationError``,
    ``DatabaseTooNew``, ``WrongSecretKey``, ``Unavailable``. ``clock``: as for ``Installation``, by
    default the database's clock where this machine's differs. ``outage_log``: as there.
    """
    database = open_database(config, outage_log=outage_log)
    try:
        with schema.exclusive(database):
            secret_key.refuse_lost(
                config.secret_key,
                database.path,
                has_keys=database.is_sqlite and schema.has_signing_keys(database),
            )
            is_new = schema.is_empty(database)
            applied = schema.upgrade(database)
            if applied and not is_new:
                _log.info("the database was upgraded to %s", applied[-1])
            secret_key.ensure_file(config.secret_key, database.path)
            shared_clock = SharedClock()
            shared_clock.start(database)
            installation = Installation(config, clock=clock or shared_clock, outage_log=outage_log)
            try:
                return bootstrap.prepare(
                    installation,
                    admin_username=config.admin_username,
                    admin_password=config.admin_password,
                )
            finally:
                installation.signing_keys.close()
                installation.database.close()
    finally:
        database.close()


def is_prepared(config: Config) -> bool:
    """Return whether ``prepare`` has run on this database for this version. Raises as it does."""
    return not pending_migrations(config)


def pending_migrations(config: Config) -> list[str]:
    """Return the names of the migrations that ``prepare`` would apply. Raises as it does."""
    database = open_database(config)
    try:
        return schema.pending(database)
    finally:
        database.close()


def is_empty(config: Config) -> bool:
    """Return whether there is no database, or it has no table of Keyosk. Raises ``Unavailable``."""
    database = open_database(config)
    try:
        return schema.is_empty(database)
    finally:
        database.close()


def load(config: Config, file: Path) -> int:
    """Copy a SQLite database into the empty one of the settings; returns the number of rows.

    Raises ``Invalid``, ``WrongSecretKey``, ``DatabaseTooNew``, ``Unavailable``.
    """
    target = open_database(config)
    if target.is_sqlite:
        message = "is SQLite's, too: stop Keyosk and copy the file, with its secret key"
        raise Invalid.field("database", message)
    of_file = replace(
        config,
        database_url=f"sqlite:///{file.absolute()}",
        database_schema=None,
        database_prepare_threshold="auto",
    )
    source = open_database(of_file)
    try:
        if not source.has_file():
            raise Invalid.field("file", f"there is no file {file}")
        if schema.pending(source):
            message = "is of another version: upgrade it first by keyosk database upgrade"
            raise Invalid.field("file", message)
        # SECURITY: with another secret key, the copied signing keys could never be decrypted.
        old = Installation(of_file)
        old.signing_keys.check()
        old.database.close()
        with schema.exclusive(target):
            # Before the upgrade, for which other programs that use this database may not be ready.
            if not schema.is_empty(target):
                refuse_used(target)
            schema.upgrade(target)
            return copy_rows(source, target)
    finally:
        source.close()
        target.close()


def check(config: Config) -> None:
    """Check that the libraries for the settings are installed. Raises ``ConfigurationError``."""
    Database(config.database_url)
    if config.pkcs11_module is not None:
        hsm.load_binding()
    if config.traces == "on":
        traces.check()


def start_traces(config: Config) -> "Tracing | None":
    """Start to send traces if the settings say so. Call it before ``Installation``, once."""
    if config.traces != "on":
        return None
    has_postgresql = not Database(config.database_url).is_sqlite
    return traces.start(version=__version__, has_postgresql=has_postgresql)


def create_app(
    installation: Installation,
    *,
    write_line: LineWriter | None = None,
    tracing: "Tracing | None" = None,
) -> Flask:
    """Return the web application of an installation.

    ``write_line``: as for ``AccessLog``. ``tracing``: traces its requests.
    """
    mount = console.mount(installation) if installation.has_console else None
    return application.create(installation, write_line=write_line, mount=mount, tracing=tracing)
