"""The words and examples of the document: what schemas and routes cannot say of themselves."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from keyosk.keyring import ALGORITHMS
from keyosk.tokens import TYPES
from keyosk.web import paging

INTRODUCTION: Final = """\
One login for a set of microservices: a username with a password or an API key in, a signed token
out, which every service checks offline.

HEAD answers as GET, OPTIONS with 204 and `Allow`. `{account}` may be `me`, the caller's own.
`keyosk:admin` stands for every `keyosk:` scope. Fields that a request has and nobody knows are
refused; answers may get more fields, which clients must ignore. Times are RFC 3339 in UTC."""

#: The request_id of examples.
REQUEST_ID: Final = "019a9f1c-6f0e-7c3b-9d52-3f4f6f1f7a10"
_ID: Final = "019a9f1b-2d3c-7aa4-8a53-0d6b7f2c9e41"
_KEY_ID: Final = "019a9f1c-0b1a-7d20-b1f0-5c1f5f8e2d37"
_MADE: Final = {"created_at": "2030-01-31T12:00:00Z", "updated_at": "2030-01-31T12:00:00Z"}
_UNTIL: Final = "2030-12-31T23:59:59Z"

PATH_PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "account": {
        "description": "An id, a username in any spelling, or `me`.",
        "schema": {"type": "string"},
        "example": "alice",
    },
    "file": {
        "description": "One of the names that the page uses.",
        "schema": {"type": "string"},
        "example": "swagger-ui.css",
    },
    "key": {
        "description": "The id of an API key.",
        "schema": {"type": "string"},
        "example": _KEY_ID,
    },
    "kid": {
        "description": "The `kid` of a published key (RFC 7638).",
        "schema": {"type": "string"},
        "example": "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg",
    },
    "role": {"description": "A name.", "schema": {"type": "string"}, "example": "editor"},
    "service": {
        "description": "An id or a name.",
        "schema": {"type": "string"},
        "example": "todo",
    },
}

#: Parameters that many operations have, by name.
PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "limit": {
        "in": "query",
        "description": "How many objects a page has at the most.",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": paging.MOST,
            "default": paging.DEFAULT,
        },
    },
    "cursor": {
        "in": "query",
        "description": "Where the page begins: `next` of the page before, in the same order.",
        "schema": {"type": "string", "maxLength": paging.LONGEST_CURSOR},
    },
    "total": {
        "in": "query",
        "description": "Whether to count all objects that pass the filters.",
        "schema": {"type": "boolean", "default": False},
    },
    "force": {
        "in": "query",
        "description": "Whether to do it although it takes something away.",
        "schema": {"type": "boolean", "default": False},
    },
    "If-Match": {
        "in": "header",
        "description": "The `ETag` of what is to be changed; 412 where it is no longer that.",
        "schema": {"type": "string"},
        "example": '"3"',
    },
    "If-None-Match": {
        "in": "header",
        "description": "The `ETag` of what is known; 304 where it is still that.",
        "schema": {"type": "string"},
        "example": '"3"',
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "Any text of one's own. Sent again with the same request within 24 hours, "
        "it gets the same answer; a secret is in it for ten minutes.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "3f4f6f1f-7a10",
    },
}

HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "ETag": {"description": "The version of the object, for `If-Match` and `If-None-Match`."},
    "Idempotency-Replayed": {
        "description": "`true` where the answer is that of an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Link": {"description": 'The next page, `rel="next"` (RFC 8288); absent on the last one.'},
    "Location": {"description": "The address of what was made."},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {
        "description": "How to log in (RFC 7617), or what the token lacks (RFC 6750)."
    },
    "X-Request-Id": {"description": "The name of the request in the log."},
    "X-Total-Count": {
        "description": "How many objects pass the filters, where `total` asks for it.",
        "schema": {"type": "integer"},
    },
}

FILTERS: Final[dict[str, str]] = {
    "sort": "The order; with a minus sign the other way round.",
    "action": "What was done, such as `account.created`.",
    "actor": "The id of the account that did it.",
    "created_after": "Made after this moment.",
    "enabled": "Whether it may be used.",
    "expires_before": "Stops working before this moment.",
    "kind": "`person` or `machine`.",
    "last_login_before": "Last logged in before this moment, or never.",
    "outcome": "How it ended, such as `done` or `refused`.",
    "q": "How the username or the display name begins.",
    "role": "Has this role.",
    "scope": "Has this scope.",
    "since": "At this moment or later.",
    "target": "What it was done to, such as `account/{id}`.",
    "until": "Before this moment.",
    "unused_since": "Not used since this moment.",
}

#: A word means the same wherever it stands, but for the few that name their schema.
FIELDS: Final[dict[str, str]] = {
    "api_key_expires_at": "When the key that was shown stops working.",
    "api_key_successor": "The id of a newer key: time to change over.",
    "TokenRequest.audience": "Names or audiences of services; absent for all that apply.",
    "TokenRequest.scope": "Scopes with spaces between them; absent for all that the account holds.",
    "accepts": "The logins that it takes tokens of.",
    "actor": "The id of the account that did it; null for an operator and for nobody.",
    "audience": "The `aud` of its tokens.",
    "claims": "What its tokens carry besides: an account's values, a service's choice among them.",
    "dry_run": "Whether only to say what would be done.",
    "on_conflict": "What to do with accounts that exist; `skip` if nothing is said.",
    "code": "What went wrong, for programs.",
    "credential": "The id of the API key, or `password`.",
    "current_password": "The account's own password; an admin needs none.",
    "detail": "What went wrong, for people.",
    "expires_at": "When it stops working; null for never.",
    "expires_in": "Seconds.",
    "format": "`token`: the JWT alone; `header`: a line for `curl -H @-`.",
    "hash": "Of this row and all before it.",
    "id": "A UUIDv7.",
    "kid": "The RFC 7638 thumbprint.",
    "lifetime": "Seconds; may shorten the token's life and never lengthens it.",
    "metadata": "An object that never leaves the admin API.",
    "networks": "Where it works from, as CIDR; null for everywhere.",
    "on_request_only": "Whether only tokens that ask for its audience have it.",
    "outcome": "How it ended.",
    "overlap": "Seconds for which the old key goes on working; 86400 if nothing is said.",
    "password_hash": "argon2, bcrypt, scrypt or PBKDF2, as PHC, crypt or Django write it.",
    "prefix": "How its secret begins.",
    "refresh_lifetime": "Seconds; null for the installation's.",
    "resource": "The same as `audience` (RFC 8707).",
    "scope": "Scopes with spaces between them.",
    "secret": "The key itself, in this answer only.",
    "sequence": "The row's place in the chain.",
    "signing_algorithm": "What its tokens are signed with; null for the installation's.",
    "successor": "The id of the key that follows this one.",
    "token_lifetime": "Seconds; null for the installation's.",
    "typ": "The `typ` of its tokens; null for the installation's.",
    "until": "Holds before this moment only.",
    "with": "Holds for logins of this kind only.",
}

#: Values that the floors below check.
CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "alg": ALGORITHMS,
    "signing_algorithm": ALGORITHMS,
    "typ": TYPES,
}

_SCOPE: Final = {"name": "todo:read", "description": "See what is to be done."}
_SERVICE: Final = {
    "name": "todo",
    "audience": "https://todo.example.com",
    "title": "To do",
    "description": "What is to be done.",
    "contact": "todo@example.com",
    "enabled": True,
    "on_request_only": False,
    "accepts": "both",
    "token_lifetime": 600,
    "signing_algorithm": None,
    "typ": None,
    "refresh_allowed": False,
    "refresh_lifetime": None,
    "claims": ["department"],
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
    "id": _KEY_ID,
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
    "Fault": {"field": "username", "message": "is taken"},
    "Grant": _GRANT,
    "GrantNames": {"scopes": ["todo:read"], "roles": []},
    "Grants": _GRANTS,
    "GrantsPatch": {"add": {"scopes": ["todo:read"]}, "remove": {"roles": ["editor"]}},
    "Jwk": _JWK,
    "JwkSet": {"keys": [_JWK]},
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
    "Role": {"id": _ID, **_ROLE, **_MADE},
    "RoleNew": _ROLE,
    "RolePatch": {"description": None, "scopes": ["todo:read", "todo:write"]},
    "Rotation": {"overlap": 3600},
    "Scope": _SCOPE,
    "ScopeNew": _SCOPE,
    "Scopes": {"scopes": [_SCOPE]},
    "ScopesNew": {"scopes": [_SCOPE, "todo:write"]},
    "Service": {"id": _ID, **_SERVICE, **_MADE},
    "ServiceNew": {"name": "todo", "accepts": "both", "scopes": [_SCOPE, "todo:write"]},
    "ServicePatch": {"token_lifetime": 300, "contact": None},
    "Status": {"status": "ok"},
    "Token": {
        "access_token": "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2lnbmF0dXJl",
        "token_type": "Bearer",
        "expires_in": 900,
        "scope": "todo:read todo:write",
    },
    "TokenRequest": {"audience": ["todo"], "scope": "todo:read", "lifetime": 300},
}
