"""The composition root: creates the objects of one running Keyosk below HTTP. Nothing is global."""

import time
from collections.abc import Callable
from functools import cached_property

from keyosk import __version__
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
from keyosk.audit_verification import AuditVerifier
from keyosk.bulk.import_export import Bulk
from keyosk.config import Config
from keyosk.credentials import concurrency
from keyosk.credentials.authentication import Authentication
from keyosk.credentials.concurrency import HashingLimit
from keyosk.credentials.password_hashing import Passwords
from keyosk.credentials.throttling import Throttling
from keyosk.diagnosis import Diagnosis, Workloads
from keyosk.idempotency import Idempotency
from keyosk.keys import material, secret_key
from keyosk.keys.hsm import Hsm
from keyosk.keys.key_changes import KeyChanges
from keyosk.keys.key_fetches import KeyFetches
from keyosk.keys.lifetimes import KeyLives, KeyPolicy
from keyosk.keys.material import Safe
from keyosk.keys.private_keys import PrivateKeys
from keyosk.keys.rotation import Rotation
from keyosk.keys.schedule import KeySchedule
from keyosk.keys.service_algorithms import ServiceAlgorithms
from keyosk.keys.signed_documents import Documents
from keyosk.keys.signing_keys import SigningKeys
from keyosk.login_failures import LoginFailureReports
from keyosk.maintenance import Maintenance
from keyosk.metrics import Metrics
from keyosk.monitoring import Monitor
from keyosk.permissions.context import Context
from keyosk.permissions.roles import Roles
from keyosk.permissions.safeguards import Safeguards
from keyosk.permissions.services import Services
from keyosk.revocation_list import RevocationList
from keyosk.revocations import Revocations
from keyosk.scope_uses import ScopeUses
from keyosk.storage.database import Database
from keyosk.storage.outage import OutageLog
from keyosk.storage.stores import Stores
from keyosk.tokens.access_tokens import Tokens
from keyosk.tokens.explanation import Explainer
from keyosk.tokens.introspection import Inspection
from keyosk.tokens.issuing import TokenIssuer
from keyosk.tokens.refresh_sessions import Sessions
from keyosk.workloads.issuers import TrustedIssuers
from keyosk.workloads.key_sets import KeySets
from keyosk.workloads.logins import WorkloadLogins
from keyosk.workloads.rules import WorkloadRules


class Installation:
    """The objects that the web and the commands work with, by the noun that each one owns.

    Each property creates one object and names the others that it needs. All of them exist once the
    constructor returns.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], float] = time.time,
        metrics: Metrics | None = None,
        outage_log: OutageLog | None = None,
    ) -> None:
        """Wire everything for a database that is up to date. Opens no connection yet.

        Args:
            config: The settings.
            clock: Returns the time in seconds since 1970.
            metrics: Counts what the installation does.
            outage_log: Logs outages of the database.

        Raises:
            ConfigurationError: The secret key is missing or cannot be read.
        """
        self._config = config
        self.issuer = config.issuer
        self.version = __version__ if config.show_version == "on" else None  # as shown to everybody
        self.trusted_proxies = config.trusted_proxies
        self.cors_origins = config.cors_origins
        self.has_console = config.console == "on"
        self.admins_need_second_factor = config.console_second_factor == "admins"  # in the console
        self.clock = clock
        self.metrics = metrics or Metrics()
        self.database = open_database(config, self.metrics, outage_log=outage_log)
        self._stores = Stores.of(self.database, fault_of_key=material.fault_of)
        for name, part in vars(Installation).items():
            if isinstance(part, cached_property):
                getattr(self, name)  # now, because threads that ask at once could get two

    # Keys, and what is signed by them.

    @cached_property
    def _safe(self) -> Safe:
        return Safe(secret_key.read(self._config.secret_key, self.database.path))

    @cached_property
    def _private_keys(self) -> PrivateKeys:
        config = self._config
        module, token, pin = config.pkcs11_module, config.pkcs11_token, config.pkcs11_pin
        return PrivateKeys(
            self._safe, Hsm(module, token, pin) if module and token and pin else None
        )

    @cached_property
    def signing_keys(self) -> SigningKeys:
        return SigningKeys(
            self._stores.signing_keys,
            self._private_keys,
            algorithm=self._config.signing_algorithm,
            clock=self.clock,
        )

    @cached_property
    def _key_policy(self) -> KeyPolicy:
        return KeyPolicy(
            publish_ahead=self._config.key_publish_ahead,
            retain=self._config.key_retain,
            rotate_every=self._config.key_rotation_days * 86_400,
        )

    @cached_property
    def _key_lives(self) -> KeyLives:
        return KeyLives(self.revocations, self._key_policy)

    @cached_property
    def key_changes(self) -> KeyChanges:
        return KeyChanges(
            self.database,
            self._stores.signing_keys,
            self.signing_keys,
            private_keys=self._private_keys,
            lives=self._key_lives,
            audit=self.audit,
            clock=self.clock,
        )

    @cached_property
    def key_fetches(self) -> KeyFetches:
        return KeyFetches(self._stores.signing_keys, self.clock)

    @cached_property
    def key_schedule(self) -> KeySchedule:
        return KeySchedule(
            self._stores.signing_keys,
            self.key_changes,
            key_fetches=self.key_fetches,
            private_keys=self._private_keys,
            lives=self._key_lives,
            policy=self._key_policy,
            clock=self.clock,
        )

    @cached_property
    def rotation(self) -> Rotation:
        return Rotation(
            self._stores.signing_keys,
            self.signing_keys,
            self.key_changes,
            schedule=self.key_schedule,
            key_fetches=self.key_fetches,
            private_keys=self._private_keys,
            revocations=self.revocations,
            policy=self._key_policy,
            clock=self.clock,
        )

    @cached_property
    def service_algorithms(self) -> ServiceAlgorithms:
        return ServiceAlgorithms(self._stores.services)

    @cached_property
    def documents(self) -> Documents:
        backdate = self._config.token_backdate
        return Documents(self.signing_keys, issuer=self.issuer, backdate=backdate)

    # What was done, and what must no longer be accepted.

    @cached_property
    def audit(self) -> Audit:
        return Audit(self.database, self._stores.audit, self.documents, clock=self.clock)

    @cached_property
    def audit_verifier(self) -> AuditVerifier:
        return AuditVerifier(self.audit, self._stores.audit, self.documents)

    @cached_property
    def revocations(self) -> Revocations:
        return Revocations(
            self.database,
            self._stores.revocations,
            self._stores.sessions,
            console_sessions=self._stores.console_sessions,
            clock=self.clock,
            lifetime=self._config.token_lifetime,
        )

    @cached_property
    def revocation_list(self) -> RevocationList:
        return RevocationList(self.revocations, self._stores.revocations, self.clock)

    @cached_property
    def scope_uses(self) -> ScopeUses:
        return ScopeUses(self._stores.scope_uses, clock=self.clock)

    @cached_property
    def activity(self) -> Activity:
        return Activity(self.database, self._stores.activity, self.metrics, clock=self.clock)

    @cached_property
    def _context(self) -> Context:
        return Context(
            database=self.database,
            safeguards=Safeguards(self.database, self._stores.grants),
            revocations=self.revocations,
            audit=self.audit,
            clock=self.clock,
        )

    # Who calls.

    @cached_property
    def _passwords(self) -> Passwords:
        config = self._config
        return Passwords(
            memory_kib=config.argon2_memory_kib,
            time_cost=config.argon2_time_cost,
            parallelism=config.argon2_parallelism,
            hashing_limit=HashingLimit(
                concurrency.for_hashes(config.argon2_memory_kib),
                folder=concurrency.machine_folder(),
                metrics=self.metrics,
            ),
        )

    @cached_property
    def authentication(self) -> Authentication:
        return Authentication(
            self.database,
            self._stores,
            self._passwords,
            revocations=self.revocations,
            audit=self.audit,
            metrics=self.metrics,
            clock=self.clock,
        )

    @cached_property
    def login_failures(self) -> LoginFailureReports:
        throttling = Throttling(self.database, self._stores.throttling, self.clock)
        return LoginFailureReports(self.audit, throttling, self.accounts, clock=self.clock)

    @cached_property
    def idempotency(self) -> Idempotency:
        return Idempotency(
            self.database,
            self._stores.idempotency,
            self._safe,
            clock=self.clock,
            metrics=self.metrics,
        )

    # Accounts, and what they may do.

    @cached_property
    def accounts(self) -> Accounts:
        return Accounts(self._context, self._stores, self._passwords)

    @cached_property
    def api_keys(self) -> ApiKeys:
        return ApiKeys(self._context, self._stores, self.accounts)

    @cached_property
    def grants(self) -> Grants:
        return Grants(self._context, self._stores, self.accounts)

    @cached_property
    def services(self) -> Services:
        return Services(self._context, self._stores, self.rotation, issuer=self.issuer)

    @cached_property
    def roles(self) -> Roles:
        return Roles(self._context, self._stores)

    @cached_property
    def manifests(self) -> Manifests:
        return Manifests(
            self.database,
            self._stores.manifest_records,
            services=self.services,
            roles=self.roles,
            accounts=self.accounts,
            grants=self.grants,
            issuers=self.issuers,
            workload_rules=self.workload_rules,
        )

    @cached_property
    def bulk(self) -> Bulk:
        return Bulk(
            self._context,
            self._stores,
            self._passwords,
            accounts=self.accounts,
            grants=self.grants,
        )

    # Logins by another platform's token.

    @cached_property
    def issuers(self) -> TrustedIssuers:
        return TrustedIssuers(self._context, self._stores, issuer=self.issuer)

    @cached_property
    def workload_rules(self) -> WorkloadRules:
        return WorkloadRules(self._context, self._stores, self.issuers)

    @cached_property
    def foreign_keys(self) -> KeySets:
        return KeySets(self.database, self._stores.issuers, clock=self.clock)

    @cached_property
    def workload_logins(self) -> WorkloadLogins:
        return WorkloadLogins(self._context, self._stores, self.foreign_keys, issuer=self.issuer)

    # Tokens.

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(
            self.signing_keys,
            self.metrics,
            scope_uses=self.scope_uses,
            issuer=self.issuer,
            lifetime=self._config.token_lifetime,
            backdate=self._config.token_backdate,
            clock=self.clock,
        )

    @cached_property
    def sessions(self) -> Sessions:
        return Sessions(self._context, self._stores, accounts=self.accounts, safe=self._safe)

    @cached_property
    def token_issuer(self) -> TokenIssuer:
        return TokenIssuer(
            self._context,
            self.tokens,
            self.authentication,
            services=self.services,
            sessions=self.sessions,
            workload_logins=self.workload_logins,
        )

    @cached_property
    def inspection(self) -> Inspection:
        return Inspection(
            self._context,
            self.tokens,
            self.authentication,
            services=self.services,
            sessions=self.sessions,
            scope_uses=self.scope_uses,
            issuer=self.issuer,
        )

    @cached_property
    def explainer(self) -> Explainer:
        return Explainer(
            self._context,
            self.tokens,
            self.authentication,
            token_issuer=self.token_issuer,
            accounts=self.accounts,
            api_keys=self.api_keys,
            services=self.services,
        )

    # The console.

    @cached_property
    def console_sessions(self) -> ConsoleSessions:
        return ConsoleSessions(
            self._context,
            self._stores,
            accounts=self.accounts,
            authentication=self.authentication,
        )

    @cached_property
    def second_factors(self) -> SecondFactors:
        return SecondFactors(
            self._context,
            self._stores,
            accounts=self.accounts,
            safe=self._safe,
            issuer=self.issuer,
        )

    @cached_property
    def pending_logins(self) -> PendingLogins:
        return PendingLogins(
            self._context,
            self._stores,
            authentication=self.authentication,
            second_factors=self.second_factors,
            console_sessions=self.console_sessions,
        )

    @cached_property
    def confirmations(self) -> Confirmations:
        return Confirmations(
            self._context,
            self._stores,
            accounts=self.accounts,
            authentication=self.authentication,
            console_sessions=self.console_sessions,
            second_factors=self.second_factors,
        )

    # Upkeep.

    @cached_property
    def maintenance(self) -> Maintenance:
        return Maintenance(self.database, self.signing_keys, self.audit_verifier)

    @cached_property
    def monitor(self) -> Monitor:
        return Monitor(
            self.database,
            self._stores.monitoring,
            signing_keys=self.signing_keys,
            key_fetches=self.key_fetches,
            key_policy=self._key_policy,
            hashing_limit=self._passwords.hashing_limit,
            clock=self.clock,
        )

    @cached_property
    def diagnosis(self) -> Diagnosis:
        return Diagnosis(
            self._config,
            self.database,
            self.signing_keys,
            key_fetches=self.key_fetches,
            workloads=Workloads(
                self.issuers, self.workload_rules, self.foreign_keys, self.accounts
            ),
            clock=self.clock,
        )


def open_database(
    config: Config, metrics: Metrics | None = None, *, outage_log: OutageLog | None = None
) -> Database:
    """Return the database of the settings. It connects with the first statement."""
    return Database(
        config.database_url,
        schema=config.database_schema,
        prepare_threshold=config.database_prepare_threshold,
        metrics=metrics,
        outage_log=outage_log,
    )
