"""Who is being guessed at, from where, and who is throttled now.

It puts together what is counted of failed logins (``audit``) and which allowances of attempts are
used up (``credentials.throttling``). Allowances have no names, which may be passwords in the wrong
place; they are found by the accounts and addresses that failed logins were counted for.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from keyosk.accounts.accounts import Accounts
from keyosk.audit import Audit
from keyosk.credentials.throttling import Throttling, source_of
from keyosk.model import LoginFailure

#: Counts of one account, address and minute that are looked at.
_MOST: Final = 200
#: Rows of each table.
_SHOWN: Final = 20
#: Seconds without a refusal after which being throttled begins anew.
_APART: Final = 600
#: Seconds after which nobody is throttled for a failed login any more, with some to spare.
_THROTTLED: Final = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Guessed:
    """Failed logins at one account or from one address.

    ``account_id`` and ``address`` are both ``None`` for names that no account has, or for places
    that nobody could tell. ``second_factors``: wrong ones after a right password, which are not in
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
    """An allowance that gives no attempt until ``until``.

    ``kind``: ``account`` (from anywhere it is not known at), ``source`` (at any account), or
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
class LoginFailures:
    """What failed since a moment; ``is_complete``: false if there was more than is looked at."""

    since: int
    is_complete: bool
    throttled: tuple[ThrottledNow, ...]
    accounts: tuple[Guessed, ...]
    addresses: tuple[Guessed, ...]


class LoginFailureViews:
    """Reads them."""

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

    def since(self, moment: int) -> LoginFailures:
        """Return who failed to log in since a moment, and who is throttled now."""
        now = int(self._clock())
        counted, is_complete = self._audit.failed_logins(moment, _MOST)
        names = self._accounts.usernames({each.account for each in counted if each.account})
        recent = [each for each in counted if each.minute > now - _THROTTLED]
        return LoginFailures(
            since=moment,
            is_complete=is_complete,
            throttled=tuple(self._throttled(recent, names)),
            accounts=tuple(
                Guessed(
                    account_id=account or None,
                    username=names.get(account),
                    count=count,
                    second_factors=factors,
                    last_at=last,
                )
                for account, count, factors, last in _most(counted, lambda each: each.account)
            ),
            addresses=tuple(
                Guessed(
                    address=address or None,
                    count=count,
                    second_factors=factors,
                    last_at=last,
                )
                for address, count, factors, last in _most(counted, lambda each: each.address)
            ),
        )

    def _throttled(
        self, recent: Collection[LoginFailure], names: Mapping[str, str]
    ) -> Iterable[ThrottledNow]:
        ids = {username: account_id for account_id, username in names.items()}
        found = self._throttling.used_up(
            [(names.get(each.account, ""), each.address or None) for each in recent]
        )
        for kind, username, source, until in found[:_SHOWN]:
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
    for each in counted:
        name = key(each)
        counts[name] += each.count
        second_factors[name] += each.second_factors
        last[name] = max(last.get(name, 0), each.minute)
    # Whoever shows a wrong second factor has the password: they come first.
    most = sorted(counts, key=lambda name: (-second_factors[name], -counts[name]))
    return [(name, counts[name], second_factors[name], last[name]) for name in most[:_SHOWN]]


def _began(alike: Collection[LoginFailure]) -> int:
    """The first minute of refused logins without a longer pause up to the last one."""
    minutes = sorted({each.minute for each in alike if each.throttled}, reverse=True)
    if not minutes:
        return max(each.minute for each in alike)
    began = minutes[0]
    for minute in minutes:
        if began - minute > _APART:
            break
        began = minute
    return began
