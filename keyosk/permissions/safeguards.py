"""The rules against climbing: nobody gains, by administering, what they do not hold.

1. Nobody gives a scope that they do not hold, by itself, in a role or by what a service does, nor
   for longer or to more kinds of login than they hold it. Who holds ``keyosk:admin`` may give all
   scopes of services; of Keyosk's own no further than that goes.
2. Nobody changes an account that was granted more than they hold: who could set its password could
   be it.
3. Nobody changes their own grants or ``enabled``.
4. A caller by API key or by a workload's token never makes, changes or reveals credentials and
   never widens grants.
5. Somebody always can administer: the last account that holds ``keyosk:admin`` for good keeps it,
   is enabled, and has a credential.

All of them look at what is stored, never at what a body says of itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from keyosk.errors import RefusedByRule
from keyosk.model import ADMIN, Caller, Grant, Role
from keyosk.storage.database import Database
from keyosk.storage.grants import GrantStore

#: The lock of whatever could take the last admin away.
_ADMINS: Final = "admins"


class Rules:
    """Each rule succeeds or raises ``RefusedByRule``."""

    def __init__(self, database: Database, grants: GrantStore) -> None:
        self._database = database
        self._grants = grants

    def may_give(self, by: Caller, scopes: Iterable[str]) -> None:
        """Rule 1, for what is given without conditions."""
        _refuse(scope for scope in scopes if not by.may_give(scope))

    def may_grant(self, by: Caller, grant: Grant, roles: Mapping[str, Role]) -> None:
        """Rule 1, for a grant; ``roles``: by name, the one that it gives among them."""
        given = (grant.scope,) if grant.scope is not None else roles[grant.role or ""].scopes
        _refuse(
            scope
            for scope in given
            if not by.may_give(scope, credential=grant.credential, until=grant.until)
        )

    def may_take(self, by: Caller, scopes: Iterable[str]) -> None:
        """Rule 1 the other way: nobody takes from all what they do not hold."""
        _refuse(scope for scope in scopes if not by.holds(scope))

    def may_change(self, by: Caller, account_id: str) -> None:
        """Rule 2; one's own account is always within reach."""
        if by.account_id == account_id or by.has(ADMIN):
            return
        if not all(by.holds(scope) for scope in self._grants.scopes_of(account_id)):
            raise RefusedByRule("This account holds rights that you do not hold.")

    def not_oneself(self, by: Caller, account_id: str) -> None:
        """Rule 3."""
        if by.account_id == account_id:
            raise RefusedByRule(
                "You cannot change your own grants, or enable or disable your own account."
            )

    def not_by_api_key(self, by: Caller) -> None:
        """Rule 4."""
        if by.credential is not None and by.credential.is_of_program:
            raise RefusedByRule(
                "A caller with an API key or a workload's token cannot do this: use a password."
            )

    @contextmanager
    def keeping_an_admin(self, *, at_risk: bool = True) -> Iterator[None]:
        """Rule 5, around a write inside a transaction.

        ``at_risk``: whether the write can take anything away that makes a lasting admin, of
        whatever account. What cannot asks nothing.
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
