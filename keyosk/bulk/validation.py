"""Validation of an import's lines before any of them is written. It only reads."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from keyosk.accounts import grants as grant_rules
from keyosk.accounts.accounts import new_account_values
from keyosk.bulk.records import Candidate, Line, Result, Status, refused
from keyosk.credentials.password_hashing import Passwords
from keyosk.errors import Fault, Forbidden, InsufficientScope, Invalid
from keyosk.ids import new_id
from keyosk.model import Caller, Grant, Role, StoredPassword
from keyosk.permissions.context import Context
from keyosk.storage.stores import Stores
from keyosk.validation import Faults

Grants = tuple[Grant, ...]

_OVER: Final = "is in the past"
_GRANT: Final = "keyosk:grants:write"
_CREDENTIALS: Final = frozenset({"password", "password_hash"})


class LineValidator:
    """Checks lines against the rules for accounts, credentials and grants."""

    def __init__(self, context: Context, stores: Stores, passwords: Passwords) -> None:
        self._safeguards = context.safeguards
        self._clock = context.clock
        self._accounts = stores.accounts
        self._services = stores.services
        self._roles = stores.roles
        self._passwords = passwords

    def sort(self, caller: Caller, lines: Sequence[Line]) -> tuple[list[Result], list[Candidate]]:
        """Return the results of invalid lines, and candidates for the valid ones."""
        now = int(self._clock())
        named = [grant for grants in distinct(line.grants for line in lines) for grant in grants]
        scopes = self._services.existing_scopes({grant.scope for grant in named if grant.scope})
        roles = self._roles.named([*{grant.role for grant in named if grant.role}])
        check = cached(partial(_grant_faults, scopes, roles))
        may_grant = cached(partial(self._may_grant, caller, roles))
        warnings_of = cached(partial(_ended, now))
        results: list[Result] = []
        candidates: list[Candidate] = []
        for line in lines:
            try:
                if line.faults:
                    raise Invalid(line.faults)
                candidate = self._candidate(now, line, check=check, warnings_of=warnings_of)
                self._check_rules(caller, line, may_grant)
            except Invalid as error:
                results.append(Result(line.number, Status.INVALID, faults=error.faults))
            except Forbidden as error:
                results.append(refused(line, error))
            else:
                candidates.append(candidate)
        return results, candidates

    def passwords(
        self, candidates: Sequence[Candidate], *, dry_run: bool
    ) -> dict[str, StoredPassword]:
        """Return the password hashes by the ids of the new accounts; a dry run hashes nothing.

        Hashing is slow and needs no lock, so it happens before the transaction.
        """
        plain = [candidate for candidate in candidates if "password" in candidate.line.fields]
        # This only saves work when an import is repeated; the insert decides which accounts exist.
        existing = self._accounts.ids_of([candidate.account["username"] for candidate in plain])
        hashes = {
            candidate.account["id"]: candidate.hash
            for candidate in candidates
            if candidate.hash is not None
        }
        for candidate in plain:
            if not dry_run and candidate.account["username"] not in existing:
                hashes[candidate.account["id"]] = self._passwords.hash(
                    candidate.line.fields["password"]
                )
        return {account_id: StoredPassword(new_id(), text) for account_id, text in hashes.items()}

    def _candidate(
        self,
        now: int,
        line: Line,
        *,
        check: Callable[[Grants], Invalid | None],
        warnings_of: Callable[[Grants], tuple[Fault, ...]],
    ) -> Candidate:
        """Return the account that a line describes. Raises ``Invalid`` with all its faults."""
        wrong = check(line.grants) if line.grants else None
        adopted = None
        if wrong is None and "password_hash" not in line.fields:
            account = new_account_values(now, **line.fields, may_be_over=True)
        else:
            account, adopted = self._account(now, line, wrong)
        warnings = warnings_of(line.grants) if line.grants else ()
        if account["expires_at"] is not None and account["expires_at"] <= now:
            warnings = (Fault("expires_at", f"{_OVER}: the account cannot log in"), *warnings)
        return Candidate(line, account, adopted, warnings)

    def _account(
        self, now: int, line: Line, wrong: Invalid | None
    ) -> tuple[dict[str, Any], str | None]:
        """Return the account, and the hash of its password.

        ``wrong``: the faults of its grants. Raises ``Invalid`` with these and all other faults.
        """
        fields = dict(line.fields)
        password_hash = fields.pop("password_hash", None)
        faults = Faults()
        account: dict[str, Any] = {}
        adopted = None
        try:
            account = new_account_values(now, **fields, may_be_over=True)
        except Invalid as error:
            faults.extend(error)
        if password_hash is not None:
            try:
                adopted = self._passwords.adopt(password_hash)
            except Invalid as error:
                faults.extend(error)
            if "password" in fields:
                faults.add("password_hash", "cannot be combined with password")
        if wrong is not None:
            faults.extend(wrong)
        faults.raise_if_any()
        if adopted is not None:
            account["has_password"] = True
        return account, adopted

    def _check_rules(
        self, caller: Caller, line: Line, may_grant: Callable[[Grants], Forbidden | None]
    ) -> None:
        """Check the safeguards for a new account. Raises ``Forbidden``."""
        if line.grants and (refusal := may_grant(line.grants)) is not None:
            raise refusal
        if not _CREDENTIALS.isdisjoint(line.fields):
            self._safeguards.not_by_api_key(caller)

    def _may_grant(
        self, caller: Caller, roles: Mapping[str, Role], grants: Grants
    ) -> Forbidden | None:
        """Return why the caller may not give these grants; ``None`` if they may."""
        try:
            self._safeguards.not_by_api_key(caller)
            if not caller.has(_GRANT):
                raise InsufficientScope(_GRANT)
            for grant in grants:
                self._safeguards.may_grant(caller, grant, roles)
        except Forbidden as error:
            return error
        return None


_T = TypeVar("_T")


def cached(function: Callable[[Grants], _T]) -> Callable[[Grants], _T]:
    """Return ``function`` with its results cached by object; lines of a batch share their grants.

    The caller must keep the objects alive, because they are compared by identity.
    """
    results: dict[int, _T] = {}

    def call(grants: Grants) -> _T:
        if id(grants) not in results:
            results[id(grants)] = function(grants)
        return results[id(grants)]

    return call


def distinct(every: Iterable[Grants | None]) -> Collection[Grants]:
    """Return each object once (by identity), without ``None``."""
    return {id(grants): grants for grants in every if grants}.values()


def _grant_faults(
    scopes: Collection[str], roles: Mapping[str, Role], grants: Grants
) -> Invalid | None:
    try:
        grant_rules.check(grants, scopes, roles)
    except Invalid as error:
        return error
    return None


def _ended(now: int, grants: Grants) -> tuple[Fault, ...]:
    """Return warnings about grants that have ended, as in an old export or by mistake."""
    return tuple(
        Fault("grants", f"the end of {grant.scope or grant.role} {_OVER}: it gives nothing")
        for grant in grants
        if grant.until is not None and grant.until <= now
    )
