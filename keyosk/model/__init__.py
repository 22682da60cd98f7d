"""The nouns of Keyosk as frozen values, the same on every floor.

Owns shapes and names, and imports nothing of Keyosk.

Times are whole seconds since the epoch (RFC 7519 section 2, NumericDate), in UTC by definition;
only ``web`` renders them as RFC 3339 text. Ids are UUIDv7 in their canonical text form. ``version``
counts the writes of an object: it is its strong entity tag.
"""

from keyosk.model.accounts import (
    Account,
    ApiKey,
    CredentialKind,
    Kind,
    StoredPassword,
)
from keyosk.model.callers import (
    OPERATOR,
    Caller,
    Condition,
    Principal,
)
from keyosk.model.records import (
    AuditAction,
    AuditRow,
    Checkpoint,
    ListQuery,
    LoginFailure,
    Refusal,
    Versions,
)
from keyosk.model.services import (
    ADMIN,
    AUDIENCE,
    INTROSPECT,
    KEYOSK,
    KEYOSK_SCOPES,
    REGISTRY_CLAIM,
    REGISTRY_VERSIONS,
    SCOPE_TOKEN,
    SERVICE_NAME,
    Entitlement,
    Exchange,
    Grant,
    Role,
    Scope,
    Service,
    TokenPolicy,
    namespace_key,
)
from keyosk.model.tokens import (
    ACCESS_TOKEN_TYPE,
    CHECKPOINTS_PATH,
    DOCUMENT_PATHS,
    REVOCATIONS_PATH,
    TOKEN_CLAIMS,
    TOKEN_TYPES,
    Claim,
    KeyState,
    Revocation,
    Session,
    SigningKey,
    VerifiedClaims,
)

__all__ = [
    "ACCESS_TOKEN_TYPE",
    "ADMIN",
    "AUDIENCE",
    "CHECKPOINTS_PATH",
    "DOCUMENT_PATHS",
    "INTROSPECT",
    "KEYOSK",
    "KEYOSK_SCOPES",
    "OPERATOR",
    "REGISTRY_CLAIM",
    "REGISTRY_VERSIONS",
    "REVOCATIONS_PATH",
    "SCOPE_TOKEN",
    "SERVICE_NAME",
    "TOKEN_CLAIMS",
    "TOKEN_TYPES",
    "Account",
    "ApiKey",
    "AuditAction",
    "AuditRow",
    "Caller",
    "Checkpoint",
    "Claim",
    "Condition",
    "CredentialKind",
    "Entitlement",
    "Exchange",
    "Grant",
    "KeyState",
    "Kind",
    "ListQuery",
    "LoginFailure",
    "Principal",
    "Refusal",
    "Revocation",
    "Role",
    "Scope",
    "Service",
    "Session",
    "SigningKey",
    "StoredPassword",
    "TokenPolicy",
    "VerifiedClaims",
    "Versions",
    "namespace_key",
]
