"""The checks of keyosk doctor on the machine that has the database."""

import os
import time
from pathlib import Path
from typing import Final

from keyosk import app, diagnosis
from keyosk.checks import NOT_CHECKED, OK, WRONG, Check
from keyosk.cli import (
    diagnosis_of_server,
    diagnosis_of_workloads,
    global_options,
    host,
    listeners,
    local,
)
from keyosk.config import Config
from keyosk.errors import ConfigurationError, DatabaseTooNew, KeyoskError
from keyosk.storage.database import Database

_BACKUPS: Final = Path("/var/backups/keyosk")
_HOUR: Final = 3_600
#: The allowed age of a nightly backup in hours.
_OLD: Final = 26


def examine(backups: Path | None) -> list[Check]:
    """Run all checks; one that fails does not stop the others."""
    try:
        settings = global_options.settings()
        app.check(settings)
        listeners.certificate(settings)
    except ConfigurationError as error:
        return [
            Check(
                "settings",
                WRONG,
                f"{fault.field}: {fault.message}",
                "keyosk config check shows every setting with its source.",
            )
            for fault in error.faults
        ]
    checks = [*diagnosis.of_settings(settings)]
    checks += diagnosis.of_files(settings)
    checks += _database(settings)
    checks += [_backup(settings, backups), diagnosis.of_proxies(settings)]
    checks += diagnosis_of_server.issuer_from_outside(settings.issuer, expected=settings.issuer)
    return checks


def _database(settings: Config) -> list[Check]:
    """Check the database and its content."""
    try:
        with host.installation() as installation:
            checks = [
                *installation.diagnosis.of_database(),
                *diagnosis_of_workloads.keys_of(installation),
            ]
        with local.client() as client:
            checks += diagnosis_of_server.attempted(
                "keys", lambda: diagnosis_of_server.keys_of(client)
            )
            checks += diagnosis_of_server.attempted(
                "rules", lambda: diagnosis_of_workloads.rules_of(client)
            )
    except ConfigurationError as error:
        return [
            Check("database", WRONG, fault.message, "Do as it says, then look again.")
            for fault in error.faults
        ]
    except DatabaseTooNew as error:
        return [Check("database", WRONG, error.explanation, "Do as it says, then look again.")]
    except KeyoskError as error:
        return [
            Check(
                "database",
                WRONG,
                error.explanation,
                f"See that it runs, and that KEYOSK_DATABASE_URL ({host.place_of(settings)}) is "
                "right.",
            )
        ]
    return checks


def _backup(settings: Config, folder: Path | None) -> Check:
    place = folder or _BACKUPS
    try:
        with os.scandir(place) as entries:
            times = [entry.stat().st_mtime for entry in entries if entry.is_file()]
    except OSError as error:
        if folder is not None:
            return Check("backup", WRONG, f"{place}: {error.strerror}", "Name another folder.")
        return Check(
            "backup", NOT_CHECKED, "no folder of backups is known", "Name it: --backups FOLDER"
        )
    is_sqlite = Database(settings.database_url).is_sqlite
    how = "keyosk database backup" if is_sqlite else "pg_dump"
    if not times:
        return Check("backup", WRONG, f"{place} is empty", f"Make one each night: {how}")
    hours = max(time.time() - max(times), 0) / _HOUR
    if hours > _OLD:
        return Check(
            "backup",
            WRONG,
            f"the newest file in {place} is {hours / 24:.1f} days old",
            f"See why no newer one was made ({how}).",
        )
    return Check("backup", OK, f"the newest file in {place} is {hours:.0f} hours old")
