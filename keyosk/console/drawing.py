"""Layout of SVG pictures for pages, which need no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from keyosk.times import rfc3339, seconds

#: The width of a picture in its own units.
WIDTH: Final = 1000
#: The number of past keys on a time line.
_PAST: Final = 3
_DAY: Final = 86_400
#: Characters of a name in a box, and the places of boxes of services, in units of their picture.
_FITTING: Final = 17
_ROW: Final = 40
_BOX: Final = 140
_COLUMNS: Final = (0, 170, 340)
#: The most boxes on each side; the text lists all.
_MOST: Final = 8


@dataclass(frozen=True, slots=True)
class Life:
    """The life of a signing key: start and width of the published and signing periods."""

    kid: str
    state: str
    published: tuple[int, int]
    signing: tuple[int, int] | None
    words: str


@dataclass(frozen=True, slots=True)
class TimeLine:
    """The lives of signing keys on one scale."""

    begin: str
    end: str
    now: int
    lives: tuple[Life, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A service in a picture: its top left corner, and the end of its line to the middle."""

    name: str
    label: str
    x: int
    y: int
    line: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Exchanges:
    """A service in the middle, with the services whose tokens it exchanges, on either side."""

    height: int
    boxes: tuple[Box, ...]


def time_line(keys: Sequence[Mapping[str, Any]], now: float) -> TimeLine | None:
    """Return the lives of the published keys and of the latest past ones."""
    past = [key for key in keys if key["state"] not in ("next", "active", "retired")][-_PAST:]
    visible = [key for key in keys if key["state"] in ("next", "active", "retired") or key in past]
    if not visible:
        return None
    moments = [int(now) + _DAY]
    for key in visible:
        names = ("published_at", "active_from", "retired_at", "gone_at")
        moments += [seconds(key[name]) for name in names if key[name]]
    begin, end = min(moments), max(moments)

    def place(moment: float) -> int:
        return max(0, min(WIDTH, round((moment - begin) * WIDTH / max(1, end - begin))))

    def span(since: str, until: str | None) -> tuple[int, int]:
        start = place(seconds(since))
        return start, max(4, place(end if until is None else seconds(until)) - start)

    lives = [
        Life(
            kid=key["kid"],
            state=key["state"],
            published=span(key["published_at"], key["gone_at"]),
            signing=(
                span(key["active_from"], key["retired_at"] or key["gone_at"])
                if key["active_from"] and key["state"] != "compromised"
                else None
            ),
            words=_words(key),
        )
        for key in visible
    ]
    return TimeLine(rfc3339(begin), rfc3339(end), place(now), tuple(lives))


def exchanges(name: str, incoming: Sequence[str], outgoing: Sequence[str]) -> Exchanges | None:
    """Return the picture of a service's exchanges, if there are any."""
    if not incoming and not outgoing:
        return None
    left, right = incoming[:_MOST], outgoing[:_MOST]
    rows = max(len(left), len(right))
    middle = (rows - 1) * _ROW // 2
    boxes = [_box(name, _COLUMNS[1], middle)]
    for number, each in enumerate(left):
        y = _row(number, len(left), rows)
        line = (_COLUMNS[0] + _BOX, y + 15, _COLUMNS[1] - 6, middle + 15)
        boxes.append(_box(each, _COLUMNS[0], y, line=line))
    for number, each in enumerate(right):
        y = _row(number, len(right), rows)
        line = (_COLUMNS[1] + _BOX, middle + 15, _COLUMNS[2] - 6, y + 15)
        boxes.append(_box(each, _COLUMNS[2], y, line=line))
    return Exchanges(rows * _ROW, tuple(boxes))


def _row(number: int, count: int, rows: int) -> int:
    """Return the vertical position of a box, centred if there are few."""
    return (rows - count) * _ROW // 2 + number * _ROW


def _box(name: str, x: int, y: int, *, line: tuple[int, int, int, int] | None = None) -> Box:
    label = name if len(name) <= _FITTING else f"{name[: _FITTING - 1]}…"
    return Box(name, label, x, y, line)


def _words(key: Mapping[str, Any]) -> str:
    words = [f"published {_day(key['published_at'])}"]
    if key["active_from"]:
        words.append(f"signs from {_day(key['active_from'])}")
    if key["retired_at"]:
        words.append(f"until {_day(key['retired_at'])}")
    if key["gone_at"]:
        words.append(f"gone {_day(key['gone_at'])}")
    return ", ".join(words)


def _day(moment: str) -> str:
    return f"{moment[:10]} {moment[11:16]}"
