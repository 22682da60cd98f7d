"""The whole API on one screen: each path, its resource, and who may use each method.

A path or method that is not here does not exist. HEAD has the decision of GET; OPTIONS is for
everybody.
"""

from typing import Final

from keyosk.model import ADMIN
from keyosk.web.access import (
    ANY_CALLER,
    ANYONE,
    BY_LOGIN,
    BY_LOGIN_OR_KEY,
    itself_or,
    itself_proven_or,
    scope,
)
from keyosk.web.accounts import (
    AccountResource,
    AccountsResource,
    GrantsResource,
    PasswordResource,
)
from keyosk.web.activity import ActivityResource, NodesResource
from keyosk.web.api_keys import (
    AllApiKeysResource,
    ApiKeyResource,
    ApiKeysResource,
    FindResource,
    RotateResource,
)
from keyosk.web.apply import ApplyResource
from keyosk.web.audit import AuditExportResource, AuditResource, ChainResource
from keyosk.web.authorize import AuthorizeResource
from keyosk.web.bulk import ExportResource, ImportResource
from keyosk.web.console_sessions import (
    AllConsoleSessionsResource,
    ConsoleSessionResource,
    ConsoleSessionsResource,
)
from keyosk.web.diagnosis import DiagnosisResource, SettingsResource
from keyosk.web.documentation import AssetResource, OpenApiResource, PageResource
from keyosk.web.explain import ExplainResource
from keyosk.web.forward import ForwardResource
from keyosk.web.health import LiveResource, ReadyResource
from keyosk.web.introspection import IntrospectResource, RevokeResource
from keyosk.web.jwks import JwksResource, PemResource, ServiceJwksResource
from keyosk.web.landing import IndexResource
from keyosk.web.login_failures import LoginFailuresResource
from keyosk.web.metadata import MetadataResource
from keyosk.web.revocations import RevocationsResource
from keyosk.web.roles import RoleResource, RolesResource
from keyosk.web.route import Route
from keyosk.web.scope_uses import HeldScopesResource, UnusedScopesResource
from keyosk.web.second_factors import SecondFactorResource, SecondFactorsResource
from keyosk.web.services import (
    ScopesResource,
    ServiceResource,
    ServicesResource,
    VerificationResource,
)
from keyosk.web.sessions import AllSessionsResource, SessionResource, SessionsResource
from keyosk.web.signing_keys import (
    CompromiseResource,
    ImportKeyResource,
    RotateKeyResource,
    SigningKeyResource,
    SigningKeysResource,
)
from keyosk.web.token import TokenResource
from keyosk.web.workloads import (
    IssuerResource,
    IssuersResource,
    IssuerTestResource,
    RuleResource,
    RulesResource,
)

_PUBLIC: Final = {"GET": ANYONE}
_ACCOUNTS_READ: Final = "keyosk:accounts:read"
_ACCOUNTS_WRITE: Final = "keyosk:accounts:write"
_GRANTS_WRITE: Final = "keyosk:grants:write"
_AUDIT_READ: Final = "keyosk:audit:read"
_KEYS_READ: Final = "keyosk:keys:read"
#: A private key is worth more than any credential.
_KEYS: Final = scope("keyosk:keys:write", no_api_key=True)
_SERVICES_READ: Final = "keyosk:services:read"
_SERVICES_WRITE: Final = "keyosk:services:write"

_OWN_CREDENTIALS: Final = itself_proven_or(_ACCOUNTS_WRITE)
#: A token alone may only take rights away.
_END_OWN_KEY: Final = itself_or(_ACCOUNTS_WRITE, no_api_key=True)
_SERVICE: Final = {
    "GET": scope(_SERVICES_READ),
    "POST": scope(_SERVICES_WRITE),
    "PUT": scope(_SERVICES_WRITE),
    "PATCH": scope(_SERVICES_WRITE),
    "DELETE": scope(_SERVICES_WRITE),
}

#: Where tokens are requested.
TOKEN_PATH: Final = "/auth/token"  # noqa: S105 - a path
#: A rule is worth as much as a credential of its account.
_ISSUER: Final = {
    "GET": scope(_SERVICES_READ),
    "POST": scope(_SERVICES_WRITE, no_api_key=True),
    "PATCH": scope(_SERVICES_WRITE, no_api_key=True),
    "DELETE": scope(_SERVICES_WRITE, no_api_key=True),
}

# fmt: off
ROUTES: Final = (
    Route("/", IndexResource, _PUBLIC, memory=True),

    Route(TOKEN_PATH, TokenResource, {
        "GET": BY_LOGIN_OR_KEY,
        "POST": BY_LOGIN_OR_KEY,
    }, oauth=True, reads_little=True),
    # It explains that there are no login pages.
    Route("/auth/authorize", AuthorizeResource, {
        "GET": ANYONE,
        "POST": ANYONE,
    }, oauth=True, instant=True),
    Route("/auth/introspect", IntrospectResource, {"POST": BY_LOGIN}, oauth=True,
          reads_little=True),
    Route("/auth/revoke", RevokeResource, {"POST": BY_LOGIN}, oauth=True),
    Route("/auth/explain", ExplainResource, {"POST": ANY_CALLER}),
    Route("/auth/revocations", RevocationsResource, _PUBLIC),
    # Any method counts as GET there, OPTIONS too (forward.prepare).
    Route("/auth/forward", ForwardResource, {"GET": BY_LOGIN_OR_KEY}, reads_little=True),
    Route("/auth/forward/<service>", ForwardResource, {"GET": BY_LOGIN_OR_KEY}, reads_little=True),
    Route("/auth/jwks", JwksResource, _PUBLIC, instant=True, reads_little=True),
    Route("/.well-known/jwks.json", JwksResource, _PUBLIC, instant=True, reads_little=True),
    Route("/.well-known/oauth-authorization-server", MetadataResource, _PUBLIC, memory=True),
    Route("/.well-known/openid-configuration", MetadataResource, _PUBLIC, memory=True),
    Route("/auth/keys/<kid>.pem", PemResource, _PUBLIC, instant=True),

    Route("/accounts", AccountsResource, {
        "GET": scope(_ACCOUNTS_READ),
        "POST": scope(_ACCOUNTS_WRITE),
    }),
    Route("/accounts/import", ImportResource, {"POST": scope(_ACCOUNTS_WRITE)}, streams=True),
    Route("/accounts/export", ExportResource, {"GET": scope(_ACCOUNTS_READ)}, streams=True),
    Route("/accounts/<account>", AccountResource, {
        "GET": itself_or(_ACCOUNTS_READ),
        "PATCH": scope(_ACCOUNTS_WRITE),
        "DELETE": scope(_ACCOUNTS_WRITE),
    }, reads_little=True),
    Route("/accounts/<account>/password", PasswordResource, {
        "PUT": _OWN_CREDENTIALS,
        "DELETE": _OWN_CREDENTIALS,
    }),
    Route("/accounts/<account>/api-keys", ApiKeysResource, {
        "GET": itself_or(_ACCOUNTS_READ),
        "POST": _OWN_CREDENTIALS,
    }),
    Route("/accounts/<account>/api-keys/<key>", ApiKeyResource, {
        "GET": itself_or(_ACCOUNTS_READ),
        "PATCH": _OWN_CREDENTIALS,
        "DELETE": _END_OWN_KEY,
    }),
    Route("/accounts/<account>/api-keys/<key>/rotate", RotateResource, {"POST": _OWN_CREDENTIALS}),
    Route("/api-keys", AllApiKeysResource, {"GET": scope(_ACCOUNTS_READ)}),
    Route("/api-keys/find", FindResource, {"POST": scope(_ACCOUNTS_READ)}),
    Route("/refresh-sessions", AllSessionsResource, {"GET": scope(_ACCOUNTS_READ)}),
    Route("/console-sessions", AllConsoleSessionsResource, {"GET": scope(_ACCOUNTS_READ)}),
    Route("/accounts/<account>/tokens", SessionsResource, {
        "GET": itself_or(_ACCOUNTS_READ),
        "DELETE": itself_or(_ACCOUNTS_WRITE),
    }),
    Route("/accounts/<account>/tokens/<session>", SessionResource, {
        "DELETE": itself_or(_ACCOUNTS_WRITE),
    }),
    Route("/accounts/<account>/console-sessions", ConsoleSessionsResource, {
        "GET": itself_or(_ACCOUNTS_READ),
    }),
    Route("/accounts/<account>/console-sessions/<session>", ConsoleSessionResource, {
        "DELETE": itself_or(_ACCOUNTS_WRITE),
    }),
    Route("/accounts/<account>/second-factors", SecondFactorsResource, {
        "GET": itself_or(_ACCOUNTS_READ),
    }),
    Route("/accounts/<account>/second-factors/<factor>", SecondFactorResource, {
        "DELETE": _OWN_CREDENTIALS,
    }),
    Route("/accounts/<account>/grants", GrantsResource, {
        "GET": itself_or(_ACCOUNTS_READ),
        "PUT": scope(_GRANTS_WRITE),
        "PATCH": scope(_GRANTS_WRITE),
    }),

    Route("/accounts/<account>/scopes", HeldScopesResource, {"GET": itself_or(_ACCOUNTS_READ)}),
    Route("/unused-scopes", UnusedScopesResource, {"GET": scope(_ACCOUNTS_READ)}),

    Route("/services", ServicesResource, {m: _SERVICE[m] for m in ("GET", "POST")}),
    Route("/services/<service>", ServiceResource,
          {m: _SERVICE[m] for m in ("GET", "PATCH", "DELETE")}),
    Route("/services/<service>/jwks", ServiceJwksResource, _PUBLIC, instant=True),
    Route("/services/<service>/scopes", ScopesResource, {m: _SERVICE[m] for m in ("GET", "PUT")}),
    Route("/services/<service>/verification", VerificationResource,
          {m: _SERVICE[m] for m in ("GET", "PUT")}),

    Route("/roles", RolesResource, {m: _SERVICE[m] for m in ("GET", "POST")}),
    Route("/roles/<role>", RoleResource, {m: _SERVICE[m] for m in ("GET", "PATCH", "DELETE")}),

    Route("/issuers", IssuersResource, {m: _ISSUER[m] for m in ("GET", "POST")}),
    Route("/issuers/<issuer>", IssuerResource, {m: _ISSUER[m] for m in ("GET", "PATCH", "DELETE")}),
    Route("/issuers/<issuer>/test", IssuerTestResource, {"POST": scope(_SERVICES_READ)}),
    Route("/issuers/<issuer>/rules", RulesResource, {m: _ISSUER[m] for m in ("GET", "POST")}),
    Route("/issuers/<issuer>/rules/<rule>", RuleResource,
          {m: _ISSUER[m] for m in ("GET", "PATCH", "DELETE")}),

    # Each part of a manifest needs the scope of its own endpoint (apply.executor).
    Route("/apply", ApplyResource, {"POST": ANY_CALLER}, streams=True),

    Route("/signing-keys", SigningKeysResource, {"GET": scope(_KEYS_READ)}),
    Route("/signing-keys/rotate", RotateKeyResource, {"POST": _KEYS}),
    Route("/signing-keys/import", ImportKeyResource, {"POST": _KEYS}),
    Route("/signing-keys/<kid>", SigningKeyResource, {
        "GET": scope(_KEYS_READ),
        "DELETE": _KEYS,
    }),
    Route("/signing-keys/<kid>/compromise", CompromiseResource, {"POST": _KEYS}),

    Route("/audit", AuditResource, {"GET": scope(_AUDIT_READ)}),
    Route("/audit/chain", ChainResource, {"GET": scope(_AUDIT_READ)}),
    Route("/audit/export", AuditExportResource, {"GET": scope(_AUDIT_READ)}, streams=True),
    Route("/login-failures", LoginFailuresResource, {"GET": scope(_AUDIT_READ)}),
    Route("/diagnosis", DiagnosisResource, {"GET": scope(ADMIN)}),
    Route("/settings", SettingsResource, {"GET": scope(ADMIN)}),
    Route("/activity", ActivityResource, {"GET": scope(_AUDIT_READ)}),
    Route("/nodes", NodesResource, {"GET": scope(_AUDIT_READ)}),

    Route("/openapi.json", OpenApiResource, _PUBLIC, instant=True),
    Route("/docs", PageResource, _PUBLIC, memory=True),
    Route("/docs/<file>", AssetResource, _PUBLIC, instant=True),

    Route("/health/live", LiveResource, _PUBLIC, memory=True),
    Route("/health/ready", ReadyResource, _PUBLIC),
)
# fmt: on
