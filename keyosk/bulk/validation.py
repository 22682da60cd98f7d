"""Validation of an import's lines before any of them is written. It only reads."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Final

from keyosk.accounts import grants as grant_rules
from keyosk.accounts.accounts import drafted
from keyosk.bulk.records import Candidate, Line, Result, Status, refused
from keyosk.credentials.password_hashing import Passwords
from keyosk.errors import Fault, Forbidden, InsufficientScope, Invalid
from keyosk.ids import new_id
from keyosk.model import Account, Caller, Grant, Role, StoredPassword
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
        self._rules = context.rules
        self._clock = context.clock
        self._accounts = stores.accounts
        self._services = stores.services
        self._roles = stores.roles
        self._passwords = passwords

    def sort(self, by: Caller, lines: Sequence[Line]) -> tuple[list[Result], list[Candidate]]:
        """Return the results of invalid lines, and candidates for the valid ones."""
        now = int(self._clock())
        named = [grant for line in lines for grant in line.grants or ()]
        scopes = self._services.existing_scopes({grant.scope for grant in named if grant.scope})
        roles = self._roles.named([*{grant.role for grant in named if grant.role}])
        # Lines give the same few.
        check = cache(partial(_grant_faults, scopes, roles))
        may_grant = cache(partial(self._may_grant, by, roles))
        results: list[Result] = []
        candidates: list[Candidate] = []
        for line in lines:
            try:
                if line.faults:
                    raise Invalid(line.faults)
                candidate = self._candidate(now, line, check)
                self._check_rules(by, line, may_grant)
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
        """Return the passwords to store, by the ids of the new accounts; a dry run hashes none.

        Hashing is slow and needs no lock, so it happens before the transaction.
        """
        plain = [each for each in candidates if "password" in each.line.fields]
        # Only to spare work when an import is repeated; who is new, the insert finds out.
        known = self._accounts.ids_of([each.account.username for each in plain])
        hashes = {each.account.id: each.hash for each in candidates if each.hash is not None}
        for each in plain:
            if not dry_run and each.account.username not in known:
                hashes[each.account.id] = self._passwords.hash(each.line.fields["password"])
        return {account_id: StoredPassword(new_id(), text) for account_id, text in hashes.items()}

    def _candidate(
        self, now: int, line: Line, check_grants: Callable[[Grants], Invalid | None]
    ) -> Candidate:
        """Return the account that a line describes. Raises ``Invalid`` with all its faults."""
        fields = dict(line.fields)
        given = fields.pop("password_hash", None)
        faults = Faults()
        account = adopted = None
        try:
            account = drafted(now, **fields, may_be_over=True)
        except Invalid as error:
            faults.extend(error)
        if given is not None:
            try:
                adopted = self._passwords.adopt(given)
            except Invalid as error:
                faults.extend(error)
            if "password" in fields:
                faults.add("password_hash", "cannot be combined with password")
        if line.grants and (wrong := check_grants(line.grants)) is not None:
            faults.extend(wrong)
        faults.raise_if_any()
        assert account is not None
        if adopted is not None:
            account = replace(account, has_password=True)
        return Candidate(line, account, adopted, tuple(_over(now, account, line.grants or ())))

    def _check_rules(
        self, by: Caller, line: Line, may_grant: Callable[[Grants], Forbidden | None]
    ) -> None:
        """Check the safeguards for a new account. Raises ``Forbidden``."""
        if line.grants or not _CREDENTIALS.isdisjoint(line.fields):
            self._rules.not_by_api_key(by)
        if line.grants and not by.has(_GRANT):
            raise InsufficientScope(_GRANT)
        if line.grants and (refusal := may_grant(line.grants)) is not None:
            raise refusal

    def _may_grant(self, by: Caller, roles: Mapping[str, Role], grants: Grants) -> Forbidden | None:
        """Return why the caller may not give these grants; ``None`` if they may."""
        try:
            for grant in grants:
                self._rules.may_grant(by, grant, roles)
        except Forbidden as error:
            return error
        return None


def _grant_faults(
    scopes: Collection[str], roles: Mapping[str, Role], grants: Grants
) -> Invalid | None:
    try:
        grant_rules.check(grants, scopes, roles)
    except Invalid as error:
        return error
    return None


def _over(now: int, account: Account, grants: Sequence[Grant]) -> Iterator[Fault]:
    """Return which times of a line have passed: from an export of old accounts, or a mistake."""
    if account.expires_at is not None and account.expires_at <= now:
        yield Fault("expires_at", f"{_OVER}: the account cannot log in")
    for grant in grants:
        if grant.until is not None and grant.until <= now:
            yield Fault(
                "grants", f"the end of {grant.scope or grant.role} {_OVER}: it gives nothing"
            )
