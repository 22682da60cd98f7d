"""Failed logins by account and by address, and who is throttled now.

It combines the counts of failed logins (``audit``) with the allowances of attempts that are used up
(``credentials.throttling``). Allowances are stored without usernames, because people type passwords
in that field. They are found by the accounts and addresses of the failed logins.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from keyosk.accounts.accounts import Accounts
from keyosk.audit import Audit
from keyosk.credentials.throttling import Throttling, source_of
from keyosk.model import LoginFailure

#: The largest number of counts (account, address and minute) that are read.
_MOST: Final = 200
#: Rows of each table.
_SHOWN: Final = 20
#: Seconds without a refusal that separate two periods of throttling.
_APART: Final = 600
#: Seconds after which a failed login throttles nobody, with a margin.
_THROTTLED: Final = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedLogins:
    """Failed logins at one account or from one address.

    ``account_id`` and ``address`` are both ``None`` for usernames without an account, or for
    unknown addresses. ``second_factors``: wrong ones after a right password, which are not in
    ``count``.
    """

    account_id: str | None = None
    username: str | None = None
    address: str | None = None
    count: int
    second_factors: int
    last_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottledNow:
    """An allowance without an attempt left until ``until``.

    ``kind``: ``account`` (from all unknown sources), ``source`` (at any account), or
    ``account_and_source``; likewise ``second_factor`` and ``second_factor_and_source``. ``since``:
    the minute of the first refused login, or of the last failed one if none was refused yet.
    """

    kind: str
    account_id: str | None
    username: str | None
    source: str | None
    since: int
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFailureReport:
    """The failed logins since a moment; ``is_complete``: false if there are more than are read."""

    since: int
    is_complete: bool
    throttled: tuple[ThrottledNow, ...]
    accounts: tuple[FailedLogins, ...]
    addresses: tuple[FailedLogins, ...]


class LoginFailureReports:
    """Reads failed logins and throttling for admins."""

    def __init__(
        self,
        audit: Audit,
        throttling: Throttling,
        accounts: Accounts,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._audit = audit
        self._throttling = throttling
        self._accounts = accounts
        self._clock = clock

    def since(self, moment: int) -> LoginFailureReport:
        """Return who failed to log in since a moment, and who is throttled now."""
        now = int(self._clock())
        counted, is_complete = self._audit.failed_logins(moment, _MOST)
        names = self._accounts.usernames(
            {failure.account for failure in counted if failure.account}
        )
        recent = [failure for failure in counted if failure.minute > now - _THROTTLED]
        return LoginFailureReport(
            since=moment,
            is_complete=is_complete,
            throttled=tuple(self._throttled(recent, names)),
            accounts=tuple(
                FailedLogins(
                    account_id=account or None,
                    username=names.get(account),
                    count=count,
                    second_factors=factors,
                    last_at=last,
                )
                for account, count, factors, last in _most(counted, lambda failure: failure.account)
            ),
            addresses=tuple(
                FailedLogins(
                    address=address or None,
                    count=count,
                    second_factors=factors,
                    last_at=last,
                )
                for address, count, factors, last in _most(counted, lambda failure: failure.address)
            ),
        )

    def _throttled(
        self, recent: Collection[LoginFailure], names: Mapping[str, str]
    ) -> Iterable[ThrottledNow]:
        ids = {username: account_id for account_id, username in names.items()}
        used_up = self._throttling.used_up(
            [(names.get(each.account, ""), each.address or None) for each in recent]
        )
        for kind, username, source, until in used_up[:_SHOWN]:
            account_id = ids.get(username) if username else None
            alike = [
                each
                for each in recent
                if (account_id is None or each.account == account_id)
                and (source is None or source_of(each.address or None) == source)
            ]
            yield ThrottledNow(
                kind=kind,
                account_id=account_id,
                username=username,
                source=source,
                since=_began(alike),
                until=until,
            )


def _most(
    counted: Collection[LoginFailure], key: Callable[[LoginFailure], str]
) -> list[tuple[str, int, int, int]]:
    counts: Counter[str] = Counter()
    second_factors: Counter[str] = Counter()
    last: dict[str, int] = {}
    for failure in counted:
        name = key(failure)
        counts[name] += failure.count
        second_factors[name] += failure.second_factors
        last[name] = max(last.get(name, 0), failure.minute)
    # First those with a wrong second factor: the attacker has the password.
    most = sorted(counts, key=lambda name: (-second_factors[name], -counts[name]))
    return [(name, counts[name], second_factors[name], last[name]) for name in most[:_SHOWN]]


def _began(alike: Collection[LoginFailure]) -> int:
    """Return the first minute of the last period of refused logins."""
    minutes = sorted({failure.minute for failure in alike if failure.throttled}, reverse=True)
    if not minutes:
        return max(failure.minute for failure in alike)
    began = minutes[0]
    for minute in minutes:
        if began - minute > _APART:
            break
        began = minute
    return began
