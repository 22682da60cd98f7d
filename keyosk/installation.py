"""All that one running Keyosk is made of, below HTTP. ``app.build`` makes it; nothing is global."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from keyosk.accounts import Accounts
from keyosk.api_keys import ApiKeys
from keyosk.audit import Audit
from keyosk.authentication import Authentication
from keyosk.bulk import Bulk
from keyosk.declarations import Declarations
from keyosk.documents import Documents
from keyosk.explaining import Explaining
from keyosk.grants import Grants
from keyosk.idempotency import Idempotency
from keyosk.inspection import Inspection
from keyosk.issuing import Issuing
from keyosk.metrics import Metrics
from keyosk.revocations import Revocations
from keyosk.roles import Roles
from keyosk.rotation import Rotation
from keyosk.services import Services
from keyosk.sessions import Sessions
from keyosk.signing import SigningKeys
from keyosk.storage.database import Database
from keyosk.tokens import Tokens
from keyosk.upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class Installation:
    """The parts that the web and the commands work with, by the noun each one owns."""

    issuer: str
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    cors_origins: tuple[str, ...]
    clock: Callable[[], float]
    metrics: Metrics
    database: Database
    accounts: Accounts
    api_keys: ApiKeys
    grants: Grants
    services: Services
    roles: Roles
    declarations: Declarations
    documents: Documents
    bulk: Bulk
    audit: Audit
    idempotency: Idempotency
    authentication: Authentication
    inspection: Inspection
    issuing: Issuing
    explaining: Explaining
    revocations: Revocations
    sessions: Sessions
    signing_keys: SigningKeys
    rotation: Rotation
    tokens: Tokens
    upkeep: Upkeep
