"""The safeguards against privilege escalation: administering gives nobody a right they lack.

1. A caller gives only scopes that they hold: directly, in a role, or by the fields of a service.
   A grant ends no later than the caller's own, and holds for no other kinds of login. A holder
   of ``keyosk:admin`` may give all scopes of services, but of Keyosk's own scopes only those
   that they hold.
2. A caller does not change an account that was granted more than they hold: by setting its
   password they could log in as it.
3. A caller does not change their own grants or ``enabled``.
4. A caller by API key or by a workload's token never makes, changes or reveals credentials and
   never widens grants.
5. There is always an admin: the last account that holds ``keyosk:admin`` permanently keeps it,
   stays enabled, and keeps a credential.

All of them judge by what is stored, never by what a request body claims.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from keyosk.errors import RefusedByRule
from keyosk.model import ADMIN, Caller, Grant, Role
from keyosk.storage.database import Database
from keyosk.storage.grants import GrantStore

#: The lock for writes that could remove the last admin.
_ADMINS: Final = "admins"


class Safeguards:
    """Each rule succeeds or raises ``RefusedByRule``."""

    def __init__(self, database: Database, grants: GrantStore) -> None:
        self._database = database
        self._grants = grants

    def may_give(self, caller: Caller, scopes: Iterable[str]) -> None:
        """Rule 1, for what is given without conditions."""
        _refuse(scope for scope in scopes if not caller.may_give(scope))

    def may_grant(self, caller: Caller, grant: Grant, roles: Mapping[str, Role]) -> None:
        """Rule 1, for a grant. ``roles``: by name; they include the role of the grant."""
        scopes = (grant.scope,) if grant.scope is not None else roles[grant.role or ""].scopes
        _refuse(
            scope
            for scope in scopes
            if not caller.may_give(scope, credential=grant.credential, until=grant.until)
        )

    def may_take(self, caller: Caller, scopes: Iterable[str]) -> None:
        """The reverse of rule 1: a caller removes only scopes that they hold from a role."""
        _refuse(scope for scope in scopes if not caller.holds(scope))

    def may_change(self, caller: Caller, account_id: str) -> None:
        """Rule 2. Callers may always change their own account."""
        if caller.account_id == account_id or caller.has(ADMIN):
            return
        if not all(caller.holds(scope) for scope in self._grants.scopes_of(account_id)):
            raise RefusedByRule("This account holds rights that you do not hold.")

    def not_oneself(self, caller: Caller, account_id: str) -> None:
        """Rule 3."""
        if caller.account_id == account_id:
            raise RefusedByRule(
                "You cannot change your own grants, or enable or disable your own account."
            )

    def not_by_api_key(self, caller: Caller) -> None:
        """Rule 4."""
        if caller.credential is not None and caller.credential.is_of_program:
            raise RefusedByRule(
                "A caller with an API key or a workload's token cannot do this: use a password."
            )

    @contextmanager
    def keeping_an_admin(self, *, at_risk: bool = True) -> Iterator[None]:
        """Rule 5, around a write inside a transaction.

        ``at_risk``: whether the write can remove anything that a permanent admin needs. If it
        cannot, this costs no query.
        """
        if not at_risk:
            yield
            return
        self._database.lock(_ADMINS)
        before = self._grants.has_lasting_admin()
        yield
        if before and not self._grants.has_lasting_admin():
            raise RefusedByRule(
                "This would leave no account that can administer Keyosk permanently."
            )


def _refuse(missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise RefusedByRule(
            "You cannot grant rights that you do not hold, or with fewer limits than yours: "
            + " ".join(names[:20])
        )
