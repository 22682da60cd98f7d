"""What keyosk doctor looks at on the machine that has the database."""

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from keyosk import app
from keyosk.cli import choice, diagnosis_of_server, host, listeners, local
from keyosk.cli.checks import NOT_CHECKED, OK, WARNING, WRONG, Check
from keyosk.config import SETTINGS, Config
from keyosk.config.values import Address
from keyosk.errors import ConfigurationError, KeyoskError, counted
from keyosk.installation import Installation
from keyosk.storage import maintenance
from keyosk.storage.database import Database

_BACKUPS: Final = Path("/var/backups/keyosk")
_HOUR: Final = 3_600
#: Hours: of a backup each night that may be late.
_OLD: Final = 26
_MIB: Final = 1024 * 1024
#: Seconds by which this machine's clock may differ from the database's.
_TOLERATED: Final = 0.5


def examine(backups: Path | None) -> list[Check]:
    """Look at everything; a part that cannot be looked at does not stop the others."""
    try:
        settings = choice.settings()
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
    found = [Check("settings", WARNING, warning) for warning in settings.warnings]
    if not found:
        found = [Check("settings", OK, f"{counted(len(settings.sources), 'setting')} given")]
    found += _files(settings)
    found += _database(settings)
    found += [_backup(settings, backups), _proxies(settings)]
    found += diagnosis_of_server.issuer_from_outside(settings.issuer, expected=settings.issuer)
    return found


def _database(settings: Config) -> list[Check]:
    """Look at the database and at what is in it."""
    try:
        with host.installation() as installation:
            found = [*_inside(installation)]
        with local.client() as client:
            found += diagnosis_of_server.attempted(
                "keys", lambda: diagnosis_of_server.keys_of(client)
            )
    except ConfigurationError as error:
        return [
            Check("database", WRONG, fault.message, "Do as it says, then look again.")
            for fault in error.faults
        ]
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
    return found


def _inside(installation: Installation) -> Iterator[Check]:
    database = installation.database
    name = maintenance.version(database)
    yield Check("database", OK, f"{name}, {database.size() / _MIB:.1f} MiB")
    encoding = maintenance.encoding(database)
    if encoding.upper().replace("-", "") == "UTF8":
        yield Check("encoding", OK, encoding)
    else:
        yield Check(
            "encoding",
            WRONG,
            f"the database's encoding is {encoding}",
            "Create a database with ENCODING 'UTF8' and move Keyosk to it: names get lost here.",
        )
    missing = maintenance.missing_rights(database)
    if missing:
        yield Check(
            "rights",
            WRONG,
            f"Keyosk may not {'; not '.join(missing)}",
            "Give these rights to the user that Keyosk runs as.",
        )
    else:
        yield Check("rights", OK, "Keyosk may do what it has to")
    yield from _room(database)
    yield _clock(database)
    for fault in installation.signing_keys.unreadable():
        yield Check(
            "secret key",
            WRONG,
            fault,
            "Give the secret key that encrypted it (KEYOSK_SECRET_KEY), or compromise the key.",
        )


def _room(database: Database) -> Iterator[Check]:
    """Whether there is room beside a SQLite file for as much again."""
    if database.path is None:
        return
    free = shutil.disk_usage(database.path.parent).free
    if free < max(2 * database.size(), 100 * _MIB):
        yield Check(
            "room",
            WRONG,
            f"{free / _MIB:.0f} MiB are free beside the database",
            "Make room: with none left, Keyosk can neither write nor be backed up.",
        )
    else:
        yield Check("room", OK, f"{free / _MIB:.0f} MiB are free beside the database")


def _clock(database: Database) -> Check:
    before = time.time()
    theirs = database.clock()
    after = time.time()
    if theirs is None:
        return Check("clock", OK, "the database has no clock of its own")
    apart = max(before - theirs, theirs - after, 0)
    if apart < _TOLERATED:
        return Check("clock", OK, "this machine's clock and the database's agree")
    return Check(
        "clock",
        WRONG,
        f"this machine's clock and the database's differ by {apart:.1f} seconds",
        "Synchronise both clocks (NTP). Keyosk goes by the database's until then.",
    )


def _files(settings: Config) -> Iterator[Check]:
    """Whether others can read what only Keyosk may."""
    secret = {setting.name for setting in SETTINGS if setting.mask is not None}
    private = {
        Path(source.removeprefix("file "))
        for name, source in settings.sources.items()
        if name in secret and source.startswith("file ")
    }
    path = Database(settings.database_url).path
    if path is not None and path.exists():
        private |= {
            each
            for each in (*path.parent.glob(f"{path.name}*"), *path.parent.glob("*secret*"))
            if each.is_file()
        }
    faults = 0
    for each in sorted(private):
        try:
            found = each.stat()
        except OSError:
            continue
        if stat.S_IMODE(found.st_mode) & 0o077:
            faults += 1
            yield Check(
                "files",
                WRONG,
                f"others can read {each} ({stat.S_IMODE(found.st_mode):04o})",
                f"chmod 600 {each}",
            )
    if not faults:
        yield Check("files", OK, f"{counted(len(private), 'private file')}, closed to others")


def _backup(settings: Config, folder: Path | None) -> Check:
    place = folder or _BACKUPS
    try:
        with os.scandir(place) as entries:
            times = [each.stat().st_mtime for each in entries if each.is_file()]
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


def _proxies(settings: Config) -> Check:
    """Whether a proxy stands before Keyosk whose word does not count."""
    outside = urlsplit(settings.issuer)
    port = outside.port or {"http": 80, "https": 443}.get(outside.scheme)
    if settings.trusted_proxies:
        trusted = ", ".join(map(str, settings.trusted_proxies))
        return Check("proxies", OK, f"forwarded headers of {trusted} count")
    if settings.tls_certificate is not None:
        return Check("proxies", OK, "none: Keyosk speaks TLS itself")
    bind = settings.bind
    if outside.scheme == "http" and isinstance(bind, Address) and port == bind.port:
        return Check("proxies", OK, "none: the issuer is where Keyosk listens")
    return Check(
        "proxies",
        WRONG,
        f"{settings.issuer} is not where Keyosk listens ({settings.bind}): a proxy stands between, "
        "and no forwarded headers count",
        "Name the proxy's address, or unix, in KEYOSK_TRUSTED_PROXIES: until then all callers have "
        "that one address, for throttling, networks of API keys, and the audit log.",
    )
