"""Checks of an installation from inside: its settings, database and keys.

It owns the checks that a running server and ``keyosk doctor`` share. It does not own those that
need a view from outside or a folder of backups: see ``cli.diagnosis``.
"""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from keyosk.accounts.accounts import Accounts
from keyosk.checks import (
    NOT_CHECKED,
    OK,
    WARNING,
    WRONG,
    Check,
    of_fetched_keys,
    of_given_keys,
    of_keys,
    of_rules,
)
from keyosk.config import SETTINGS, Config
from keyosk.config.addresses import Address
from keyosk.errors import KeyoskError, counted
from keyosk.keys.key_fetches import KeyFetches
from keyosk.keys.signing_keys import SigningKeys
from keyosk.model import KeyState, ListQuery, WorkloadRule
from keyosk.storage import maintenance
from keyosk.storage.database import Database
from keyosk.times import rfc3339
from keyosk.workloads.issuers import TrustedIssuers
from keyosk.workloads.key_sets import KeySets
from keyosk.workloads.rules import WorkloadRules

_MIB: Final = 1024 * 1024
#: Seconds by which this machine's clock may differ from the database's.
_TOLERATED: Final = 0.5
#: The most issuers, rules and findings about them, because a page of the console waits for it.
_ISSUERS: Final = 20
_RULES: Final = 100
_FOUND: Final = 20


@dataclass(frozen=True, slots=True)
class Workloads:
    """The parts of an installation that decide which account a workload logs in as."""

    issuers: TrustedIssuers
    rules: WorkloadRules
    keys: KeySets
    accounts: Accounts


class Diagnosis:
    """Checks a running installation."""

    def __init__(
        self,
        settings: Config,
        database: Database,
        signing_keys: SigningKeys,
        *,
        key_fetches: KeyFetches,
        workloads: Workloads,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._database = database
        self._signing_keys = signing_keys
        self._key_fetches = key_fetches
        self._workloads = workloads
        self._clock = clock

    def settings(self) -> list[tuple[str, str, str]]:
        """Return each setting as variable, value (a secret masked) and where it came from."""
        return self._settings.describe()

    def checks(self) -> list[Check]:
        """Run all checks; one that fails does not stop the others."""
        looks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
            ("settings", lambda: of_settings(self._settings)),
            ("files", lambda: of_files(self._settings)),
            ("database", self.of_database),
            ("keys", self._of_keys),
            ("issuers", self._of_issuers),
        )
        checks: list[Check] = []
        for part, look in looks:
            try:
                checks += look()
            except KeyoskError as error:
                checks.append(Check(part, WRONG, error.detail, "See that the database runs."))
        return [*checks, of_proxies(self._settings)]

    def of_database(self) -> Iterator[Check]:
        """Check the database and its content."""
        database = self._database
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
                "Create a database with ENCODING 'UTF8' and move Keyosk to it: names get lost "
                "here.",
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
        for fault in self._signing_keys.unreadable():
            yield Check(
                "signing key",
                WRONG,
                fault,
                "Give the secret key that encrypted it (KEYOSK_SECRET_KEY), put its row back from "
                "a backup, or replace it: keyosk signing-key compromise KID.",
            )

    def _of_keys(self) -> Iterator[Check]:
        keys = [key for key in self._signing_keys.all() if key.state is not KeyState.GONE]
        return of_keys(
            {
                "kid": key.kid,
                "algorithm": key.algorithm,
                "state": key.state.value,
                "active_from": None if key.active_from is None else rfc3339(key.active_from),
                "not_seen_by": self._key_fetches.services_without(key)
                if key.state is KeyState.NEXT
                else [],
            }
            for key in keys
        )

    def _of_issuers(self) -> Iterator[Check]:
        """Check issuers without fetching anything, because a page waits for it."""
        checks = sorted(self._of_each_issuer(), key=lambda check: check.status == OK)
        yield from checks[:_FOUND]
        if len(checks) > _FOUND:
            yield Check(
                "issuers",
                checks[_FOUND].status,
                f"{counted(len(checks) - _FOUND, 'more finding')} about issuers and rules",
                "keyosk doctor shows all.",
            )

    def _of_each_issuer(self) -> Iterator[Check]:
        issuers = self._workloads.issuers.page(ListQuery(limit=_ISSUERS + 1))
        now, left = self._clock(), _RULES
        for issuer in issuers[:_ISSUERS]:
            if issuer.enabled and issuer.keys is not None:
                yield of_given_keys(issuer.name, age=now - issuer.updated_at)
            elif issuer.enabled:
                state = self._workloads.keys.last_state(issuer)
                yield of_fetched_keys(
                    issuer.name, age=state.age, fault=state.fault, fetchable="its keys are fetched"
                )
            rules = self._workloads.rules.page(issuer.id, ListQuery(limit=left + 1))
            if len(rules) > left:
                break
            left -= len(rules)
            yield from of_rules(
                issuer.name, [_rule(rule) for rule in rules], self._accounts_of(rules), now=now
            )
        else:
            if len(issuers) <= _ISSUERS:
                return
        yield Check(
            "issuers",
            NOT_CHECKED,
            f"only {_ISSUERS} issuers and {_RULES} rules are looked at here",
            "keyosk doctor looks at all.",
        )

    def _accounts_of(self, rules: Sequence[WorkloadRule]) -> Mapping[str, Mapping[str, Any]]:
        accounts = {}
        for account_id in {rule.account_id for rule in rules}:
            account = self._workloads.accounts.get(account_id)
            accounts[account.username] = {
                "username": account.username,
                "enabled": account.enabled,
                "expires_at": None if account.expires_at is None else rfc3339(account.expires_at),
            }
        return accounts


def _rule(rule: WorkloadRule) -> Mapping[str, Any]:
    """Return the fields of a rule that are checked, as the API returns them."""
    return {
        "name": rule.name,
        "account": rule.account,
        "enabled": rule.enabled,
        "expires_at": None if rule.expires_at is None else rfc3339(rule.expires_at),
        "last_used_at": rule.last_used_at,
        "created_at": rfc3339(rule.created_at),
    }


def of_settings(settings: Config) -> Iterator[Check]:
    """Report risky settings."""
    for warning in settings.warnings:
        yield Check("settings", WARNING, warning)
    if not settings.warnings:
        yield Check("settings", OK, f"{counted(len(settings.sources), 'setting')} given")


def of_files(settings: Config) -> Iterator[Check]:
    """Check that other users cannot read the files of Keyosk."""
    # A URL of a database is secret only with a password in it.
    values = ((setting, getattr(settings, setting.name)) for setting in SETTINGS)
    secret = {
        setting.name for setting, value in values if setting.mask and setting.show(value) != value
    }
    private = {
        Path(source.removeprefix("file "))
        for name, source in settings.sources.items()
        if name in secret and source.startswith("file ")
    }
    path = Database(settings.database_url).path
    if path is not None and path.exists():
        private |= {
            file
            for file in (*path.parent.glob(f"{path.name}*"), *path.parent.glob("*secret*"))
            if file.is_file()
        }
    # A key for TLS may be open to a group, such as Debian's ssl-cert, which other programs share.
    tls_key = None if settings.tls_key is None else Path(settings.tls_key)
    if tls_key is not None:
        private.add(tls_key)
    faults = 0
    for file in sorted(private):
        try:
            status = file.stat()
        except OSError:
            continue
        own = os.geteuid()
        # Root may give a file to a group of Keyosk, as the installation for systemd does.
        group_may = status.st_uid == 0 and status.st_gid in {os.getegid(), *os.getgroups()}
        closed = 0o007 if file == tls_key else 0o037 if group_may else 0o077
        if status.st_uid not in (0, own):
            faults += 1
            yield Check(
                "files",
                WRONG,
                f"{file} belongs to another user ({status.st_uid}), who can read it",
                f"chown {own} {file}; chmod 600 {file}",
            )
        elif stat.S_IMODE(status.st_mode) & closed:
            faults += 1
            yield Check(
                "files",
                WRONG,
                f"others can read {file} ({stat.S_IMODE(status.st_mode):04o})",
                f"chmod 600 {file}"
                if status.st_uid == own
                else f"chgrp {os.getegid()} {file}; chmod 640 {file}",
            )
    if not faults:
        yield Check("files", OK, f"{counted(len(private), 'private file')}, closed to others")


def of_proxies(settings: Config) -> Check:
    """Check whether there is a proxy in front of Keyosk that is not trusted."""
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


def _room(database: Database) -> Iterator[Check]:
    """Check that the disk of a SQLite file has room for a second copy."""
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
    database_time = database.clock()
    after = time.time()
    if database_time is None:
        return Check("clock", OK, "the database has no clock of its own")
    apart = max(before - database_time, database_time - after, 0)
    if apart < _TOLERATED:
        return Check("clock", OK, "this machine's clock and the database's agree")
    return Check(
        "clock",
        WRONG,
        f"this machine's clock and the database's differ by {apart:.1f} seconds",
        "Synchronise both clocks (NTP). Keyosk goes by the database's until then.",
    )
