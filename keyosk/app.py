"""The composition root: the only module that builds and wires the objects of an installation."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask

from keyosk import __version__, bootstrap, traces
from keyosk.accounts.accounts import Accounts
from keyosk.accounts.api_keys import ApiKeys
from keyosk.accounts.confirmations import Confirmations
from keyosk.accounts.console_sessions import ConsoleSessions
from keyosk.accounts.grants import Grants
from keyosk.accounts.pending_logins import PendingLogins
from keyosk.accounts.second_factors import SecondFactors
from keyosk.activity import Activity
from keyosk.apply.executor import Manifests
from keyosk.audit import Audit
from keyosk.bootstrap import FirstAdmin
from keyosk.bulk.import_export import Bulk
from keyosk.config import Config
from keyosk.console import application as console
from keyosk.credentials import concurrency
from keyosk.credentials.authentication import Authentication
from keyosk.credentials.concurrency import HashingLimit
from keyosk.credentials.password_hashing import Passwords
from keyosk.credentials.throttling import Throttling
from keyosk.diagnosis import Diagnosis, Workloads
from keyosk.errors import Invalid
from keyosk.idempotency import Idempotency
from keyosk.installation import Installation
from keyosk.keys import hsm, secret_key
from keyosk.keys.hsm import Hsm
from keyosk.keys.material import Safe
from keyosk.keys.private_keys import PrivateKeys
from keyosk.keys.rotation import KeyPolicy, Rotation
from keyosk.keys.signed_documents import Documents
from keyosk.keys.signing_keys import SigningKeys
from keyosk.login_failures import LoginFailureViews
from keyosk.maintenance import Maintenance
from keyosk.metrics import Metrics
from keyosk.monitoring import Monitor
from keyosk.permissions.context import Context
from keyosk.permissions.roles import Roles
from keyosk.permissions.safeguards import Safeguards
from keyosk.permissions.services import Services
from keyosk.revocations import Revocations
from keyosk.scope_uses import ScopeUses
from keyosk.storage import schema
from keyosk.storage.database import Database
from keyosk.storage.outage import OutageLog
from keyosk.storage.stores import Stores
from keyosk.storage.transfer import copy_rows, refuse_used
from keyosk.tokens.access_tokens import Tokens
from keyosk.tokens.explanation import Explainer
from keyosk.tokens.introspection import Inspection
from keyosk.tokens.issuing import TokenIssuer
from keyosk.tokens.refresh_sessions import Sessions
from keyosk.web import application
from keyosk.web.access_log import LineWriter
from keyosk.workloads.issuers import TrustedIssuers
from keyosk.workloads.key_sets import KeySets
from keyosk.workloads.logins import WorkloadLogins
from keyosk.workloads.rules import WorkloadRules

if TYPE_CHECKING:
    from keyosk.traces.spans import Tracing

Clock = Callable[[], float]


def prepare(
    config: Config, *, clock: Clock = time.time, outage_log: OutageLog | None = None
) -> FirstAdmin | None:
    """Upgrade the database and create what is missing in it, in one process at a time.

    Returns the first admin if this call created it. Raises ``ConfigurationError``,
    ``DatabaseTooNew``, ``WrongSecretKey``, ``Unavailable``. ``outage_log``: as for ``build``.
    """
    database = _database(config, outage_log=outage_log)
    try:
        with schema.exclusive(database):
            secret_key.refuse_lost(
                config.secret_key,
                database.path,
                has_keys=database.is_sqlite and schema.has_signing_keys(database),
            )
            schema.upgrade(database)
            secret_key.ensure_file(config.secret_key, database.path)
            installation = build(config, clock=clock, outage_log=outage_log)
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
    database = _database(config)
    if database.is_sqlite and not database.has_file():
        return False
    try:
        return not schema.pending(database)
    finally:
        database.close()


def is_empty(config: Config) -> bool:
    """Return whether there is no database, or it has no table of Keyosk. Raises ``Unavailable``."""
    database = _database(config)
    try:
        return schema.is_empty(database)
    finally:
        database.close()


def load(config: Config, file: Path) -> int:
    """Copy a SQLite database into the empty one of the settings; returns the number of rows.

    Raises ``Invalid``, ``WrongSecretKey``, ``DatabaseTooNew``, ``Unavailable``.
    """
    target = _database(config)
    if target.is_sqlite:
        message = "is SQLite's, too: stop Keyosk and copy the file, with its secret key"
        raise Invalid.field("database", message)
    of_file = replace(
        config,
        database_url=f"sqlite:///{file.absolute()}",
        database_schema=None,
        database_prepare_threshold="auto",
    )
    source = _database(of_file)
    try:
        if not source.has_file():
            raise Invalid.field("file", f"there is no file {file}")
        if schema.pending(source):
            message = "is of another version: upgrade it first by keyosk database upgrade"
            raise Invalid.field("file", message)
        # SECURITY: with another secret key, the copied signing keys could never be decrypted.
        old = build(of_file)
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
    """Start to send traces if the settings say so. Call it before ``build``, once in a process."""
    if config.traces != "on":
        return None
    has_postgresql = not Database(config.database_url).is_sqlite
    return traces.start(version=__version__, has_postgresql=has_postgresql)


def build(
    config: Config,
    *,
    clock: Clock = time.time,
    metrics: Metrics | None = None,
    outage_log: OutageLog | None = None,
) -> Installation:
    """Wire an installation whose database is up to date. Opens no connection yet.

    ``metrics`` counts what it does, ``outage_log`` logs outages of the database.
    """
    metrics = metrics or Metrics()
    database = _database(config, metrics, outage_log=outage_log)
    stores = Stores.of(database)
    safe = Safe(secret_key.read(config.secret_key, database.path))
    private_keys = PrivateKeys(safe, _hsm(config))
    keys = _signing_keys(config, stores, private_keys, clock=clock)
    documents = Documents(keys, issuer=config.issuer, backdate=config.token_backdate)
    context = _context(config, database, stores, documents=documents, clock=clock)
    rotation = _rotation(config, context, stores, keys=keys, private_keys=private_keys)
    scope_uses = ScopeUses(stores.scope_uses, clock=clock)
    tokens = _tokens(config, keys, metrics, scope_uses=scope_uses, clock=clock)
    passwords = _passwords(config, metrics)
    authentication = _authentication(context, stores, passwords, metrics=metrics)
    accounts = Accounts(context, stores, passwords)
    grants = Grants(context, stores, accounts)
    services = Services(context, stores, rotation, issuer=config.issuer)
    roles = Roles(context, stores)
    api_keys = ApiKeys(context, stores, accounts)
    sessions = Sessions(context, stores, accounts=accounts, safe=safe)
    console_sessions = ConsoleSessions(
        context, stores, accounts=accounts, authentication=authentication
    )
    second_factors = SecondFactors(
        context, stores, accounts=accounts, safe=safe, issuer=config.issuer
    )
    issuers = TrustedIssuers(context, stores, issuer=config.issuer)
    workload_rules = WorkloadRules(context, stores, issuers)
    key_sets = KeySets(database, stores.issuers, clock=clock)
    workload_logins = WorkloadLogins(context, stores, key_sets, issuer=config.issuer)
    token_issuer = TokenIssuer(
        context,
        tokens,
        authentication,
        services=services,
        sessions=sessions,
        workload_logins=workload_logins,
    )
    return Installation(
        issuer=config.issuer,
        version=__version__ if config.show_version == "on" else None,
        trusted_proxies=config.trusted_proxies,
        cors_origins=config.cors_origins,
        has_console=config.console == "on",
        admins_need_second_factor=config.console_second_factor == "admins",
        clock=clock,
        metrics=metrics,
        monitor=Monitor(
            database,
            stores.monitoring,
            signing_keys=keys,
            rotation=rotation,
            hashing_limit=passwords.hashing_limit,
            clock=clock,
        ),
        activity=Activity(database, stores.activity, metrics, clock=clock),
        diagnosis=Diagnosis(
            config,
            database,
            keys,
            rotation=rotation,
            workloads=Workloads(issuers, workload_rules, key_sets, accounts),
            clock=clock,
        ),
        login_failures=LoginFailureViews(
            context.audit,
            Throttling(database, stores.throttling, clock),
            accounts,
            clock=clock,
        ),
        database=database,
        accounts=accounts,
        api_keys=api_keys,
        grants=grants,
        services=services,
        roles=roles,
        issuers=issuers,
        workload_rules=workload_rules,
        workload_logins=workload_logins,
        foreign_keys=key_sets,
        manifests=Manifests(
            database,
            stores.manifest_records,
            services=services,
            roles=roles,
            accounts=accounts,
            grants=grants,
            issuers=issuers,
            workload_rules=workload_rules,
        ),
        documents=documents,
        bulk=Bulk(context, stores, passwords, accounts=accounts, grants=grants),
        audit=context.audit,
        idempotency=Idempotency(database, stores.idempotency, safe, clock=clock, metrics=metrics),
        authentication=authentication,
        inspection=Inspection(
            context,
            tokens,
            authentication,
            services=services,
            sessions=sessions,
            scope_uses=scope_uses,
            issuer=config.issuer,
        ),
        token_issuer=token_issuer,
        explainer=Explainer(
            context,
            tokens,
            authentication,
            token_issuer=token_issuer,
            accounts=accounts,
            api_keys=api_keys,
            services=services,
        ),
        sessions=sessions,
        console_sessions=console_sessions,
        confirmations=Confirmations(
            context,
            stores,
            accounts=accounts,
            authentication=authentication,
            console_sessions=console_sessions,
            second_factors=second_factors,
        ),
        second_factors=second_factors,
        pending_logins=PendingLogins(
            context,
            stores,
            authentication=authentication,
            second_factors=second_factors,
            console_sessions=console_sessions,
        ),
        revocations=context.revocations,
        scope_uses=scope_uses,
        signing_keys=keys,
        rotation=rotation,
        tokens=tokens,
        maintenance=Maintenance(database, keys, context.audit),
    )


def _database(
    config: Config, metrics: Metrics | None = None, *, outage_log: OutageLog | None = None
) -> Database:
    return Database(
        config.database_url,
        schema=config.database_schema,
        prepare_threshold=config.database_prepare_threshold,
        metrics=metrics,
        outage_log=outage_log,
    )


def _passwords(config: Config, metrics: Metrics) -> Passwords:
    return Passwords(
        memory_kib=config.argon2_memory_kib,
        time_cost=config.argon2_time_cost,
        parallelism=config.argon2_parallelism,
        hashing_limit=HashingLimit(
            concurrency.for_hashes(config.argon2_memory_kib),
            folder=concurrency.machine_folder(),
            metrics=metrics,
        ),
    )


def _signing_keys(
    config: Config,
    stores: Stores,
    private_keys: PrivateKeys,
    *,
    clock: Clock,
) -> SigningKeys:
    return SigningKeys(
        stores.signing_keys,
        private_keys,
        algorithm=config.signing_algorithm,
        clock=clock,
    )


def _context(
    config: Config, database: Database, stores: Stores, *, documents: Documents, clock: Clock
) -> Context:
    return Context(
        database=database,
        safeguards=Safeguards(database, stores.grants),
        revocations=Revocations(
            database,
            stores.revocations,
            stores.sessions,
            console_sessions=stores.console_sessions,
            clock=clock,
            lifetime=config.token_lifetime,
        ),
        audit=Audit(database, stores.audit, documents, clock=clock),
        clock=clock,
    )


def _rotation(
    config: Config,
    context: Context,
    stores: Stores,
    *,
    keys: SigningKeys,
    private_keys: PrivateKeys,
) -> Rotation:
    return Rotation(
        context.database,
        stores.signing_keys,
        keys,
        private_keys=private_keys,
        revocations=context.revocations,
        audit=context.audit,
        clock=context.clock,
        policy=KeyPolicy(
            publish_ahead=config.key_publish_ahead,
            retain=config.key_retain,
            every=config.key_rotation_days * 86_400,
        ),
    )


def _tokens(
    config: Config,
    keys: SigningKeys,
    metrics: Metrics,
    *,
    scope_uses: ScopeUses,
    clock: Clock,
) -> Tokens:
    return Tokens(
        keys,
        metrics,
        scope_uses=scope_uses,
        issuer=config.issuer,
        lifetime=config.token_lifetime,
        backdate=config.token_backdate,
        clock=clock,
    )


def _authentication(
    context: Context, stores: Stores, passwords: Passwords, *, metrics: Metrics
) -> Authentication:
    return Authentication(
        context.database,
        stores,
        passwords,
        revocations=context.revocations,
        audit=context.audit,
        metrics=metrics,
        clock=context.clock,
    )


def _hsm(config: Config) -> Hsm | None:
    module, token, pin = config.pkcs11_module, config.pkcs11_token, config.pkcs11_pin
    return Hsm(module, token, pin) if module and token and pin else None


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
