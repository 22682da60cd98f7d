"""API keys: those of an account, and the list of all."""

from collections.abc import Mapping
from typing import Any, Final, cast

from flask import Response, g
from marshmallow import ValidationError, fields

from keyosk import whitespace
from keyosk.accounts.api_keys import FoundApiKey, NewApiKey
from keyosk.credentials import api_key_format
from keyosk.errors import Conflict, Invalid
from keyosk.model import ApiKeyChanges
from keyosk.web import paging
from keyosk.web.api_key_schemas import (
    IS_DIGEST,
    KEY_DIGEST,
    ApiKeyMade,
    ApiKeyNew,
    ApiKeyPatch,
    ApiKeyRotationSchema,
    ApiKeySchema,
    ApiKeySearch,
    FoundApiKeysSchema,
    OwnedApiKeySchema,
)
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import Text, described
from keyosk.web.operations import operation
from keyosk.web.preconditions import wanted_versions
from keyosk.web.responses import json_response, nothing, object_response
from keyosk.web.schemas import ACCOUNT_ID, FUTURE, PAST


def _check_prefix(text: str) -> None:
    # SECURITY: a longer one may be a whole secret, and URLs are in the logs of every proxy.
    if len(text) > api_key_format.SHOWN_LENGTH:
        raise ValidationError(
            f"Must be the first {api_key_format.SHOWN_LENGTH} characters at most. A secret must "
            "never be in a URL: if this was one, delete that key now."
        )


_FILTERS: Final[Mapping[str, fields.Field[Any]]] = {
    "enabled": paging.flag("Only enabled keys, or only disabled ones."),
    "expires_before": paging.moment(
        "Only keys that expire before this time.", "2100-01-01T00:00:00Z"
    ),
    "expires_after": paging.moment("Only keys that expire after this time.", PAST),
    "unused_since": paging.moment("Only keys that were not used since this time.", FUTURE),
    "networks": paging.word(
        "Only keys that are accepted from `any` address, or only those `limited` to networks.",
        "any",
        "limited",
    ),
    "limits": paging.word(
        "`none`: only keys that never expire and are accepted from any address with all scopes of "
        "their account; `some`: only the others.",
        "none",
        "some",
    ),
    "prefix": Text(
        validate=_check_prefix,
        metadata=described(
            "Only keys whose secret begins so, 12 characters at most.", "kysk_7Zb1mC8"
        ),
    ),
}
LISTS = paging.ListOptions(("created_at", "name"), _FILTERS)
LISTS_OF_ALL = paging.ListOptions(
    ("created_at", "name"),
    {
        **_FILTERS,
        "digest": Text(
            validate=IS_DIGEST,
            metadata=described(
                "Only the key whose secret has this SHA-256, in hexadecimal.", KEY_DIGEST
            ),
        ),
        "owner": paging.text("Only keys of this account: its id or username.", ACCOUNT_ID),
    },
)

# One instance, because each new one copies all fields (150 us).
_body: Final = ApiKeySchema().body_of


class AllApiKeysResource(Endpoint):
    """The API keys of all accounts."""

    @operation(response=OwnedApiKeySchema, lists=LISTS_OF_ALL)
    def get(self) -> Response:
        """List the API keys of all accounts, to find a leaked one or those nobody uses."""
        api_keys = self.installation.api_keys
        return self.page_with_owners(api_keys.page_of_all, _body, api_keys.count_of_all)


class FindResource(Endpoint):
    """The search for the owner of an API key."""

    # SECURITY: otherwise the request, with a secret, would be stored, if only as a digest.
    repeatable = False

    @operation(body=ApiKeySearch, response=FoundApiKeysSchema)
    def post(self) -> Response:
        """Find whose API key it is, by its secret, its digest or the beginning of its secret."""
        secret, digest, prefix = _searched(self.load())
        api_keys = self.installation.api_keys
        same = None if digest is None else api_keys.find_by_digest(digest)
        keys, has_more = ([same], False) if same else api_keys.find_by_prefix(prefix)
        matches = "secret" if same else "prefix" if keys else "none"
        is_whole = secret is None or api_key_format.is_well_formed(secret)
        return json_response(
            {
                "matches": matches,
                "is_whole": is_whole,
                "items": [_found_body(item) for item in keys],
                "more": has_more,
            }
        )


class ApiKeysResource(Endpoint):
    """The API keys of an account."""

    @operation(response=ApiKeySchema, lists=LISTS)
    def get(self, account: str) -> Response:
        """List API keys."""
        api_keys = self.installation.api_keys
        return self.page(
            lambda list_query: api_keys.page(account, list_query),
            _body,
            lambda list_query: api_keys.count(account, list_query),
        )

    @operation(body=ApiKeyNew, response=ApiKeyMade, status=201, has_etag=True)
    def post(self, account: str) -> Response:
        """Create an API key; only this response contains its secret."""
        created = self.installation.api_keys.create(g.caller, account, **_fields(self.load()))
        return _shown_once(created)


class RotateResource(Endpoint):
    """The rotation of one API key."""

    @operation(
        body=ApiKeyRotationSchema,
        optional=True,
        response=ApiKeyMade,
        status=201,
        has_etag=True,
        raises=(Conflict,),
    )
    def post(self, account: str, key: str) -> Response:
        """Create a successor; only this response contains its secret."""
        overlap = _fields(self.load())
        return _shown_once(self.installation.api_keys.rotate(g.caller, account, key, **overlap))


class ApiKeyResource(Endpoint):
    """One API key."""

    @operation(response=ApiKeySchema, has_etag=True)
    def get(self, account: str, key: str) -> Response:
        """Return the API key, without its secret."""
        stored = self.installation.api_keys.get(account, key)
        return object_response(_body(stored), stored.version)

    @operation(body=ApiKeyPatch, response=ApiKeySchema, has_etag=True)
    def patch(self, account: str, key: str) -> Response:
        """Change the fields in the merge patch."""
        patch = cast(ApiKeyChanges, _fields(self.load()))
        changed = self.installation.api_keys.change(
            g.caller, account, key, patch, version=wanted_versions()
        )
        return object_response(_body(changed), changed.version, effective_at=changed.effective_at)

    @operation(has_etag=True)
    def delete(self, account: str, key: str) -> Response:
        """Delete the API key; it stops working at once."""
        return nothing(
            self.installation.api_keys.remove(g.caller, account, key, version=wanted_versions())
        )


def _searched(fields: Mapping[str, str]) -> tuple[str | None, str | None, str]:
    """Return what is searched for: a secret, a digest, and a prefix."""
    secret, digest, prefix = (fields.get(name) for name in ("secret", "digest", "prefix"))
    if secret is None:
        if prefix is None:
            raise Invalid.field("secret", "must be given, or prefix")
        return None, digest, prefix
    if digest is not None or prefix is not None:
        raise Invalid.field("secret", "must be given alone")
    secret = whitespace.trim(secret)
    if not api_key_format.looks_like(secret):
        raise Invalid.field("secret", f"is no API key: one begins with {api_key_format.PREFIX}")
    return secret, api_key_format.digest(secret).hex(), api_key_format.prefix(secret)


def _found_body(match: FoundApiKey) -> dict[str, Any]:
    return {
        "account_id": match.key.account_id,
        "username": match.username,
        **_body(match.key),
        "works": not match.faults,
        "faults": [reason.value for reason in match.faults],
    }


def _shown_once(created: NewApiKey) -> Response:
    return object_response(
        {**_body(created.key), "secret": created.secret},
        created.key.version,
        201,
        location=f"/accounts/{created.key.account_id}/api-keys/{created.key.id}",
        effective_at=created.key.effective_at,
    )


def _fields(loaded: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the key, without the password that the gate has verified."""
    loaded.pop("current_password", None)
    return loaded
