"""API keys: created here, shown once, stored as digests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from keyosk import networks
from keyosk.accounts.accounts import Accounts
from keyosk.audit import changed_fields
from keyosk.credentials import api_key_format
from keyosk.errors import Conflict, Invalid, NotFound
from keyosk.ids import is_id, new_id, new_version
from keyosk.model import (
    Account,
    ApiKey,
    ApiKeyChanges,
    ApiKeyFields,
    AuditAction,
    Caller,
    ListQuery,
    Versions,
)
from keyosk.permissions import entitlements, scope_names
from keyosk.permissions.context import Context
from keyosk.permissions.entitlements import Reason
from keyosk.storage.stores import Stores
from keyosk.validation import LONGEST_NAME, LONGEST_TEXT, Faults, check_version

#: Seconds for which a rotated key still works by default.
OVERLAP: Final = 86_400
_LONGEST_OVERLAP: Final = 90 * 86_400
_MOST_NETWORKS: Final = 50
#: The most keys that a search returns.
MOST_FOUND: Final = 100
_RESET: Final[Mapping[str, Any]] = {"description": "", "enabled": True}
_FIELDS: Final = ("name", "description", "scopes", "networks", "enabled", "expires_at", "successor")


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key together with its secret, which exists nowhere else."""

    key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FoundApiKey:
    """A key that a search found.

    Attributes:
        username: The username of its account; ``None`` if the account was just deleted.
        faults: The reasons why it does not work, if any.
    """

    key: ApiKey
    username: str | None
    faults: tuple[Reason, ...]


class ApiKeys:
    """The API keys of accounts, as an admin or their owner manages them."""

    def __init__(self, context: Context, stores: Stores, accounts: Accounts) -> None:
        self._database = context.database
        self._safeguards = context.safeguards
        self._revocations = context.revocations
        self._audit = context.audit
        self._clock = context.clock
        self._api_keys = stores.api_keys
        self._services = stores.services
        self._accounts = accounts

    def create(
        self,
        caller: Caller,
        reference: str,
        *,
        name: str,
        description: str = "",
        scopes: Sequence[str] | None = None,
        networks: Sequence[str] | None = None,
        expires_at: int | None = None,
        enabled: bool = True,
    ) -> NewApiKey:
        """Create a key for the account.

        Raises ``Invalid``, ``NotFound``, ``RefusedByRule``, and as ``Accounts.check_proof``.
        """
        now = int(self._clock())
        secret = api_key_format.generate()
        with self._database.transaction():
            key_id = new_id()
            key = ApiKey(
                id=key_id,
                account_id=self._accounts.locked(reference).id,
                name=name,
                description=description,
                prefix=api_key_format.prefix(secret),
                scopes=_unique(scopes),
                networks=_unique(networks),
                enabled=enabled,
                expires_at=expires_at,
                last_used_at=None,
                successor=None,
                created_at=now,
                updated_at=now,
                version=new_version(),
            )
            key = self._validated(caller, key, now if expires_at is not None else None)
            self._guard(caller, key)
            self._accounts.check_proof(caller, key.account_id)
            self._add(caller, "api_key.create", key, secret=secret)
        return NewApiKey(key, secret)

    def rotate(
        self, caller: Caller, reference: str, key_id: str, *, overlap: int = OVERLAP
    ) -> NewApiKey:
        """Create a successor with the same fields; the old key works for ``overlap`` more seconds.

        Raises ``Invalid``, ``NotFound``, ``RefusedByRule``, ``Conflict`` if it has a successor,
        and as ``Accounts.check_proof``.
        """
        if not 0 <= overlap <= _LONGEST_OVERLAP:
            raise Invalid.field("overlap", f"must be 0 to {_LONGEST_OVERLAP} seconds")
        now = int(self._clock())
        secret = api_key_format.generate()
        with self._database.transaction():
            old = self._locked(reference, key_id)
            self._guard(caller, old)
            self._accounts.check_proof(caller, old.account_id)
            if old.expires_at is not None and old.expires_at <= now:
                raise Conflict("expires_at", "This key has expired: create a new one.")
            if old.successor is not None:
                raise Conflict("successor", "This key was already rotated: rotate its successor.")
            successor = new_id()
            new = replace(
                old,
                id=successor,
                prefix=api_key_format.prefix(secret),
                last_used_at=None,
                created_at=now,
                updated_at=now,
                version=new_version(),
            )
            end = now + overlap
            expires_at = end if old.expires_at is None else min(old.expires_at, end)
            changes: ApiKeyFields = {"successor": successor, "expires_at": expires_at}
            # The last admin may lose this key, because the new one replaces it.
            self._add(caller, "api_key.create", new, secret=secret)
            self._api_keys.change(old.id, changes, now=now)
            effective_at = None
            if self._revocations.cuts_short(old.expires_at, expires_at):
                effective_at = self._revocations.revoke_api_key(old.id, old.account_id)
            self._record_change(caller, "api_key.rotate", old, after=replace(old, **changes))
        return NewApiKey(replace(new, effective_at=effective_at), secret)

    def page(self, reference: str, list_query: ListQuery) -> list[ApiKey]:
        """Return a page of the keys of the account. Raises ``NotFound``."""
        return self._api_keys.page(_owned_by(self._accounts.get(reference), list_query))

    def count(self, reference: str, list_query: ListQuery) -> int:
        """Return the number of keys of the account that pass the filters. Raises ``NotFound``."""
        return self._api_keys.count(_owned_by(self._accounts.get(reference), list_query))

    def page_of_all(self, list_query: ListQuery) -> list[ApiKey]:
        """Return a page of the keys of all accounts.

        The filter ``owner`` is an id or a username; an unknown one has no keys.
        """
        owned = self._accounts.owned(list_query)
        return [] if owned is None else self._api_keys.page(owned)

    def count_of_all(self, list_query: ListQuery) -> int:
        """Return the number of keys of all accounts that pass the filters."""
        owned = self._accounts.owned(list_query)
        return 0 if owned is None else self._api_keys.count(owned)

    def find_by_digest(self, digest: str) -> FoundApiKey | None:
        """Return the key whose secret has this SHA-256, in hexadecimal."""
        return next(iter(self._search(1, digest=digest)), None)

    def find_by_prefix(self, prefix: str) -> tuple[list[FoundApiKey], bool]:
        """Return up to ``MOST_FOUND`` keys with this prefix, and whether there are more."""
        keys = self._search(MOST_FOUND + 1, prefix=prefix)
        return keys[:MOST_FOUND], len(keys) > MOST_FOUND

    def _search(self, limit: int, **filters: str) -> list[FoundApiKey]:
        now = int(self._clock())
        keys = self._api_keys.page(ListQuery(limit=limit, filters=filters))
        return [self._with_account(key, now) for key in keys]

    def _with_account(self, key: ApiKey, now: int) -> FoundApiKey:
        try:
            account = self._accounts.get(key.account_id)
        except NotFound:
            return FoundApiKey(key, None, ())
        return FoundApiKey(key, account.username, tuple(unusable(account, key, now)))

    def get(self, reference: str, key_id: str) -> ApiKey:
        """Return one key of the account. Raises ``NotFound``."""
        return self._get(self._accounts.get(reference), key_id)

    def change(  # noqa: PLR0917  # a key has two names: its account and its own id
        self,
        caller: Caller,
        reference: str,
        key_id: str,
        patch: ApiKeyChanges,
        *,
        version: Versions | None = None,
    ) -> ApiKey:
        """Apply a merge patch (RFC 7396).

        Raises ``Invalid``, ``NotFound``, ``Stale``, ``RefusedByRule``, and as
        ``Accounts.check_proof``.
        """
        now = int(self._clock())
        with self._database.transaction():
            key = self._locked(reference, key_id)
            if patch.get("name", "") is None:
                raise Invalid.field("name", "cannot be removed")
            changes = cast(
                ApiKeyFields,
                {
                    field: _RESET.get(field) if value is None else value
                    for field, value in patch.items()
                },
            )
            if "scopes" in changes:
                changes["scopes"] = _unique(changes["scopes"])
            if "networks" in changes:
                changes["networks"] = _unique(changes["networks"])
            # A time in the past makes the key expire at once, which only takes rights away.
            after = self._validated(caller, replace(key, **changes), None)
            if "networks" in changes:
                changes["networks"] = after.networks
            self._guard(caller, key)
            self._accounts.check_proof(caller, key.account_id)
            if after == key:
                return check_version(key, version)
            with self._safeguards.keeping_an_admin(
                at_risk=_is_permanent(key) and not _is_permanent(after)
            ):
                version_after = self._api_keys.change(key.id, changes, now=now, version=version)
            effective_at = None
            if (
                key.enabled > after.enabled
                or self._revocations.cuts_short(key.expires_at, after.expires_at)
                or entitlements.is_narrower(after.scopes, key.scopes)
                or entitlements.is_narrower(after.networks, key.networks)
            ):
                effective_at = self._revocations.revoke_api_key(key.id, key.account_id)
            self._record_change(caller, "api_key.change", key, after=after)
            return replace(after, updated_at=now, version=version_after, effective_at=effective_at)

    def remove(
        self, caller: Caller, reference: str, key_id: str, *, version: Versions | None = None
    ) -> int:
        """Delete a key: it stops working at once.

        Returns when all its tokens have expired. Raises ``NotFound``, ``Stale``, ``RefusedByRule``.
        """
        with self._database.transaction():
            key = self._locked(reference, key_id)
            self._guard(caller, key)
            effective_at = self._revocations.revoke_api_key(key.id, key.account_id)
            with self._safeguards.keeping_an_admin(at_risk=_is_permanent(key)):
                self._api_keys.remove(key.id, version=version)
            self._audit.record(caller, "api_key.delete", _target(key), before=_fields(key))
            return effective_at

    def _locked(self, reference: str, key_id: str) -> ApiKey:
        """Return the key for a transaction that changes it."""
        return self._get(self._accounts.locked(reference), key_id)

    def _get(self, account: Account, key_id: str) -> ApiKey:
        if not is_id(key_id):  # PostgreSQL refuses NUL with an error
            raise NotFound("This account has no such API key.")
        return self._api_keys.get(account.id, key_id)

    def _guard(self, caller: Caller, key: ApiKey) -> None:
        self._safeguards.not_by_api_key(caller)
        self._safeguards.may_change(caller, key.account_id)

    def _add(self, caller: Caller, action: AuditAction, key: ApiKey, *, secret: str) -> None:
        self._api_keys.add(key, api_key_format.digest(secret))
        self._audit.record(caller, action, _target(key), after=_fields(key))

    def _record_change(
        self, caller: Caller, action: AuditAction, before: ApiKey, *, after: ApiKey
    ) -> None:
        old, new = changed_fields(_fields(before), _fields(after))
        self._audit.record(caller, action, _target(before), before=old, after=new)

    def _validated(self, caller: Caller, key: ApiKey, expires_after: int | None) -> ApiKey:
        """Return the key with its networks in normal form. Raises ``Invalid``."""
        faults = Faults()
        faults.text("name", key.name, longest=LONGEST_NAME, required=True)
        faults.text("description", key.description, longest=LONGEST_TEXT)
        faults.time("expires_at", key.expires_at, after=expires_after)
        scope_names.check(faults, key.scopes or (), services=self._services, caller=caller)
        networks = None if key.networks is None else _networks(faults, key.networks)
        faults.raise_if_any()
        return replace(key, networks=networks)


def unusable(account: Account, key: ApiKey | None, now: int) -> Iterator[Reason]:
    """Return why no login of the account (by the key, if given) is accepted."""
    if not account.enabled:
        yield Reason.ACCOUNT_DISABLED
    if account.expires_at is not None and account.expires_at <= now:
        yield Reason.ACCOUNT_EXPIRED
    if key is not None and not key.enabled:
        yield Reason.KEY_DISABLED
    if key is not None and key.expires_at is not None and key.expires_at <= now:
        yield Reason.KEY_EXPIRED


def _networks(faults: Faults, limits: Sequence[str]) -> tuple[str, ...]:
    if not 1 <= len(limits) <= _MOST_NETWORKS:
        faults.add("networks", f"must be 1 to {_MOST_NETWORKS} networks, or null for any")
        return ()
    normalized = []
    for limit in limits:
        try:
            normalized.append(str(networks.network(limit)))
        except ValueError:
            faults.add(
                "networks",
                f"must be addresses or networks such as 10.0.0.0/8, with no bit set after the "
                f"prefix: {limit[:50]}",
            )
    return tuple(normalized)


def _owned_by(account: Account, list_query: ListQuery) -> ListQuery:
    return replace(list_query, filters={**list_query.filters, "owner": account.id})


def _is_permanent(key: ApiKey) -> bool:
    """Return whether a key is permanent, as ``GrantStore.has_lasting_admin`` requires."""
    limits = (key.expires_at, key.scopes, key.networks)
    return key.enabled and all(limit is None for limit in limits)


def _unique(items: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if items is None else tuple(dict.fromkeys(items))


def _target(key: ApiKey) -> str:
    return f"account/{key.account_id}/api-key/{key.id}"


def _fields(key: ApiKey) -> dict[str, Any]:
    return {name: getattr(key, name) for name in _FIELDS}
