"""The installation on this machine.

For ``serve`` and the commands that need the machine itself. Other commands call its API, by
``local`` or over HTTPS.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from keyosk import app
from keyosk.cli import global_options
from keyosk.config import Config
from keyosk.errors import ConfigurationError, Fault
from keyosk.installation import Installation
from keyosk.storage.shared_clock import SharedClock

#: The settings of a Keyosk that runs as a service, according to docs/how-to/install.md.
USUAL_FILES: Final = ("/etc/keyosk/keyosk.env", "/etc/keyosk/keyosk.toml")


def place_of(config: Config) -> str:
    """Describe the place of the database in the settings, for people."""
    url = {name: value for name, value, _ in config.describe()}["KEYOSK_DATABASE_URL"]
    relative = url.removeprefix("sqlite:///")
    return url if relative == url else str(Path(relative).absolute())


def no_database(config: Config, how: str) -> ConfigurationError:
    """Return the error for a missing database; ``how``: how to create one."""
    place = place_of(config)
    message = f"there is no Keyosk at {place}; it is not set up. {how}"
    if "database_url" not in config.sources:
        message += (
            " Nothing says where your database is (KEYOSK_DATABASE_URL); if there is one already, "
            "give the settings of the Keyosk that runs with --config FILE"
        )
        there = [path for path in USUAL_FILES if Path(path).exists()]
        message += f". This machine has {' and '.join(there)}" if there else ""
    return ConfigurationError([Fault("database", message)])


@contextmanager
def installation() -> Iterator[Installation]:
    """Return the installation of the settings, which must be set up."""
    config = global_options.settings()
    if app.is_empty(config):
        raise no_database(config, "keyosk serve sets it up.")
    if not app.is_prepared(config):
        raise ConfigurationError(
            [
                Fault(
                    "database",
                    f"{place_of(config)} is of an older Keyosk: run keyosk database upgrade, or "
                    "restart keyosk serve",
                )
            ]
        )
    clock = SharedClock()
    built = Installation(config, clock=clock)
    try:
        clock.start(built.database)
        yield built
        built.audit.seal_quietly()
    finally:
        built.signing_keys.close()
        built.database.close()
