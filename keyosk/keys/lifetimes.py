"""The times of a signing key's life: as they are planned, and corrected after a wrong clock."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from keyosk import clocks
from keyosk.model import KeyState, SigningKey
from keyosk.revocations import Revocations

_DAY: Final = 86_400
#: The most seconds from publishing to signing.
LONGEST_LIMIT: Final = 90 * _DAY


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """The times of a key's life in seconds; ``rotate_every`` is 0 without scheduled rotations."""

    publish_ahead: int
    retain: int
    rotate_every: int


class KeyLives:
    """Plans times, and corrects those that are further ahead than they can have been planned.

    Times up to a day ahead stay: such a key signs, is followed or is removed a day later. A
    correction by a clock that is behind after a cold start would shorten its life instead.
    """

    def __init__(self, revocations: Revocations, policy: KeyPolicy) -> None:
        self._revocations = revocations
        self._policy = policy

    def gone_at(self, now: int) -> int:
        """Return when a key that signs until ``now`` is removed."""
        return now + self._revocations.longest_lifetime() + self._policy.retain

    def are_wrong(self, keys: Iterable[SigningKey], now: int) -> bool:
        """Return whether a key must be corrected."""
        return any(self.corrected(key, now) != key for key in keys)

    def corrected(self, key: SigningKey, now: int) -> SigningKey:
        """Return the key, corrected if necessary."""
        begins, ended = key.active_from or 0, key.retired_at or 0
        ahead = self._policy.publish_ahead
        if key.state is KeyState.NEXT:
            if clocks.is_ahead(begins, now, planned=max(LONGEST_LIMIT, ahead) + _DAY):
                return replace(key, published_at=now, active_from=now + ahead)
        elif key.state is KeyState.ACTIVE:
            if clocks.is_ahead(begins, now, planned=_DAY):
                return replace(key, published_at=min(key.published_at, now), active_from=now)
        elif key.state is KeyState.RETIRED and clocks.is_ahead(ended, now, planned=_DAY):
            last = self.gone_at(now)
            return replace(key, retired_at=now, gone_at=min(key.gone_at or last, last))
        return key
