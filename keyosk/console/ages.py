"""The age of a time, and the time that is left until one, in words."""

from typing import Final

from keyosk import times

_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def left(moment: str, now: float) -> str:
    """Return the time that is left until a time of the API."""
    seconds = times.seconds(moment) - int(now)
    return "over" if seconds <= 0 else f"in {_words(seconds)}"


def age(moment: str, now: float) -> str:
    """Return the age of a time of the API."""
    seconds = int(now) - times.seconds(moment)
    return "just now" if seconds < 60 else f"{_words(seconds)} ago"


def _words(seconds: int) -> str:
    """Return a duration in its two largest units."""
    first = next(place for place, (size, _) in enumerate(_UNITS) if seconds >= size)
    words = []
    for size, unit in _UNITS[first : first + 2]:
        count, seconds = divmod(seconds, size)
        if count:
            words.append(f"{count} {unit}{'' if count == 1 else 's'}")
    return " ".join(words)
