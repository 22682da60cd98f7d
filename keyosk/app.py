"""The one place that builds and wires."""

import time
from collections.abc import Callable

from flask import Flask

from keyosk import bootstrap
from keyosk.accounts.accounts import Accounts
from keyosk.accounts.api_keys import ApiKeys
from keyosk.accounts.grants import Grants
from keyosk.apply.executor import Declarations
from keyosk.audit import Audit
from keyosk.bootstrap import FirstAdmin
from keyosk.bulk.import_export import Bulk
from keyosk.bulk.validation import LineValidator
from keyosk.config import Config
from keyosk.credentials import concurrency
from keyosk.credentials.authentication import Authentication
from keyosk.credentials.concurrency import HashingLimit
from keyosk.credentials.password_hashing import Passwords
from keyosk.credentials.throttling import Throttling
from keyosk.idempotency import Idempotency
from keyosk.installation import Installation
from keyosk.keys import hsm
from keyosk.keys.hsm import Hsm
from keyosk.keys.material import Safe
from keyosk.keys.private_keys import PrivateKeys
from keyosk.keys.rotation import KeyPolicy, Rotation
from keyosk.keys.signed_documents import Documents
from keyosk.keys.signing_keys import SigningKeys
from keyosk.maintenance import Maintenance
from keyosk.metrics import Metrics, SharedCounts
from keyosk.pauses import Pauses
from keyosk.permissions.roles import Roles
from keyosk.permissions.safeguards import Rules
from keyosk.permissions.services import Services
from keyosk.revocations import Revocations
from keyosk.storage import schema
from keyosk.storage.accounts import AccountStore
from keyosk.storage.api_keys import ApiKeyStore
from keyosk.storage.audit import AuditStore
from keyosk.storage.database import Database
from keyosk.storage.declared import DeclaredStore
from keyosk.storage.grants import GrantStore
from keyosk.storage.idempotency import IdempotencyStore
from keyosk.storage.logins import LoginStore
from keyosk.storage.revocations import RevocationStore
from keyosk.storage.roles import RoleStore
from keyosk.storage.services import ServiceStore
from keyosk.storage.sessions import SessionStore
from keyosk.storage.signing_keys import SigningKeyStore
from keyosk.storage.throttling import ThrottlingStore
from keyosk.tokens.access_tokens import Tokens
from keyosk.tokens.explanation import Explainer
from keyosk.tokens.introspection import Inspection
from keyosk.tokens.issuing import TokenIssuer
from keyosk.tokens.refresh_sessions import Sessions
from keyosk.web import application


def prepare(config: Config, *, clock: Callable[[], float] = time.time) -> FirstAdmin | None:
    """Bring the database up to date and make what is missing in it, once over all processes.

    Answers the first admin if it was made now. Raises ``ConfigurationError``, ``DatabaseTooNew``,
    ``WrongSecretKey``, ``Unavailable``.
    """
    database = Database(config.database_url, schema=config.database_schema)
    try:
        with schema.exclusive(database):
            bootstrap.refuse_lost_secret_key(
                config.secret_key,
                database.path,
                has_keys=database.is_sqlite and schema.has_signing_keys(database),
            )
            schema.upgrade(database)
            bootstrap.ensure_secret_key(config.secret_key, database.path)
            installation = build(config, clock=clock)
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
    """Whether ``prepare`` has run on this database for this version. Raises as it does."""
    database = Database(config.database_url, schema=config.database_schema)
    if database.is_sqlite and not database.has_file():
        return False
    try:
        return not schema.pending(database)
    finally:
        database.close()


def is_empty(config: Config) -> bool:
    """Whether there is no database, or nothing of Keyosk in it. Raises ``Unavailable``."""
    database = Database(config.database_url, schema=config.database_schema)
    try:
        return schema.is_empty(database)
    finally:
        database.close()


def check(config: Config) -> None:
    """Look whether what the settings need is installed. Raises ``ConfigurationError``."""
    Database(config.database_url)
    if config.pkcs11_module is not None:
        hsm.load_binding()


def build(
    config: Config,
    *,
    clock: Callable[[], float] = time.time,
    counts: SharedCounts | None = None,
) -> Installation:
    """Wire an installation whose database is up to date. Opens no connection yet.

    ``counts``: where it counts what it does, if it does.
    """
    metrics = Metrics(counts)
    database = Database(config.database_url, schema=config.database_schema)
    account_store = AccountStore(database)
    api_key_store = ApiKeyStore(database)
    service_store = ServiceStore(database)
    grant_store = GrantStore(database)
    role_store = RoleStore(database)
    passwords = Passwords(
        memory_kib=config.argon2_memory_kib,
        time_cost=config.argon2_time_cost,
        parallelism=config.argon2_parallelism,
        hashing_limit=HashingLimit(
            concurrency.for_hashes(config.argon2_memory_kib), folder=concurrency.machine_folder()
        ),
    )
    safe = Safe(bootstrap.secret_keys(config.secret_key, database.path))
    key_store = SigningKeyStore(database)
    private_keys = PrivateKeys(safe, _hsm(config))
    pauses = Pauses(threads=config.threads)
    keys = SigningKeys(
        key_store,
        private_keys,
        config.signing_algorithm,
        clock,
        pauses,
    )
    tokens = Tokens(
        keys,
        metrics,
        issuer=config.issuer,
        lifetime=config.token_lifetime,
        backdate=config.token_backdate,
        clock=clock,
        pauses=pauses,
    )
    documents = Documents(keys, issuer=config.issuer)
    audit = Audit(database, AuditStore(database), documents, clock)
    session_store = SessionStore(database)
    revocations = Revocations(
        database, RevocationStore(database), session_store, clock, lifetime=config.token_lifetime
    )
    rotation = Rotation(
        database,
        key_store,
        keys,
        private_keys,
        revocations,
        audit,
        clock,
        policy=KeyPolicy(
            publish_ahead=config.key_publish_ahead,
            retain=config.key_retain,
            every=config.key_rotation_days * 86_400,
        ),
    )
    rules = Rules(database, grant_store)
    accounts = Accounts(database, account_store, passwords, rules, revocations, audit, clock)
    grants = Grants(
        database,
        accounts,
        account_store,
        grant_store,
        service_store,
        role_store,
        rules,
        revocations,
        audit,
        clock,
    )
    services = Services(
        database,
        service_store,
        grant_store,
        rules,
        revocations,
        rotation,
        audit,
        config.issuer,
        clock,
    )
    roles = Roles(
        database, role_store, service_store, grant_store, rules, revocations, audit, clock
    )
    authentication = Authentication(
        database,
        account_store,
        api_key_store,
        LoginStore(database),
        passwords,
        Throttling(database, ThrottlingStore(database), clock),
        revocations,
        audit,
        metrics,
        clock,
    )
    sessions = Sessions(database, session_store, accounts, safe, rules, revocations, audit, clock)
    issuing = TokenIssuer(database, services, authentication, sessions, tokens, audit, clock)
    api_keys = ApiKeys(
        database, accounts, api_key_store, service_store, rules, revocations, audit, clock
    )
    return Installation(
        issuer=config.issuer,
        trusted_proxies=config.trusted_proxies,
        cors_origins=config.cors_origins,
        clock=clock,
        metrics=metrics,
        database=database,
        accounts=accounts,
        api_keys=api_keys,
        grants=grants,
        services=services,
        roles=roles,
        declarations=Declarations(
            database, DeclaredStore(database), services, roles, accounts, grants
        ),
        documents=documents,
        bulk=Bulk(
            database,
            accounts,
            grants,
            account_store,
            grant_store,
            role_store,
            LineValidator(account_store, service_store, role_store, passwords, rules, clock),
            rules,
            audit,
            clock,
        ),
        audit=audit,
        idempotency=Idempotency(database, IdempotencyStore(database), safe, clock),
        authentication=authentication,
        inspection=Inspection(
            database, tokens, authentication, sessions, services, revocations, audit, config.issuer
        ),
        issuing=issuing,
        explaining=Explainer(accounts, api_keys, services, authentication, issuing, tokens, clock),
        sessions=sessions,
        revocations=revocations,
        signing_keys=keys,
        rotation=rotation,
        tokens=tokens,
        upkeep=Maintenance(database, keys, audit),
    )


def _hsm(config: Config) -> Hsm | None:
    module, token, pin = config.pkcs11_module, config.pkcs11_token, config.pkcs11_pin
    return Hsm(module, token, pin) if module and token and pin else None


def create_app(installation: Installation) -> Flask:
    """The web application of an installation."""
    return application.create(installation)
