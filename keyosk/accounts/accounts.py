"""Accounts and their passwords."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Unpack, cast

from keyosk.audit import changed_fields
from keyosk.credentials import usernames
from keyosk.credentials.password_hashing import Passwords
from keyosk.credentials.password_policy import check_new
from keyosk.errors import Conflict, Invalid, NotFound, ProofRequired
from keyosk.ids import is_id, new_id, new_version
from keyosk.merge_patch import is_same, merge_patch
from keyosk.model import (
    Account,
    AccountChanges,
    AccountFields,
    Caller,
    Kind,
    ListQuery,
    StoredPassword,
    Versions,
)
from keyosk.permissions.context import Context
from keyosk.storage.stores import Stores
from keyosk.validation import LONGEST_NAME, Faults, check_version

#: The most accounts that a page of a search inside names looks at.
LOOKED_AT: Final = 20_000
RESET: Final[Mapping[str, Any]] = {
    "kind": Kind.PERSON,
    "display_name": "",
    "enabled": True,
    "claims": {},
    "metadata": {},
}
#: The fields that may be changed; the audit log shows their changes.
FIELDS: Final = (
    "username",
    "kind",
    "display_name",
    "enabled",
    "claims",
    "metadata",
    "expires_at",
)
_CREATED: Final = (*FIELDS, "has_password")
_KINDS: Final = frozenset(kind.value for kind in Kind)


@dataclass(frozen=True, slots=True)
class Draft:
    """A new account that is not stored yet, and its password's hash."""

    account: Account
    password: StoredPassword | None = field(default=None, repr=False)


class Accounts:
    """What an admin does with accounts. Every write is one transaction."""

    def __init__(self, context: Context, stores: Stores, passwords: Passwords) -> None:
        self._database = context.database
        self._safeguards = context.safeguards
        self._revocations = context.revocations
        self._audit = context.audit
        self._clock = context.clock
        self._accounts = stores.accounts
        self._passwords = passwords

    def draft(
        self, caller: Caller, *, password: str | None = None, **fields: Unpack[AccountFields]
    ) -> Draft:
        """Return a new account for ``add``; ``fields``: as for ``new_account``.

        Hashing is slow and needs no lock, so it happens here, before any transaction. Raises
        ``Invalid``, ``RefusedByRule``.
        """
        account = new_account(int(self._clock()), password=password, **fields)
        if password is None:
            return Draft(account)
        self._safeguards.not_by_api_key(caller)
        return Draft(account, self._stored(password))

    def add(
        self, caller: Caller, draft: Draft, *, on_add: Callable[[Account], Account] | None = None
    ) -> Account:
        """Store a new account.

        ``on_add``: called in the same transaction; its result replaces the account. Raises
        ``Conflict``.
        """
        account = draft.account
        with self._database.transaction():
            self._accounts.add(account)
            if draft.password is not None:
                self._accounts.set_password(account.id, draft.password, now=account.created_at)
            after = {**fields_of(account), "has_password": account.has_password}
            self._audit.record(caller, "account.create", target(account.id), after=after)
            return account if on_add is None else on_add(account)

    def get(self, reference: str) -> Account:
        """Return the account with this id, or this username in any spelling.

        Raises ``NotFound``.
        """
        if is_id(reference):
            return self._accounts.by_id(reference.lower())
        name = usernames.lookup_form(reference)
        if name is None:
            raise NotFound("There is no such account.")
        return self._accounts.by_username(name)

    def locked(self, reference: str) -> Account:
        """Return the account as ``get`` does, for a transaction that changes it.

        Until its end, no other such transaction can get the account.
        """
        if is_id(reference):
            self._database.lock(target(reference.lower()))
            return self._accounts.by_id(reference.lower())
        account = self.get(reference)
        may_differ = self._database.lock(target(account.id))
        return self._accounts.by_id(account.id) if may_differ else account

    def check_proof(self, caller: Caller, account_id: str) -> None:
        """Check that a caller who changes their own credentials proved their password.

        Call it in the transaction of the change. Raises ``ProofRequired``, and ``Conflict`` if the
        proven password is no longer the account's password.
        """
        # SECURITY: the gate of the web checked this earlier, for the account that the path named
        # then. A username may belong to another account by now, and not every caller has a gate.
        if caller.account_id == account_id and caller.proof is None:
            raise ProofRequired
        if caller.proof is None:
            return
        password = self._accounts.password_of(account_id)
        if password is None or password.id != caller.proof:
            raise Conflict("current_password", "The password was changed in the meantime.")

    def usernames(self, account_ids: Collection[str]) -> dict[str, str]:
        """Return the usernames of the accounts by id; accounts that do not exist are left out."""
        return self._accounts.usernames(account_ids)

    def owned(self, list_query: ListQuery) -> ListQuery | None:
        """Return the query with the id of its ``owner``; ``None`` if there is no such account."""
        owner = list_query.filters.get("owner")
        if owner is None:
            return list_query
        try:
            account = self.get(owner)
        except NotFound:
            return None
        return replace(list_query, filters={**list_query.filters, "owner": account.id})

    def page(self, list_query: ListQuery) -> list[Account]:
        """Return a page of accounts."""
        return self._accounts.page(list_query)

    def horizon(self, list_query: ListQuery) -> Account | None:
        """Return the last account that a page looks at; ``None`` if it looks at all the rest."""
        return self._accounts.horizon(list_query, looked_at=LOOKED_AT)

    def count(self, list_query: ListQuery) -> int:
        """Return the number of accounts that pass the filters of a list."""
        return self._accounts.count(list_query)

    def change(
        self,
        caller: Caller,
        reference: str,
        patch: AccountChanges,
        *,
        version: Versions | None = None,
        may_be_over: bool = False,
    ) -> Account:
        """Apply a merge patch (RFC 7396): ``None`` resets a field, objects merge by member.

        ``may_be_over``: whether a new ``expires_at`` may lie in the past; an unchanged one always
        may. Writes only the fields that differ. Raises
        ``Invalid``, ``NotFound``,
        ``Conflict``, ``Stale`` (unless the account is at ``version``), ``RefusedByRule``.
        """
        now = int(self._clock())
        with self._database.transaction():
            account = self.locked(reference)
            changes = _changes(account, patch)
            faults = Faults()
            if "username" in changes:
                changes["username"] = _username(changes["username"], faults)
            after = replace(account, **changes)
            _check(faults, after.display_name, after.claims, metadata=after.metadata)
            is_new = after.expires_at != account.expires_at and not may_be_over
            faults.time("expires_at", after.expires_at, after=now if is_new else None)
            faults.raise_if_any()
            self._safeguards.may_change(caller, account.id)
            if after.enabled != account.enabled or after.expires_at != account.expires_at:
                self._safeguards.not_oneself(caller, account.id)
            changes = cast(
                AccountFields,
                {
                    name: value
                    for name, value in changes.items()
                    if not is_same(value, getattr(account, name))
                },
            )
            if not changes:
                return check_version(account, version)
            disabled = account.enabled > after.enabled
            with self._safeguards.keeping_an_admin(
                at_risk=disabled or (account.expires_at is None and after.expires_at is not None)
            ):
                number = self._accounts.change(account.id, changes, now=now, version=version)
            effective_at = None
            if disabled or self._revocations.cuts_short(account.expires_at, after.expires_at):
                effective_at = self._revocations.revoke_account(account.id)
                self._revocations.end_sessions(account.id)
            old, new = changed_fields(fields_of(account), fields_of(after))
            self._audit.record(caller, "account.change", target(account.id), before=old, after=new)
            return replace(after, updated_at=now, version=number, effective_at=effective_at)

    def remove(self, caller: Caller, reference: str, *, version: Versions | None = None) -> int:
        """Delete an account with its password, API keys and grants.

        Returns when all its tokens have expired. Raises ``NotFound``, ``Stale``, ``RefusedByRule``.
        """
        with self._database.transaction():
            account = self.locked(reference)
            self._safeguards.may_change(caller, account.id)
            effective_at = self._revocations.revoke_account(account.id)
            with self._safeguards.keeping_an_admin():
                self._accounts.remove(account.id, version=version)
            self._audit.record(
                caller, "account.delete", target(account.id), before=fields_of(account)
            )
            return effective_at

    def set_password(self, caller: Caller, reference: str, password: str) -> int | None:
        """Give the account a new password.

        Returns when all tokens from before have expired, if there was a password. Raises
        ``Invalid``, ``NotFound``, ``RefusedByRule``, and as ``check_proof``.
        """
        account = self.get(reference)
        faults = Faults()
        _check_password(faults, password, account.username, display_name=account.display_name)
        faults.raise_if_any()
        self._safeguards.not_by_api_key(caller)
        stored = self._stored(password)
        now = int(self._clock())
        with self._database.transaction():
            self._safeguards.may_change(caller, account.id)
            self.check_proof(caller, account.id)
            effective_at = None
            if self._accounts.password_of(account.id) is not None:
                effective_at = self._revocations.revoke_account(account.id)
                self._revocations.end_sessions(account.id, by_password=True)
            self._accounts.change(account.id, {}, now=now)
            self._accounts.set_password(account.id, stored, now=now)
            self._audit.record(caller, "password.set", target(account.id))
            return effective_at

    def remove_password(self, caller: Caller, reference: str) -> int:
        """Delete the password of the account.

        Returns when all its tokens have expired. Raises ``NotFound`` if it has none,
        ``RefusedByRule``, and as ``check_proof``.
        """
        with self._database.transaction():
            account = self.locked(reference)
            self._safeguards.not_by_api_key(caller)
            self._safeguards.may_change(caller, account.id)
            self.check_proof(caller, account.id)
            with self._safeguards.keeping_an_admin():
                if not self._accounts.remove_password(account.id):
                    raise NotFound("The account has no password.")
                effective_at = self._revocations.revoke_account(account.id)
                self._revocations.end_sessions(account.id, by_password=True)
                self._accounts.change(account.id, {}, now=int(self._clock()))
            self._audit.record(caller, "password.delete", target(account.id))
            return effective_at

    def revoke_tokens(self, caller: Caller, reference: str) -> int:
        """Revoke all existing tokens of the account, refresh tokens included; its credentials stay.

        Returns when they all have expired. Raises ``NotFound``, ``RefusedByRule``.
        """
        with self._database.transaction():
            account = self.locked(reference)
            self._safeguards.may_change(caller, account.id)
            self._revocations.end_sessions(account.id)
            effective_at = self._revocations.revoke_account(account.id)
            self._audit.record(caller, "tokens.revoke", target(account.id))
            return effective_at

    def _stored(self, password: str) -> StoredPassword:
        return StoredPassword(new_id(), self._passwords.hash(password))


def new_account(
    now: int,
    *,
    password: str | None = None,
    may_be_over: bool = False,
    **fields: Unpack[AccountFields],
) -> Account:
    """Return a new account, not stored yet, with valid fields. Raises ``Invalid``.

    ``may_be_over``: whether ``expires_at`` may lie in the past.
    """
    values = new_account_values(now, password=password, may_be_over=may_be_over, **fields)
    return Account(**{**values, "kind": Kind(values["kind"])})


def new_account_values(
    now: int,
    *,
    username: str,
    kind: str = Kind.PERSON.value,
    display_name: str = "",
    enabled: bool = True,
    claims: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    expires_at: int | None = None,
    password: str | None = None,
    may_be_over: bool = False,
) -> dict[str, Any]:
    """Return the values of ``new_account``, for imports: an object would double the time."""
    if kind not in _KINDS:
        raise ValueError(kind)
    faults = Faults()
    name = _username(username, faults)
    _check(faults, display_name, claims or {}, metadata=metadata or {})
    faults.time("expires_at", expires_at, after=None if may_be_over else now)
    if password is not None:
        _check_password(faults, password, name, display_name=display_name)
    faults.raise_if_any()
    account_id = new_id()
    return {
        "id": account_id,
        "username": name,
        "kind": kind,
        "display_name": display_name,
        "enabled": enabled,
        "claims": claims or {},
        "metadata": metadata or {},
        "expires_at": expires_at,
        "has_password": password is not None,
        "last_login_at": None,
        "created_at": now,
        "updated_at": now,
        "version": new_version(),
    }


def creation_fields(account: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the audit log shows of a new account, given its ``new_account_values``."""
    return {name: account[name] for name in _CREATED}


def target(account_id: str) -> str:
    """Return the name of an account in the audit log."""
    return f"account/{account_id}"


def fields_of(account: Account) -> dict[str, Any]:
    """Return the fields that may be changed, as plain values."""
    return {name: getattr(account, name) for name in FIELDS}


def _username(username: str, faults: Faults) -> str:
    try:
        return usernames.normalise(username)
    except Invalid as error:
        faults.extend(error)
        return ""


def _check_password(faults: Faults, password: str, username: str, *, display_name: str) -> None:
    try:
        check_new(password, username=username, display_name=display_name)
    except Invalid as error:
        faults.extend(error)


def _check(
    faults: Faults, display_name: str, claims: Mapping[str, Any], *, metadata: Mapping[str, Any]
) -> None:
    faults.text("display_name", display_name, longest=LONGEST_NAME)
    faults.json_object("claims", claims)
    faults.json_object("metadata", metadata)


def _changes(account: Account, patch: AccountChanges) -> AccountFields:
    changes: dict[str, Any] = {}
    for name, value in patch.items():
        if value is None:
            if name == "username":
                raise Invalid.field(name, "cannot be removed")
            changes[name] = RESET.get(name)
        elif isinstance(value, Mapping):
            changes[name] = _merged(name, getattr(account, name), value)
        else:
            changes[name] = value
    return cast(AccountFields, changes)


def _merged(name: str, target: Mapping[str, Any], patch: Mapping[str, Any]) -> Any:
    try:
        return merge_patch(target, patch)
    except RecursionError:
        raise Invalid.field(name, "is nested too deeply") from None
