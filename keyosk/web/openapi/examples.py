"""The examples of the document."""

from collections.abc import Mapping
from typing import Any, Final

#: The request_id of examples.
REQUEST_ID: Final = "019a9f1c-6f0e-7c3b-9d52-3f4f6f1f7a10"
_ID: Final = "019a9f1b-2d3c-7aa4-8a53-0d6b7f2c9e41"
KEY_ID: Final = "019a9f1c-0b1a-7d20-b1f0-5c1f5f8e2d37"
_MADE: Final = {"created_at": "2030-01-31T12:00:00Z", "updated_at": "2030-01-31T12:00:00Z"}
_UNTIL: Final = "2030-12-31T23:59:59Z"

_SCOPE: Final = {"name": "todo:read", "description": "See what is to be done."}
_SERVICE: Final = {
    "name": "todo",
    "audience": "https://todo.example.com",
    "audiences": ["https://todo.example.com/"],
    "title": "To do",
    "description": "What is to be done.",
    "contact": "todo@example.com",
    "enabled": True,
    "on_request_only": False,
    "cors_preflight": False,
    "accepts": "both",
    "token_lifetime": 600,
    "signing_algorithm": None,
    "typ": None,
    "registry_version": None,
    "refresh_allowed": False,
    "refresh_lifetime": None,
    "claims": ["department"],
    "account": "todo-backend",
    "exchanges": [{"service": "billing", "scopes": ["billing:read"]}],
    "scopes": [_SCOPE],
}
_ROLE: Final = {"name": "editor", "description": "Who edits.", "scopes": ["todo:read"]}
_ACCOUNT: Final = {
    "username": "alice",
    "kind": "person",
    "display_name": "Alice",
    "enabled": True,
    "claims": {"department": "sales"},
    "metadata": {"ticket": 17},
    "expires_at": None,
}
_GRANT: Final = {"name": "todo:write", "with": "password", "until": _UNTIL}
_GRANTS: Final = {"scopes": ["todo:read", _GRANT], "roles": ["editor"]}
_API_KEY: Final = {
    "name": "nightly report",
    "description": "",
    "scopes": ["todo:read"],
    "networks": ["192.0.2.0/24"],
    "expires_at": _UNTIL,
    "enabled": True,
}
_SHOWN_KEY: Final = {
    **_API_KEY,
    "id": KEY_ID,
    "prefix": "kysk_7Zb1",
    "last_used_at": None,
    "successor": None,
    **_MADE,
}
_JWK: Final = {
    "kid": "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg",
    "use": "sig",
    "alg": "ES256",
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}

_SIGNING_KEY: Final = {
    "kid": _JWK["kid"],
    "algorithm": "ES256",
    "state": "next",
    "published_at": "2030-01-31T12:00:00Z",
    "active_from": "2030-01-31T12:15:00Z",
    "retired_at": None,
    "gone_at": None,
    "not_seen_by": ["todo"],
    "created_at": "2030-01-31T12:00:00Z",
}

_STEP: Final = {
    "action": "change",
    "kind": "service",
    "name": "todo",
    "before": {"token_lifetime": None},
    "after": {"token_lifetime": 300},
}

#: By the name of the schema.
EXAMPLES: Final[Mapping[str, Any]] = {
    "Account": {
        **_ACCOUNT,
        "id": _ID,
        "has_password": True,
        "last_login_at": "2030-01-31T12:30:00Z",
        **_MADE,
    },
    "AccountLine": {
        **_ACCOUNT,
        "password_hash": "$2b$12$EXRkfkdmXn2gzds2SSitu.MW9.gAVqa9eLS1//RYtYCmB1eLHg.9q",
        "grants": _GRANTS,
    },
    "AccountNew": {**_ACCOUNT, "password": "correct horse battery staple", "grants": _GRANTS},
    "AccountPatch": {"display_name": "Alice A.", "enabled": False, "expires_at": None},
    "ApiKey": _SHOWN_KEY,
    "ApiKeyMade": {**_SHOWN_KEY, "secret": "kysk_7Zb1..."},
    "ApiKeyNew": _API_KEY,
    "ApiKeyPatch": {"networks": None, "enabled": False},
    "Audit": {
        "sequence": 4711,
        "time": "2030-01-31T12:00:00Z",
        "actor": _ID,
        "actor_name": "admin",
        "credential": "password",
        "address": "192.0.2.7",
        "request_id": REQUEST_ID,
        "action": "account.changed",
        "target": f"account/{_ID}",
        "before": {"enabled": True},
        "after": {"enabled": False},
        "outcome": "done",
        "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    },
    "Document": {
        "openapi": "3.1.0",
        "info": {"title": "Keyosk", "version": "1.0.0"},
        "servers": [{"url": "/"}],
        "tags": [],
        "paths": {},
        "components": {},
    },
    "Exchange": {"service": "billing", "scopes": ["billing:read"]},
    "ExchangeNew": {"service": "billing", "scopes": ["billing:read"]},
    "ExplainRequest": {"account": "alice", "credential": "password", "scope": "todo:write"},
    "ExplainedScope": {"name": "todo:read", "through": "editor", "until": None},
    "Explanation": {
        "granted": False,
        "error": "invalid_scope",
        "error_description": "This login does not hold, for the audience asked for: todo:write",
        "scopes": [],
        "missing": [
            {
                "name": "todo:write",
                "reason": "api_key_only",
                "message": "It was granted for logins by API key only.",
            }
        ],
    },
    "MissingScope": {
        "name": "todo:write",
        "reason": "not_granted",
        "message": "The account was not granted it.",
    },
    "Fault": {"field": "username", "message": "is taken"},
    "Grant": _GRANT,
    "GrantNames": {"scopes": ["todo:read"], "roles": []},
    "Grants": _GRANTS,
    "GrantsShown": {**_GRANTS, "effective_at_latest": "2030-01-31T12:15:00Z"},
    "Introspection": {
        "active": True,
        "scope": "todo:read",
        "client_id": "alice",
        "username": "alice",
        "token_type": "Bearer",
        "exp": 1895918400,
        "iat": 1895917500,
        "sub": _ID,
        "aud": ["todo"],
        "iss": "https://login.example.com",
        "jti": KEY_ID,
    },
    "GrantsPatch": {"add": {"scopes": ["todo:read"]}, "remove": {"roles": ["editor"]}},
    "Jwk": _JWK,
    "JwkSet": {"keys": [_JWK]},
    "Metadata": {
        "issuer": "https://keyosk.example.com",
        "authorization_endpoint": "https://keyosk.example.com/auth/authorize",
        "token_endpoint": "https://keyosk.example.com/auth/token",
        "jwks_uri": "https://keyosk.example.com/.well-known/jwks.json",
        "service_documentation": "https://keyosk.example.com/docs",
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": ["none"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    },
    "OAuthError": {"error": "invalid_scope", "error_description": "Not held: todo:write."},
    "PasswordChange": {
        "password": "correct horse battery staple",
        "current_password": "the one before",
    },
    "PasswordProof": {"current_password": "the one before"},
    "Problem": {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "This username is taken.",
        "code": "conflict",
        "errors": [{"field": "username", "message": "This username is taken."}],
        "request_id": REQUEST_ID,
    },
    "Revocation": {"sub": _ID, "issued_before": 1895917500, "expires": 1895918400},
    "Revocations": {
        "sequence": 17,
        "since": 0,
        "entries": [{"sub": _ID, "issued_before": 1895917500, "expires": 1895918400}],
    },
    "Declaration": {
        "owner": "ops",
        "services": [{"name": "todo", "scopes": [_SCOPE]}],
        "roles": [_ROLE],
        "accounts": [{"username": "alice", "grants": _GRANTS}],
    },
    "DeclaredAccount": {"username": "alice", "grants": _GRANTS},
    "DeclaredGrants": {"account": "admin", **_GRANTS},
    "ManifestChanges": {"changes": [_STEP]},
    "Step": _STEP,
    "Revoked": {"effective_at_latest": "2030-01-31T12:15:00Z"},
    "Role": {"id": _ID, **_ROLE, **_MADE},
    "RoleNew": _ROLE,
    "RolePatch": {"description": None, "scopes": ["todo:read", "todo:write"]},
    "ApiKeyRotation": {"overlap": 3600},
    "Scope": _SCOPE,
    "ScopeNew": _SCOPE,
    "Scopes": {"scopes": [_SCOPE]},
    "ScopesNew": {"scopes": [_SCOPE, "todo:write"]},
    "Service": {"id": _ID, **_SERVICE, **_MADE},
    "ServiceNew": {"name": "todo", "accepts": "both", "scopes": [_SCOPE, "todo:write"]},
    "ServicePatch": {"token_lifetime": 300, "contact": None},
    "Session": {
        "id": _ID,
        "credential": "password",
        "api_key_id": None,
        "audiences": ["todo"],
        "scopes": ["todo:read"],
        "address": "192.0.2.7",
        "created_at": "2030-01-31T12:00:00Z",
        "last_used_at": "2030-01-31T12:30:00Z",
        "expires_at": "2030-03-02T12:00:00Z",
    },
    "KeyImport": {"private_key": "-----BEGIN PRIVATE KEY-----...", "algorithm": "ES256"},
    "RotationRequest": {"when_seen": True, "limit": 86400},
    "SigningKey": _SIGNING_KEY,
    "SigningKeys": {"items": [_SIGNING_KEY], "next": None},
    "Status": {"status": "ok"},
    "Token": {
        "access_token": "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2lnbmF0dXJl",
        "token_type": "Bearer",
        "expires_in": 900,
        "scope": "todo:read todo:write",
    },
    "TokenQuestion": {"token": "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2lnbmF0dXJl"},
    "TokenRequest": {"audience": ["todo"], "scope": "todo:read", "lifetime": 300},
}
