"""The tables: on the terminal, as JSON, and in docs/reference/growth.md."""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import axes

import nodes

_ROOT: Final = Path(__file__).parent.parent.parent
_LATEST: Final = _ROOT / "build/growth.json"
_PUBLISHED: Final = _ROOT / "docs/reference/growth.json"
_PAGE: Final = _ROOT / "docs/reference/growth.md"
_BEGIN: Final = "<!-- made by `make growth ARGS=--publish` -->\n"
_END: Final = "<!-- end -->\n"


@dataclass(frozen=True)
class Table:
    """What was measured along one axis on one database."""

    title: str
    database: str
    sizes: list[int]
    rows: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        title: str,
        database: str,
        *,
        sizes: Sequence[int],
        measured: Sequence[axes.Measured],
    ) -> Self:
        """The figures of each row, and whether its target is met."""
        rows = [
            {
                "name": measurement.row.name,
                "unit": measurement.row.unit,
                "figures": measurement.figures,
                "ratios": measurement.ratios,
                "target": _target(measurement.row),
                "met": _met(measurement),
            }
            for measurement in measured
        ]
        return cls(title, database, list(sizes), rows)

    def text(self) -> str:
        """The table for a terminal."""
        lines = [f"\n{self.title}, {self.database}", f"{'':48}" + self._head("{:>20}")]
        for row in self.rows:
            cells = "".join(f"{cell:>20}" for cell in _cells(row))
            lines.append(
                f"{row['name'] + ', ' + row['unit']:48}{cells}  {row['target']} {_verdict(row)}"
            )
        return "\n".join(lines)

    def markdown(self) -> list[str]:
        """The table for a page."""
        head = " | ".join(f"{size:,}" for size in self.sizes)
        lines = [
            f"**{self.title.capitalize()}, {self.database}**",
            "",
            f"| | {head} | target | |",
            "| --- |" + " ---: |" * len(self.sizes) + " --- | --- |",
        ]
        for row in self.rows:
            cells = " | ".join(_cells(row))
            path, comma, rest = row["name"].partition(",")
            name = f"`{path}`{comma}{rest}" if path.startswith("/") else row["name"]
            lines.append(f"| {name}, {row['unit']} | {cells} | {row['target']} | {_verdict(row)} |")
        return [*lines, ""]

    def _head(self, form: str) -> str:
        return "".join(form.format(f"{size:,}") for size in self.sizes)


def write(tables: Sequence[Table], arguments: argparse.Namespace, *, publish: bool) -> None:
    """Write build/growth.json; ``publish``: also the published file, and the page from it.

    Tables that were published before and not measured now stay.
    """
    about = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rounds": arguments.rounds,
    }
    measured = [asdict(table) for table in tables]
    _LATEST.parent.mkdir(exist_ok=True)
    _LATEST.write_text(json.dumps({"about": about, "tables": measured}, indent=1) + "\n")
    if not publish:
        return
    published = json.loads(_PUBLISHED.read_text()) if _PUBLISHED.exists() else {}
    earlier = published.get("tables", [])
    about["rounds"] = min(arguments.rounds, published.get("about", about)["rounds"])
    named = {(each["database"], each["title"]): each for each in (*earlier, *measured)}
    order = [*(axis.title for axis in axes.ALL.values()), nodes.TITLE]
    every = sorted(
        named.values(), key=lambda each: (order.index(each["title"]), each["database"] != "SQLite")
    )
    _PUBLISHED.write_text(json.dumps({"about": about, "tables": every}, indent=1) + "\n")
    write_page()


def write_page() -> None:
    """Put the published figures into docs/reference/growth.md, between its two marks."""
    published = json.loads(_PUBLISHED.read_text())
    about = published["about"]
    lines = [
        f"Last measured on {about['date']} on {about['cores']} cores, Python {about['python']}; "
        f"medians of {about['rounds']} rounds or more.",
        "",
    ]
    for each in published["tables"]:
        lines += Table(**each).markdown()
    before, _, rest = _PAGE.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    _PAGE.write_text(before + _BEGIN + "\n" + "\n".join(lines) + _END + after)


def _cells(row: dict[str, Any]) -> list[str]:
    cells = []
    for place, (figure, ratio) in enumerate(zip(row["figures"], row["ratios"], strict=True)):
        share = "" if place == 0 else f" ({ratio:.2f}x)"
        cells.append(f"{figure:,.0f}{share}")
    return cells


def _target(row: axes.Row) -> str:
    if row.least is not None:
        return f">= {row.least:,.0f}"
    return "" if row.limit is None else f"<= {row.limit:g}x"


def _met(measured: axes.Measured) -> bool | None:
    row = measured.row
    if row.least is not None:
        return min(measured.figures) >= row.least
    return None if row.limit is None else max(measured.ratios) <= row.limit


def _verdict(row: dict[str, Any]) -> str:
    return "" if row["met"] is None else "met" if row["met"] else "missed"
