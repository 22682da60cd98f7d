"""What a stored moment is worth where a clock is wrong, or was.

Whatever reads a moment that this program wrote asks here. The rule: one that lies further ahead
than the program could have put it by the clock of now was written by a clock that was ahead; it
binds nobody until then. What it was to begin begins now, what it was to bound is bounded from now.
``docs/explanation/clocks.md`` lists every stored moment and what becomes of it.
"""

from typing import Final

#: Seconds that the clocks of two nodes are apart at the most where nothing is wrong.
APART: Final = 2


def is_ahead(moment: int, now: float, *, by: int = 0) -> bool:
    """Return whether a moment was written by a clock that was ahead.

    ``by``: the seconds that the program itself puts it ahead of its clock.
    """
    return moment > now + by + APART


def is_recent(moment: float, now: float, seconds: float) -> bool:
    """Whether less than ``seconds`` have passed since a moment; one far ahead is not recent."""
    return abs(now - moment) < seconds
