"""Correcting times of signing keys that were planned by a clock far ahead."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from keyosk import clocks
from keyosk.model import KeyState, SigningKey
from keyosk.revocations import Revocations

_DAY: Final = 86_400
#: The most seconds from publishing to signing.
LONGEST_LIMIT: Final = 90 * _DAY


class KeyLives:
    """Finds and corrects times that are further ahead than they can have been planned.

    Times up to a day ahead stay: such a key signs, is followed or is removed a day later. A
    correction by a clock that is behind after a cold start would shorten its life instead.
    """

    def __init__(self, revocations: Revocations, *, ahead: int, retain: int) -> None:
        """Set the planned times ``ahead`` and ``retain``, in seconds."""
        self._revocations = revocations
        self._ahead = ahead
        self._retain = retain

    def are_wrong(self, keys: Iterable[SigningKey], now: int) -> bool:
        """Return whether a key must be corrected."""
        return any(self.corrected(key, now) != key for key in keys)

    def corrected(self, key: SigningKey, now: int) -> SigningKey:
        """Return the key, corrected if necessary."""
        begins, ended = key.active_from or 0, key.retired_at or 0
        if key.state is KeyState.NEXT:
            longest = max(LONGEST_LIMIT, self._ahead)
            if clocks.is_ahead(begins, now, by=longest + _DAY):
                return replace(key, published_at=now, active_from=now + self._ahead)
        elif key.state is KeyState.ACTIVE:
            if clocks.is_ahead(begins, now, by=_DAY):
                return replace(key, published_at=min(key.published_at, now), active_from=now)
        elif key.state is KeyState.RETIRED and clocks.is_ahead(ended, now, by=_DAY):
            last = now + self._revocations.longest_lifetime() + self._retain
            return replace(key, retired_at=now, gone_at=min(key.gone_at or last, last))
        return key
