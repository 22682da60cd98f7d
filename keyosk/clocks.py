"""How to read a stored time that a wrong clock may have written.

Every reader of a stored time asks here. The rule: a time further ahead than the program puts times
by the present clock was written by a clock that was ahead, so nothing waits for it. A start at such
a time is now, and a period that it limits is counted from now.
``docs/explanation/clocks.md`` lists every stored time and its treatment.
"""

from typing import Final

#: The most seconds by which the clocks of two nodes may differ.
APART: Final = 2


def is_ahead(moment: int, now: float, *, planned: int = 0) -> bool:
    """Return whether a time was written by a clock that was ahead.

    ``planned``: how many seconds ahead of its clock the program sets it.
    """
    return moment > now + planned + APART


def is_recent(moment: float, now: float, seconds: float) -> bool:
    """Return whether a time is less than ``seconds`` ago; one far ahead is not recent."""
    return abs(now - moment) < seconds
