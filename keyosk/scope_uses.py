"""When the tokens of an account last had each scope, and which scopes it does not use.

It owns the last day on which a token of an account had a scope, and the last one on which a request
named the scope. It does not own what a service did with a token: services verify tokens offline,
and Keyosk does not learn of it. The exception is its own API: a scope that let a request pass
counts as named.

No request waits for it: a request notes new uses in memory, and the thread that writes ``activity``
writes them too. If a process dies, the uses that it did not write are lost.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from keyosk.model import ADMIN, KEYOSK_SCOPES, AccountScopes, HeldScope
from keyosk.storage.scope_uses import ScopeUseStore

DAY: Final = 86_400
#: The most accounts that one page looks at, so that a page with few results ends, too.
LOOKED_AT: Final = 1_000
#: The most uses that a process remembers, at 150 bytes each; others are noted at their next use.
_MOST: Final = 50_000
_ISSUED: Final = 1
#: A use by a request that named the scope.
NAMED: Final = 2


class ScopeUses:
    """Notes which scopes are used, and finds those that are not."""

    def __init__(self, store: ScopeUseStore, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._day = int(clock()) // DAY
        #: The uses noted today, by account and scope: ``_ISSUED`` or ``NAMED``.
        self.noted: dict[tuple[str | None, str], int] = {}
        self._waiting: dict[tuple[str, str], int] = {}

    def note(self, account_id: str, scopes: Iterable[str], *, named: bool) -> None:
        """Note that a token has the scopes. ``named``: the request named them."""
        # Every token passes here: no call except into C for known uses.
        noted, kind = self.noted.get, NAMED if named else _ISSUED
        for scope in scopes:
            if noted((account_id, scope), 0) < kind:
                self._add(account_id, scope, kind)

    def _add(self, account_id: str, scope: str, kind: int) -> None:
        key = (account_id, sys.intern(scope))
        with self._lock:
            if len(self._waiting) < _MOST:
                self.noted[key] = self._waiting[key] = max(kind, self.noted.get(key, 0))

    def write(self) -> None:
        """Store the uses since the last call.

        Raises ``Unavailable``; they then wait for the next call.
        """
        day = int(self._clock()) // DAY
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            if day != self._day or len(self.noted) > _MOST:
                self.noted, self._day = {}, day
        try:
            self._store.note({key: kind == NAMED for key, kind in waiting.items()}, day)
        except BaseException:
            with self._lock:
                for key, kind in waiting.items():
                    self._waiting[key] = max(kind, self._waiting.get(key, 0))
            raise

    def of_account(self, account_id: str) -> tuple[HeldScope, ...]:
        """Return the scopes that an account holds now, by name, and when they were used."""
        held = self._store.held(account_id, now=int(self._clock()))
        return self._with_implied(account_id, held, self._uses_of_own([(account_id, held)]))

    def unused(
        self,
        days: int,
        *,
        limit: int,
        after: str = "",
        named: bool = False,
        service: str | None = None,
        scope: str | None = None,
    ) -> tuple[list[AccountScopes], str | None]:
        """Return enabled accounts with scopes that they did not use in the last ``days`` days.

        Scopes that they have held for a shorter time do not count. ``named``: only scopes that a
        request named count as used. ``after``: begin after this account. Also returns the account
        to go on after, ``None`` at the end; an empty page need not be the last.
        """
        now = int(self._clock())
        since = now // DAY - days
        accounts, following = self._store.unused(
            after,
            now=now,
            held_before=now - days * DAY,
            since=since,
            named=named,
            service=service,
            scope=scope,
            limit=limit,
            looked_at=LOOKED_AT,
        )
        uses = self._uses_of_own([(each.id, each.scopes) for each in accounts])
        unused = []
        for account in accounts:
            scopes = tuple(
                each
                for each in self._with_implied(account.id, account.scopes, uses)
                if ((each.named_on if named else each.issued_on) or 0) < since
            )
            if scopes:
                unused.append(replace(account, scopes=scopes))
        return unused, following

    def _uses_of_own(
        self, held: Iterable[tuple[str, Iterable[HeldScope]]]
    ) -> Mapping[str, Mapping[str, int]]:
        """Return when the holders of ``keyosk:admin`` last used a scope that it implies."""
        admins = [
            account for account, scopes in held if any(scope.name == ADMIN for scope in scopes)
        ]
        return self._store.used(admins, KEYOSK_SCOPES)

    def _with_implied(
        self,
        account_id: str,
        scopes: tuple[HeldScope, ...],
        uses: Mapping[str, Mapping[str, int]],
    ) -> tuple[HeldScope, ...]:
        """Count the use of an implied scope as a use of ``keyosk:admin``."""
        own = uses.get(account_id)
        if own is None:
            return scopes
        issued_on, named_on = own["issued_on"] or None, own["named_on"] or None
        return tuple(
            replace(scope, issued_on=issued_on, named_on=named_on) if scope.name == ADMIN else scope
            for scope in scopes
        )
