"""Throttling of password attempts, without locking owners out.

An attempt is counted before the password is verified, and refunded if it was right. It counts for
the account and its source, for the account over all sources, and, if the source had not recently
tried that name, for the names of the source. Unknown names are counted in the same way. Each
allowance permits a number of attempts at once and then one per interval, so that

- one source has at most 15 wrong attempts at an account in any 15 minutes,
- all sources together have at most 30,
- one source tries at most 40 names,

and an attack from elsewhere delays the owner by at most 60 seconds. A source from which the account
logged in before has its own allowance: there the owner is not delayed at all. Codes of a second
factor are counted apart, and in the same way.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from typing import Final, NoReturn

from keyosk import networks
from keyosk.errors import Throttled
from keyosk.storage.database import Database
from keyosk.storage.throttling import Allowance, ThrottlingStore, is_fresh

#: Attempts at once, and milliseconds for one more: in 900 s 12 + 3, 15 + 15, and 25 + 15 names.
_PAIR: Final = (12, 300_000)
_ACCOUNT: Final = (15, 60_000)
_NAMES: Final = (25, 60_000)
#: The same for second factors: in 900 s 6 + 3 from one source, and 10 + 7 from all together.
_CODE_PAIR: Final = (6, 300_000)
_CODE_ACCOUNT: Final = (10, 120_000)
#: Milliseconds for a burst, which also identify the kind of a stored allowance.
ROOMS: Final = {
    kind: at_once * step
    for kind, (at_once, step) in (
        ("account", _ACCOUNT),
        ("source", _NAMES),
        ("account_and_source", _PAIR),
    )
}
#: An IPv6 client has a whole network of this length to itself (RFC 6177).
_IPV6_PREFIX: Final = 64
#: The prefix of a source that a proxy names without its address.
_NAMED: Final = "unknown/"
#: The number of attempts between two deletions of allowances that are unused again.
_FORGET_EVERY: Final = 200


@dataclass(frozen=True, slots=True)
class Attempt:
    """A counted attempt at a password.

    ``is_noted``: whether a login from its source was noted a short while ago.
    """

    allowances: tuple[Allowance, ...]
    source: str
    is_noted: bool


class Throttling:
    """Counts attempts at passwords."""

    def __init__(
        self, database: Database, store: ThrottlingStore, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._taken = 0

    def admit(self, name: str, address: str | None, *, seen_at: int | None) -> Attempt:
        """Count an attempt at a username from an address.

        Args:
            name: The username in its normal form; empty for all names that no account can have.
            address: Where the login comes from.
            seen_at: When the account logged in from there, as ``seen_at`` returns it.

        Raises:
            Throttled: There were too many attempts.
        """
        source, now = source_of(address), self._now()
        pair = _allowance(_PAIR, "pair", name, source)
        allowances = [pair]
        if seen_at is None:
            # An impossible username has no owner to protect from all sources together.
            if name:
                allowances.append(_allowance(_ACCOUNT, "account", name))
            # Clients without a known address are not counted together: one would lock out all.
            if source and not self._store.used([pair.key], now):
                allowances.append(_allowance(_NAMES, "names", source))
        taken = self._store.admit(allowances, now)
        self._forget_sometimes(now)
        if len(taken) < len(allowances):
            self._refuse(allowances, taken, now)
        return Attempt(tuple(allowances), source, is_fresh(seen_at, now))

    def seen_at(self, name: str, address: str | None) -> int | None:
        """Return when the account with this username logged in from an address, if it ever did."""
        return self._store.seen_at(name, source_of(address))

    def admit_code(self, username: str, address: str | None) -> Attempt:
        """Count an attempt at the second factor of an account whose password was right.

        Raises ``Throttled``.
        """
        now = self._now()
        source = _code_source(address)
        seen_at = self._store.seen_at(username, source)
        allowances = [_allowance(_CODE_PAIR, "code pair", username, source)]
        if seen_at is None:
            allowances.append(_allowance(_CODE_ACCOUNT, "code account", username))
        taken = self._store.admit(allowances, now)
        if len(taken) < len(allowances):
            self._refuse(allowances, taken, now)
        return Attempt(tuple(allowances), source, is_fresh(seen_at, now))

    def refund(self, attempts: Sequence[Attempt], account_id: str) -> None:
        """Take back the attempts of a login whose last attempt was right.

        From now on their source is a known source of the account. Raises ``BadCredentials`` if the
        account was deleted meanwhile.
        """
        taken = [allowance for attempt in attempts for allowance in attempt.allowances]
        if attempts[-1].is_noted and len(taken) == 1:
            # The usual login, from a known source: one statement, which is its own transaction.
            self._store.refund(taken)
            return
        with self._database.transaction():
            self._store.refund(taken)
            if not attempts[-1].is_noted:
                self._store.trust_source(account_id, attempts[-1].source, self._now())

    def used_up(
        self, attempts: Collection[tuple[str, str | None]]
    ) -> list[tuple[str, str | None, str | None, int]]:
        """Return the allowances of these attempts that are used up, the longest first.

        Args:
            attempts: Usernames, empty for those of no account, with the addresses they came from.

        Returns:
            The kind as in ``ROOMS``, or with ``second_factor`` in place of ``account``, the
            username, the source, and when there is one again.
        """
        now = self._now()
        found: dict[tuple[str, str | None, str | None], Allowance] = {}
        for name, address in attempts:
            source = source_of(address)
            if name:
                found["account", name, None] = _allowance(_ACCOUNT, "account", name)
                pair = _allowance(_PAIR, "pair", name, source)
                found["account_and_source", name, source or None] = pair
                code = _allowance(_CODE_ACCOUNT, "code account", name)
                found["second_factor", name, None] = code
                pair = _allowance(_CODE_PAIR, "code pair", name, _code_source(address))
                found["second_factor_and_source", name, source or None] = pair
            if source:
                found["source", None, source] = _allowance(_NAMES, "names", source)
        used = self._store.used({each.key for each in found.values()}, now)
        over = [
            (used.get(each.key, 0) + each.step - each.room, kind, name, source)
            for (kind, name, source), each in found.items()
        ]
        return [
            (kind, name, source, -(-(now + left) // 1000))
            for left, kind, name, source in sorted(over, key=lambda each: -each[0])
            if left > 0
        ]

    def _refuse(self, allowances: list[Allowance], taken: frozenset[str], now: int) -> NoReturn:
        with self._database.transaction():
            self._store.refund([allowance for allowance in allowances if allowance.key in taken])
            self._store.date_back(
                [allowance.key for allowance in allowances if allowance.key not in taken], now
            )
        full = {allowance.key: allowance for allowance in allowances if allowance.key not in taken}
        used = self._store.used(full, now)
        wait = max(
            used.get(key, 0) + allowance.step - allowance.room for key, allowance in full.items()
        )
        raise Throttled(max(1, -(-wait // 1000)))

    def _forget_sometimes(self, now: int) -> None:
        self._taken += 1
        if self._taken % _FORGET_EVERY == 0:
            self._store.forget(now)

    def _now(self) -> int:
        return int(self._clock() * 1000)


def source_of(address: str | None) -> str:
    """Return the source of an address: itself, or the network of an IPv6 client."""
    if address is not None and address.startswith(_NAMED):
        return address  # a proxy hides the address, but distinguishes clients
    try:
        source = networks.address(address or "")
    except ValueError:
        return ""  # a Unix socket, or what no proxy could tell
    if isinstance(source, IPv6Address):
        return str(ip_network((int(source), _IPV6_PREFIX), strict=False))
    return str(source)


def _code_source(address: str | None) -> str:
    """Return the name of the source of a second factor."""
    # SECURITY: only a right code makes a source known for codes. A right password does not, because
    # somebody who guesses codes has it.
    named = hashlib.sha256(source_of(address).encode("utf-8", "surrogatepass")).hexdigest()
    return f"code/{named[:32]}"


def _allowance(rate: tuple[int, int], *parts: str) -> Allowance:
    at_once, step = rate
    # SECURITY: hashed, because people type their password into the field for the username.
    key = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return Allowance(key, step, at_once * step)
