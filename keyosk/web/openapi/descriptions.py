"""The words of the document: what schemas and routes cannot say of themselves."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from keyosk.keys.material import ALGORITHMS, OWN_SET_ALGORITHMS
from keyosk.model import TOKEN_TYPES
from keyosk.web import paging
from keyosk.web.openapi.examples import KEY_ID

INTRODUCTION: Final = """\
One login for a set of microservices: a username with a password or an API key in, a signed token
out, which every service checks offline.

HEAD answers as GET, OPTIONS with 204 and `Allow`. `{account}` may be `me`, the caller's own.
`keyosk:admin` stands for every `keyosk:` scope. Fields that a request has and nobody knows are
refused; answers may get more fields, which clients must ignore. Times are RFC 3339 in UTC."""

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
        "example": KEY_ID,
    },
    "kid": {
        "description": "The `kid` of a published key (RFC 7638).",
        "schema": {"type": "string"},
        "example": "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg",
    },
    "role": {"description": "A name.", "schema": {"type": "string"}, "example": "editor"},
    "session": {
        "description": "The id of a refresh session.",
        "schema": {"type": "string"},
        "example": KEY_ID,
    },
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
        "description": "The `ETag` that it must have, or several, or `*`; 412 if it has another.",
        "schema": {"type": "string"},
        "example": '"3"',
    },
    "If-None-Match": {
        "in": "header",
        "description": "The `ETag` that it must not have, or several; 304 where a read finds it, "
        "412 where a write does.",
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
    **dict.fromkeys(
        ("Service.audiences", "ServiceNew.audiences", "ServicePatch.audiences"),
        "Other spellings that requests may use for it; its tokens carry `audience` only.",
    ),
    "account": "The username of who acts for it, and may introspect and exchange its tokens.",
    "Session.credential": "What began it: `password` or `api_key`.",
    "refresh_token": "Good for one more token, once.",
    "client_id": "The username of who asked for the token.",
    "client_secret": "A password or an API key of the `client_id`; in a form body only.",
    "TokenRequest.service": "By GET: the container registry that a token is for; see there.",
    "Token.token": "The same again, for clients of container registries.",
    "Token.issued_at": "For clients of container registries.",
    "TokenRequest.client_id": "The username of who logs in.",
    "TokenQuestion.client_id": "The username of who logs in.",
    "subject_token": "The token to be exchanged (RFC 8693).",
    "ExplainRequest.account": "An id or a username; the caller's own if nothing is said.",
    "ExplainRequest.credential": "How it would log in; `password` if nothing is said.",
    "ExplainRequest.api_key": "The id of the key, with `api_key`.",
    "Explanation.claims": "Those of the token, but `jti`.",
    "Explanation.size": "The length of the token in bytes; more than 6144 are refused.",
    "Explanation.error": "As the token endpoint would answer.",
    "Explanation.reason": "Why the login itself would be refused.",
    "through": "`grant`, or the name of the role that gives it.",
    "JwksQuery.service": "Who fetches: a rotation may wait until it has.",
    "JwksQuery.format": "`pem`: only the key that signs now, as PEM.",
    "active_from": "When it began, or will begin, to sign.",
    "gone_at": "When it leaves, or left, the set.",
    "limit": "Seconds that the rotation waits at the most.",
    "not_seen_by": "The services that told who they are and have not fetched it yet.",
    "now": "Whether it signs as soon as every process has it.",
    "private_key": "PEM or JWK, not encrypted.",
    "published_at": "When it entered the set.",
    "retired_at": "When it signed last.",
    "state": "`next`, `active`, `retired`, `gone` or `compromised`.",
    "when_seen": "Whether it waits until every service that told who it is has fetched it.",
    "active": "Whether the token is good now, as far as the caller may know.",
    "aud": "The audience, or audiences.",
    "effective_at_latest": "Only where the change took rights away: when no service accepts a "
    "token from before any more, even one that never asks for revocations.",
    "exchanges": "For which services its tokens may be exchanged, and what that may add.",
    "expires": "When the last such token has expired, in seconds since 1970.",
    "issued_before": "Only those whose `iat` is smaller; absent for any, as for a `kid`.",
    "Revocations.since": "The number that the entries are above; 0 for all.",
    "Revocations.sequence": "The number to ask with the next time.",
    "RevocationsQuery.since": "The `sequence` that is known, for only what came after it.",
    "token": "The token itself.",
    "actor": "The id of the account that did it; null for an operator and for nobody.",
    "audience": "The `aud` of its tokens.",
    "claims": "What its tokens carry besides: an account's values, a service's choice among them.",
    "dry_run": "Whether only to say what would be done.",
    "ApplyQuery.force": "Whether to remove what is in use elsewhere, too.",
    "ApplyQuery.take_over": "Whether to change what another owner's manifest made, too.",
    "DeclaredAccount.password": "Always refused: secrets do not belong in a manifest.",
    "DeclaredAccount.api_keys": "Always refused: secrets do not belong in a manifest.",
    "DeclaredGrants.account": "An account whose other grants are somebody else's business.",
    "owner": "Whose manifest it is: what it makes is remembered under this name.",
    "prune": "Whether to delete what an earlier manifest of this owner made and this one lacks.",
    "Step.action": "`create`, `change` or `delete`.",
    "Step.before": "The fields that differ, as they were.",
    "Step.after": "The fields that differ, as they are then.",
    "changes": "What was changed, or would be.",
    "on_conflict": "What to do with accounts that exist; `skip` if nothing is said.",
    "code": "What went wrong, for programs.",
    "cors_preflight": "Whether forward authentication lets CORS preflights pass without a login.",
    "credential": "The id of the API key, or `password`.",
    "current_password": "The account's own password: of a caller who is that account and came by "
    "token.",
    "registry_version": "2 or 3 for a container registry, whose clients ask in their own way.",
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
    "password_hash": "As PHC, crypt, LDAP, Django, Werkzeug, Dovecot or Spring write it.",
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
    "alg": (*ALGORITHMS, *OWN_SET_ALGORITHMS),
    "signing_algorithm": (*ALGORITHMS, *OWN_SET_ALGORITHMS),
    "typ": TOKEN_TYPES,
}
