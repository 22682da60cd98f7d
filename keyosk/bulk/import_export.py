"""Import and export of any number of accounts, in memory that does not grow with their number.

An import is many small transactions, one for each batch of lines. Each creates what is valid and
returns a result for every line. A bad line affects no other line. An interrupted import is simply
repeated: existing accounts stay as they are.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from operator import itemgetter
from typing import Any, Final, cast

from keyosk.accounts import grants as grant_rules
from keyosk.accounts.accounts import FIELDS, Accounts, creation_fields, target
from keyosk.accounts.grants import Grants
from keyosk.bulk.records import Candidate, Line, OnConflict, Result, Status, batches, refused
from keyosk.bulk.validation import Grants as GrantTuple
from keyosk.bulk.validation import LineValidator, cached, distinct
from keyosk.credentials.password_hashing import Passwords
from keyosk.errors import Conflict, Fault, Forbidden, Invalid, NotFound, Unavailable
from keyosk.merge_patch import is_same, merge_patch
from keyosk.model import Account, AccountChanges, Caller, Grant, ListQuery, Role, StoredPassword
from keyosk.permissions.context import Context
from keyosk.revocations import latest
from keyosk.storage.stores import Stores

#: The number of batches after which the audit log is sealed.
_SEAL: Final = 20
_PAGE: Final = 500
_TAKEN: Final = Fault("username", "Another account already has this username.")
_GONE: Final = Fault("username", "was taken until a moment ago: send the line again")

_Existing = tuple[Candidate, str]


class _RollBack(Exception):
    """Rolls back the transaction of a dry run."""


class Bulk:
    """Imports and exports accounts."""

    def __init__(
        self,
        context: Context,
        stores: Stores,
        passwords: Passwords,
        *,
        accounts: Accounts,
        grants: Grants,
    ) -> None:
        self._database = context.database
        self._safeguards = context.safeguards
        self._audit = context.audit
        self._clock = context.clock
        self._account_store = stores.accounts
        self._grant_store = stores.grants
        self._roles = stores.roles
        self._accounts = accounts
        self._grants = grants
        self._validator = LineValidator(context, stores, passwords)
        self._place = threading.Lock()

    def exclusive(self) -> Callable[[], None]:
        """Be the only import or export over HTTP in this process; returns a function that ends it.

        Each occupies, for minutes, one of the few threads that password logins need too. Ending it
        twice is harmless. Raises ``Unavailable``.
        """
        if not self._place.acquire(blocking=False):
            raise Unavailable("Another import or export is running: try again later.")
        place = ExitStack()
        place.callback(self._place.release)
        return place.close

    def export_accounts(
        self, filters: Mapping[str, Any]
    ) -> Iterator[list[tuple[Account, Sequence[Grant]]]]:
        """Yield every account that passes the filters of a list, with its grants, page by page.

        No transaction spans two pages: an account that changes meanwhile is exported as it was or
        as it is. Accounts that are created meanwhile are left out, so that an export ends.
        """
        after = None
        newest = self._accounts.page(ListQuery(limit=1, descending=True))
        end = (newest[0].created_at, newest[0].id) if newest else None
        while True:
            page = self._accounts.page(
                ListQuery(limit=_PAGE, after=after, end=end, filters=filters)
            )
            granted = self._grant_store.of_accounts([account.id for account in page])
            yield [(account, granted[account.id]) for account in page]
            if len(page) < _PAGE:
                return
            after = (page[-1].created_at, page[-1].id)

    def import_accounts(
        self,
        current_caller: Callable[[], Caller],
        lines: Iterable[Line],
        *,
        on_conflict: OnConflict = OnConflict.SKIP,
        dry_run: bool = False,
    ) -> Iterator[list[Result]]:
        """Import lines; yields the results batch by batch, in the order of the lines.

        ``current_caller`` returns the caller with their present rights; it is called for each
        batch. ``dry_run``: nothing is stored; a username that occurs in two batches is then not
        noticed. Raises ``Unavailable``, and what ``current_caller`` raises; earlier batches are
        kept.
        """
        for number, batch in enumerate(batches(lines), start=1):
            # SECURITY: an upload may last for hours, so the rights of the caller are read again for
            # each batch.
            caller = current_caller()
            yield self._batch(caller, batch, on_conflict, dry_run=dry_run)
            if not dry_run and number % _SEAL == 0:
                self._audit.seal_quietly()

    def _batch(
        self, caller: Caller, lines: Sequence[Line], on_conflict: OnConflict, *, dry_run: bool
    ) -> list[Result]:
        results, candidates = self._validator.sort(caller, lines)
        passwords = self._validator.passwords(candidates, dry_run=dry_run)
        made, existing = self._created(caller, candidates, passwords, dry_run=dry_run)
        results += made
        for candidate, account_id in existing:
            number = candidate.line.number
            if on_conflict is OnConflict.SKIP:
                results.append(Result(number, Status.EXISTS, account_id))
            elif on_conflict is OnConflict.FAIL:
                results.append(Result(number, Status.CONFLICT, account_id, (_TAKEN,)))
            else:
                results.append(self._updated(caller, candidate, account_id, dry_run=dry_run))
        results.sort(key=lambda result: result.line)
        if not dry_run:
            self._tell_refused(caller, results)
        return results

    def _created(
        self,
        caller: Caller,
        candidates: Sequence[Candidate],
        passwords: Mapping[str, StoredPassword],
        *,
        dry_run: bool,
    ) -> tuple[list[Result], list[_Existing]]:
        """Create the accounts in one transaction; also return the lines whose account exists."""
        results: list[Result] = []
        existing: list[_Existing] = []
        if not candidates:
            return results, existing
        try:
            made, ids = self._insert(caller, candidates, passwords, dry_run=dry_run)
        except (Conflict, Forbidden) as error:
            # A role or scope was changed or deleted between check and insert. Only inserting each
            # line alone tells whose grant failed.
            if len(candidates) == 1:
                return [_failed(candidates[0].line, error)], existing
            for candidate in candidates:
                more, there = self._created(caller, [candidate], passwords, dry_run=dry_run)
                results += more
                existing += there
            return results, existing
        for candidate in candidates:
            account_id = ids.get(candidate.account["username"])
            if candidate.account["id"] in made:
                shown_id = None if dry_run else account_id
                results.append(
                    Result(
                        candidate.line.number, Status.CREATED, shown_id, warnings=candidate.warnings
                    )
                )
            elif account_id is None:
                results.append(Result(candidate.line.number, Status.CONFLICT, faults=(_GONE,)))
            elif dry_run and account_id in made:  # a line above inserted it, and it was rolled back
                results.append(Result(candidate.line.number, Status.EXISTS))
            else:
                existing.append((candidate, account_id))
        return results, existing

    def _insert(
        self,
        caller: Caller,
        candidates: Sequence[Candidate],
        passwords: Mapping[str, StoredPassword],
        *,
        dry_run: bool,
    ) -> tuple[frozenset[str], dict[str, str]]:
        """Insert accounts; return the ids of the new ones, and the ids of all by username.

        Raises ``Conflict``, ``RefusedByRule``.
        """
        by_role = {
            grant
            for grants in distinct(candidate.line.grants for candidate in candidates)
            for grant in grants
            if grant.role
        }
        # In a fixed order, so that two imports never deadlock.
        ordered = sorted(
            (candidate.account for candidate in candidates), key=itemgetter("username")
        )
        inserted: frozenset[str] = frozenset()
        ids: dict[str, str] = {}
        try:
            with self._database.transaction():
                roles = self._roles_to_give(caller, by_role)
                inserted = self._account_store.add_all(ordered)
                new = [candidate for candidate in candidates if candidate.account["id"] in inserted]
                now = int(self._clock())
                self._account_store.add_passwords(
                    {one: passwords[one] for one in passwords if one in inserted}, now=now
                )
                grants_of = {one.account["id"]: one.line.grants for one in new if one.line.grants}
                role_ids = {name: role.id for name, role in roles.items()}
                self._grant_store.add_all(grants_of, role_ids, now=now)
                self._tell_made(caller, [candidate.account for candidate in new], grants_of)
                ids = {candidate.account["username"]: candidate.account["id"] for candidate in new}
                if len(new) < len(ordered):
                    ids |= self._account_store.ids_of(
                        [one["username"] for one in ordered if one["id"] not in inserted]
                    )
                if dry_run:
                    raise _RollBack
        except _RollBack:
            pass
        return inserted, ids

    def _roles_to_give(self, caller: Caller, grants: Collection[Grant]) -> dict[str, Role]:
        names = {grant.role for grant in grants if grant.role}
        roles = self._roles.named([*names])
        if gone := sorted(names - roles.keys()):
            raise Conflict("roles", f"The role {gone[0]} was deleted in the meantime.")
        # SECURITY: checked again, because a role may have got more scopes since the first check.
        for grant in grants:
            self._safeguards.may_grant(caller, grant, roles)
        return roles

    def _tell_made(
        self,
        caller: Caller,
        accounts: Iterable[Mapping[str, Any]],
        grants_of: Mapping[str, GrantTuple],
    ) -> None:
        self._audit.record_all(
            caller,
            "account.create",
            {target(account["id"]): creation_fields(account) for account in accounts},
        )
        shape_of = cached(lambda grants: {"grants": grant_rules.shapes(grants)})
        self._audit.record_all(
            caller,
            "grants.change",
            {target(account_id): shape_of(grants) for account_id, grants in grants_of.items()},
        )

    def _updated(
        self, caller: Caller, candidate: Candidate, account_id: str, *, dry_run: bool
    ) -> Result:
        """Set the fields and grants of an account to those of the line, in one transaction.

        Its password stays: repeating an import would otherwise undo a later change.
        """
        line = candidate.line
        patch = {
            name: value
            for name, value in line.fields.items()
            if name in FIELDS and name != "username"
        }
        changes = False
        effective_at = None
        try:
            with self._database.transaction():
                account = self._accounts.locked(account_id)
                if _differs(account, patch):
                    changed = self._accounts.change(
                        caller, account_id, cast(AccountChanges, patch), may_be_over=True
                    )
                    effective_at = changed.effective_at
                    changes = True
                before = self._grant_store.of_account(account_id)
                if line.grants is not None and set(line.grants) != set(before):
                    changed, _ = self._grants.replace(
                        caller, account_id, line.grants, may_be_over=True
                    )
                    effective_at = latest(effective_at, changed.effective_at)
                    changes = True
                if dry_run:
                    raise _RollBack
        except _RollBack:
            effective_at = None
        except (Invalid, Forbidden, NotFound, Conflict) as error:
            return _failed(line, error)
        if not changes:
            return Result(line.number, Status.UNCHANGED, account_id)
        return Result(
            line.number,
            Status.UPDATED,
            account_id,
            warnings=candidate.warnings,
            effective_at=effective_at,
        )

    def _tell_refused(self, caller: Caller, results: Sequence[Result]) -> None:
        """Write one audit row for all lines of a batch that a rule refused."""
        lines = [result for result in results if result.status is Status.REFUSED]
        if not lines:
            return
        after = {
            "lines": len(lines),
            "first_line": lines[0].line,
            "reason": lines[0].faults[0].message,
        }
        self._audit.refuse(caller, "rule.refused", "accounts/import", after=after)


def _failed(line: Line, error: Invalid | Forbidden | NotFound | Conflict) -> Result:
    if isinstance(error, Forbidden):
        return refused(line, error)
    if isinstance(error, Invalid):
        return Result(line.number, Status.INVALID, faults=error.faults)
    field = error.field if isinstance(error, Conflict) else "username"
    return Result(line.number, Status.CONFLICT, faults=(Fault(field, error.detail),))


def _differs(account: Account, patch: Mapping[str, Any]) -> bool:
    """Return whether a merge patch would change the account."""
    before = {name: getattr(account, name) for name in patch}
    # Field by field: a merge would remove expires_at if it is None.
    return any(not is_same(before[name], merge_patch(before[name], patch[name])) for name in patch)
