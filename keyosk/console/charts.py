"""Small charts of the last day, each as one SVG path."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 600
HEIGHT: Final = 100


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        name: Its name, unique on its page.
        title: What it shows.
        description: The same in words, for people who do not see it.
        path: The outline of its area (SVG 2 section 9.3).
        highest: The number at the top of the chart.
    """

    name: str
    title: str
    description: str
    path: str
    highest: str


def chart(name: str, title: str, counts: Sequence[int], *, minutes: int) -> Chart:
    """Draw counts, each over some minutes, as numbers per minute."""
    highest = max(counts, default=0)
    step = WIDTH / max(len(counts), 1)
    path = [f"M0 {HEIGHT}"]
    for index, count in enumerate(counts):
        y = HEIGHT - (HEIGHT - 2) * count / highest if highest else HEIGHT
        # Steps, because a line between points would show numbers that did not occur.
        path.append(f"V{y:.1f}H{(index + 1) * step:.1f}")
    return Chart(
        name=name,
        title=title,
        description=(
            f"{sum(counts)} in all; at most {per_minute(highest, minutes)} per minute, now "
            f"{per_minute(counts[-1] if counts else 0, minutes)}."
        ),
        path="".join((*path, f"V{HEIGHT}Z")),
        highest=per_minute(highest, minutes),
    )


def per_minute(count: int, minutes: int) -> str:
    """Return a count over some minutes as one per minute."""
    rate = count / minutes
    return f"{rate:.0f}" if rate >= 10 or rate == int(rate) else f"{rate:.1f}"
