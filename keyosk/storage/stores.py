"""All stores of a database, as one value."""

from dataclasses import dataclass

from keyosk.storage.accounts import AccountStore
from keyosk.storage.activity import ActivityStore
from keyosk.storage.api_keys import ApiKeyStore
from keyosk.storage.audit import AuditStore
from keyosk.storage.console_sessions import ConsoleSessionStore, PendingLoginStore
from keyosk.storage.database import Database
from keyosk.storage.grants import GrantStore
from keyosk.storage.idempotency import IdempotencyStore
from keyosk.storage.logins import LoginStore
from keyosk.storage.manifest_records import ManifestRecordStore
from keyosk.storage.monitoring import MonitoringStore
from keyosk.storage.revocations import RevocationStore
from keyosk.storage.roles import RoleStore
from keyosk.storage.scope_uses import ScopeUseStore
from keyosk.storage.second_factors import SecondFactorStore
from keyosk.storage.services import ServiceStore
from keyosk.storage.sessions import SessionStore
from keyosk.storage.signing_keys import FaultOf, SigningKeyStore
from keyosk.storage.throttling import ThrottlingStore
from keyosk.storage.verifications import VerificationStore
from keyosk.storage.workloads import IssuerStore, WorkloadRuleStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """One store per noun."""

    accounts: AccountStore
    activity: ActivityStore
    api_keys: ApiKeyStore
    audit: AuditStore
    console_sessions: ConsoleSessionStore
    manifest_records: ManifestRecordStore
    grants: GrantStore
    idempotency: IdempotencyStore
    issuers: IssuerStore
    logins: LoginStore
    monitoring: MonitoringStore
    pending_logins: PendingLoginStore
    revocations: RevocationStore
    roles: RoleStore
    scope_uses: ScopeUseStore
    second_factors: SecondFactorStore
    services: ServiceStore
    sessions: SessionStore
    signing_keys: SigningKeyStore
    throttling: ThrottlingStore
    verifications: VerificationStore
    workload_rules: WorkloadRuleStore

    @classmethod
    def of(cls, database: Database, *, fault_of_key: FaultOf) -> "Stores":
        """Create all stores for a database; ``fault_of_key``: as for ``SigningKeyStore``."""
        return cls(
            accounts=AccountStore(database),
            activity=ActivityStore(database),
            api_keys=ApiKeyStore(database),
            audit=AuditStore(database),
            console_sessions=ConsoleSessionStore(database),
            manifest_records=ManifestRecordStore(database),
            grants=GrantStore(database),
            idempotency=IdempotencyStore(database),
            issuers=IssuerStore(database),
            logins=LoginStore(database),
            monitoring=MonitoringStore(database),
            pending_logins=PendingLoginStore(database),
            revocations=RevocationStore(database),
            roles=RoleStore(database),
            scope_uses=ScopeUseStore(database),
            second_factors=SecondFactorStore(database),
            services=ServiceStore(database),
            sessions=SessionStore(database),
            signing_keys=SigningKeyStore(database, fault_of=fault_of_key),
            throttling=ThrottlingStore(database),
            verifications=VerificationStore(database),
            workload_rules=WorkloadRuleStore(database),
        )
