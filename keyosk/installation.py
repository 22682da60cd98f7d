"""The parts of one running Keyosk below HTTP. ``app.build`` creates them; nothing is global."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

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
from keyosk.bulk.import_export import Bulk
from keyosk.credentials.authentication import Authentication
from keyosk.diagnosis import Diagnosis
from keyosk.idempotency import Idempotency
from keyosk.keys.rotation import Rotation
from keyosk.keys.signed_documents import Documents
from keyosk.keys.signing_keys import SigningKeys
from keyosk.login_failures import LoginFailureViews
from keyosk.maintenance import Maintenance
from keyosk.metrics import Metrics
from keyosk.monitoring import Monitor
from keyosk.permissions.roles import Roles
from keyosk.permissions.services import Services
from keyosk.revocations import Revocations
from keyosk.scope_uses import ScopeUses
from keyosk.storage.database import Database
from keyosk.tokens.access_tokens import Tokens
from keyosk.tokens.explanation import Explainer
from keyosk.tokens.introspection import Inspection
from keyosk.tokens.issuing import TokenIssuer
from keyosk.tokens.refresh_sessions import Sessions
from keyosk.workloads.issuers import TrustedIssuers
from keyosk.workloads.key_sets import KeySets
from keyosk.workloads.logins import WorkloadLogins
from keyosk.workloads.rules import WorkloadRules


@dataclass(frozen=True, slots=True)
class Installation:
    """The parts that the web and the commands work with, by the noun each one owns."""

    issuer: str
    version: str | None  # as shown to everybody
    trusted_proxies: tuple[IPv4Network | IPv6Network | str, ...]
    cors_origins: tuple[str, ...]
    has_console: bool
    admins_need_second_factor: bool  # in the console
    clock: Callable[[], float]
    metrics: Metrics
    monitor: Monitor
    activity: Activity
    login_failures: LoginFailureViews
    diagnosis: Diagnosis
    database: Database
    accounts: Accounts
    api_keys: ApiKeys
    grants: Grants
    services: Services
    roles: Roles
    issuers: TrustedIssuers
    workload_rules: WorkloadRules
    workload_logins: WorkloadLogins
    foreign_keys: KeySets
    manifests: Manifests
    documents: Documents
    bulk: Bulk
    audit: Audit
    idempotency: Idempotency
    authentication: Authentication
    inspection: Inspection
    token_issuer: TokenIssuer
    explainer: Explainer
    revocations: Revocations
    scope_uses: ScopeUses
    sessions: Sessions
    console_sessions: ConsoleSessions
    confirmations: Confirmations
    second_factors: SecondFactors
    pending_logins: PendingLogins
    signing_keys: SigningKeys
    rotation: Rotation
    tokens: Tokens
    maintenance: Maintenance
